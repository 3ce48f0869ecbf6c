"""What `mkdocs build` adds to docs/: pages that are made from the code, and the files at the root.

recipes.md               every preset with its parts, stages and what it is measured on
reference/options.md     every key of a recipe, as `lucida explain` has it
reference/commands.md    every verb with its options
index.md, architecture.md, log.md   README.md, ARCHITECTURE.md and LOG.md, their links turned
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
AT_ROOT = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "LOG.md": "log.md"}
"""Files that become pages."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file in docs/ holds."""
    pages = {page: turn_links(read(name)) for name, page in AT_ROOT.items()}
    pages |= {
        "recipes.md": "".join(list_recipes()),
        "reference/options.md": "".join(list_options()),
        "reference/commands.md": "".join(list_commands()),
    }
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from docs/ to the root, turned to the pages that stand for it."""
    for name, page in AT_ROOT.items():
        markdown = markdown.replace(f"](../{name})", f"]({page})")
    return markdown


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
    yield "# Recipes\n\n`lucida train NAME` trains one, `lucida show NAME` prints it whole, and a "
    yield "file with `base: NAME` and `changes` differs from it.\n"
    for family in dict.fromkeys(preset.family for preset in known.values()):
        yield f"\n## {family or 'Small ones, which train on a laptop'}\n"
        for name in (name for name, preset in known.items() if preset.family == family):
            recipe = load_recipe(name)
            yield f"\n### {name} {{ #{re.sub('[^a-z0-9]+', '-', name.lower())} }}\n\n"
            yield f"{recipe.description}\n\n"
            yield from describe(recipe)
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


def list_options() -> Iterator[str]:
    """What `lucida explain` says of each part of a recipe."""
    from lucida.core.recipe import explain

    yield "# Recipe options\n\nAs `lucida explain KEY` prints them; every default stands once, in "
    yield "`lucida.core.spec`.\n"
    keys = ("model", "model.vision", "model.image", "model.projector", "model.language")
    for key in (*keys, "stages", "stages.mixture", "evaluation", "blind"):
        yield f"\n## {key}\n\n```text\n{explain(key).rstrip()}\n```\n"


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
        text = runner.invoke(app, [*words, "--help"]).output.rstrip()
        yield f"\n## lucida {' '.join(words)}\n\n```text\n{text}\n```\n"

    yield from tell([], app)
