"""What `mkdocs build` adds to docs/: pages that are made from the code, and the files at the root.

recipes.md               every preset: its parts, stages, what it is measured on, examples of that
recipes/TASK.png         a scene of the miniature world that is asked about, for recipes.md
studies/                 RESULTS.md with its figure, and the report of each study
reference/options.md     every key of a recipe, as `lucida explain` has it
reference/commands.md    every verb with its options
notebooks/NAME.md        the notebooks as they were run, with what each cell gave
index.md, architecture.md, log.md   README.md, ARCHITECTURE.md and LOG.md, their links turned
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lucida.core.fields import Shape, shape

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
AT_ROOT = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "LOG.md": "log.md"}
"""Files that become pages."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file in docs/ holds."""
    from mkdocs.structure.files import File

    pages = {page: turn_links(read(name)) for name, page in AT_ROOT.items()}
    pages |= {
        "recipes.md": "".join(list_recipes()),
        "reference/options.md": "".join(list_options()),
        "reference/commands.md": "".join(list_commands()),
    }
    for book in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{book.stem}.md"] = "\n".join(read_notebook(book))
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for task in sorted(drawn_tasks()):
        files.append(File.generated(config, f"recipes/{task}.png", content=draw_example(task)[0]))
    for name in ("RESULTS.md", "summary.svg", "*/report.md", "*/report.html"):
        for file in sorted((ROOT / "studies").glob(name)):
            place = file.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from docs/ to the root, turned to the pages that stand for it."""
    for name, page in AT_ROOT.items():
        markdown = markdown.replace(f"](../{name})", f"]({page})")
    return markdown


def read_notebook(file: Path) -> Iterator[str]:
    """A notebook as Markdown: its words, its code, and below that what it gave."""
    for number, cell in enumerate(json.loads(file.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"{source}\n"
            if number == 0:
                yield f"As a notebook: [{file.name}]({file.name}).\n"
            continue
        yield f"```python\n{source}\n```\n"
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                yield f"![](data:image/png;base64,{''.join(data['image/png']).strip()})\n"
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                yield f"```{{.text .wrapped}}\n{text}\n```\n"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def turn_links(text: str) -> str:
    """Links of a file at the root, as they are from docs/."""
    text = text.replace("](docs/", "](")
    for name, page in AT_ROOT.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text


def list_recipes() -> Iterator[str]:
    """The gallery: a family a section, a recipe a block."""
    from lucida.core.recipe import dump_recipe, load_recipe, presets

    known = presets()
    first = ["mini", "real-mini"]  # where to begin; the others in the order of their names
    known = {name: known[name] for name in [*first, *(n for n in known if n not in first)]}
    yield "# Recipes\n\n`lucida train NAME` trains one, `lucida show NAME` prints it whole, and a "
    yield "file with `base: NAME` and `changes` differs from it.\n"
    for family in dict.fromkeys(preset.family for preset in known.values()):
        yield f"\n## {family or 'Small ones, which train on a laptop'}\n"
        for name in (name for name, preset in known.items() if preset.family == family):
            recipe = load_recipe(name)
            yield f"\n### {name} {{ #{re.sub('[^a-z0-9]+', '-', name.lower())} }}\n\n"
            yield f"{recipe.description}\n\n"
            yield from describe(recipe)
            yield from show_examples(recipe)
            yield '\n??? note "The whole recipe"\n\n    ```yaml\n'
            yield re.sub("^", "    ", dump_recipe(recipe).rstrip(), flags=re.MULTILINE)
            yield "\n    ```\n"


def describe(recipe: object) -> Iterator[str]:
    """Lines of a list: what is taken, what trains, what is measured."""
    model = recipe.model
    eyes = [] if model.vision is None else [model.vision, *model.vision.more]
    rows = {
        "encoder": ", ".join(f"`{each.path}`" for each in eyes) or "none",
        "pictures": f"`{model.image.policy}`",
        "projector": f"`{model.projector.kind}`",
        "language model": f"`{model.language.path}`" if model.language else "",
    }
    for stage in recipe.stages:
        what = ", ".join(f"{part} {rate}" for part, rate in stage.train.items() if rate)
        sources = ", ".join(f"`{name}`" for name in stage.mixture.sources)
        rows[f"stage {stage.name}"] = f"trains {what or 'adapters'}; on {sources}"
    rows["measured on"] = ", ".join(f"`{name}`" for name in recipe.evaluation.names)
    rows["numbers from"] = recipe.provenance
    for key, value in rows.items():
        if value:
            yield f"- {key}: {value}\n"


@cache
def drawn_tasks() -> frozenset[str]:
    """The tasks of the miniature world that some recipe is measured on."""
    from lucida.core.recipe import load_recipe, presets
    from lucida.world.tasks import TASKS

    names = {name for preset in presets() for name in load_recipe(preset).evaluation.names}
    return frozenset(names & TASKS.keys())


@cache
def draw_example(task: str) -> tuple[bytes, str, str]:
    """The first scene of a task's test part as PNG, a question about it and the answer."""
    from lucida.data.sources.world import scene_source
    from lucida.world.tasks import TASKS

    item = TASKS[task].item(0, "test", 0, 1, 64)
    asked = item.exchanges[0]
    picture = scene_source(item.scenes[0]).load()
    file = io.BytesIO()
    picture.resize((2 * picture.width, 2 * picture.height)).save(file, "PNG")
    return file.getvalue(), asked.question, "a box" if asked.box else asked.answer


def show_examples(recipe: object) -> Iterator[str]:
    """What a recipe is measured on, as pictures with a question and its answer each."""
    tasks = [name for name in recipe.evaluation.names if name in drawn_tasks()]
    if not tasks:
        return
    yield '\n<div class="gallery">\n'
    for task in tasks:
        _, question, answer = (html.escape(str(each)) for each in draw_example(task))
        yield f'<figure><img src="{task}.png" alt="a scene asked about {task}">'
        yield f"<figcaption><b>{task}</b><br>{question}<br><i>{answer}</i></figcaption></figure>\n"
    yield "</div>\n"


def list_keys(accepted: Shape, place: str, seen: set[type]) -> Iterator[str]:
    """Keys of a recipe that have others below them; what was `seen` at another key is left out."""
    if place:
        yield place
    seen |= set(accepted.specs.values())
    for name, info in accepted.fields().items():
        below = shape(info.annotation)
        inside = below.items if below.items is not None else below.values
        below = below if inside is None else shape(inside)
        if set(below.specs.values()) - seen:
            yield from list_keys(below, f"{place}.{name}".strip("."), seen)


def list_options() -> Iterator[str]:
    """What `lucida explain` says of each part of a recipe, as lists."""
    from lucida.core.recipe import explain
    from lucida.core.spec import Recipe

    yield "# Recipe options\n\nAs `lucida explain KEY` prints them; every default stands once, in "
    yield "`lucida.core.spec`.\n"
    for key in list_keys(shape(Recipe), "", set()):
        yield f"\n## {key}\n"
        for block in explain(key).strip().split("\n\n"):
            first, *more = block.splitlines()
            name, _, rest = first.strip().partition(": ")
            words = spell(" ".join(line.strip() for line in more))
            if first.startswith("  "):
                yield f"\n- **`{name}`** {spell(rest)}" + (f"\n\n    {words}\n" if words else "\n")
            elif first.startswith("kind: "):
                yield f"\n**kind: `{rest}`** {words}\n"
            else:
                yield f"\n{spell(first)} {words}\n"


def spell(text: str) -> str:
    """Text whose signs mean nothing in Markdown, except its code."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", p) for p in parts)


def list_commands() -> Iterator[str]:
    """Every verb as its `--help` has it."""
    from typer.testing import CliRunner

    from lucida.apps.cli import app

    yield "# Command line\n\nExit codes: 0 done, 1 a mistake that is told, 2 a command line that "
    yield "cannot be understood, 130 stopped by a signal.\n"
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"})

    def tell(words: list[str], group: typer.Typer) -> Iterator[str]:
        for command in group.registered_commands:
            name = command.name or command.callback.__name__.replace("_", "-")
            if not command.hidden:
                yield from told([*words, name])
        for inner in group.registered_groups:
            yield from tell([*words, str(inner.name)], inner.typer_instance)

    def told(words: list[str]) -> Iterator[str]:
        text = runner.invoke(app, [*words, "--help"], prog_name="lucida").output.rstrip()
        yield f"\n## lucida {' '.join(words)}\n\n```{{.text .wrapped}}\n{text}\n```\n"

    yield from tell([], app)
