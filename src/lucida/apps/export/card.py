"""The model card of an export: what it is, what it scored, on what it was trained, how it is run.

    recipe.yaml, results.json of the run; the model's spec  ─▶  OUT/README.md

The first lines are the Hub's metadata. What a run does not say (no recipe, no evaluation) the card
names as missing; it makes nothing up. Places on this machine are written without their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from huggingface_hub import EvalResult, ModelCardData

from lucida import __version__
from lucida.core.errors import LucidaError
from lucida.core.files import atomic_write
from lucida.core.recipe import dump_recipe, recipe_hash
from lucida.core.results import TaskScores
from lucida.core.runs import RunFolder
from lucida.core.spec import ModelSpec, Recipe
from lucida.eval.formatting import describe_asking, format_score, is_better

if TYPE_CHECKING:
    from lucida.model.vlm import LucidaModel

Read = TypeVar("Read")
TASK = "image-text-to-text"
LIBRARIES = {"gguf": "llama.cpp"}
"""Format -> the Hub's name of what loads it; transformers otherwise."""
OWN = "lucida:"


def write_card(
    run: Path,
    out: Path,
    model: LucidaModel,
    written: str,
    commands: str,
    notes: Sequence[str] = (),
) -> list[str]:
    """Write README.md into `out`. written: the export's format. commands: how it is run, as text.
    notes: what the other program does otherwise. A damaged file of the run costs its part of the
    card, not the export: what could not be read stands in the card and is given back."""
    folder = RunFolder(run)
    problems: list[str] = []
    recipe = read_or_note(lambda: folder.recipe if folder.exists else None, problems)
    results = read_or_note(lambda: folder.results, problems)
    tasks = results.tasks if results else {}
    diverged = read_or_note(lambda: folder.diverged if recipe else None, problems)
    if diverged:
        notes = [*notes, f"Its training diverged: {diverged}"]
    spec = model.config.model_spec
    name = recipe.name if recipe else run.resolve().name
    parts = [
        f"---\n{metadata(name, spec, recipe, tasks, written).to_yaml()}\n---",
        f"# {name}",
        *([recipe.description] if recipe and recipe.description else []),
        f"A vision-language model, trained and exported with Lucida {__version__} as `{written}`.",
        f"## Use\n\n{commands}",
        f"## Scores\n\n{scores(tasks)}",
        f"## Model\n\n{design(model, spec)}",
        f"## Data\n\n{data(recipe)}",
        f"## Limits\n\n{limits(spec, recipe, tasks, [*notes, *problems])}",
        f"## Licence\n\n{licence(spec, recipe)}",
        f"## Recipe\n\n{recipe_text(recipe)}",
    ]
    atomic_write(out / "README.md", "\n\n".join(parts) + "\n")
    return problems


def read_or_note(read: Callable[[], Read], problems: list[str]) -> Read | None:
    """What a file of the run says; None for a damaged one, whose message joins `problems`."""
    try:
        return read()
    except LucidaError as problem:
        problems.append(f"the card lacks a part: {problem}")
        return None


def metadata(
    name: str, spec: ModelSpec, recipe: Recipe | None, tasks: Mapping[str, TaskScores], written: str
) -> ModelCardData:
    """The Hub's metadata: what it starts from, its licence, its scores."""
    bases = [path for path in parts_of(spec) if is_hub_id(path)]
    sets = [source["path"] for source in sources_of(recipe) if source["kind"] == "hub"]
    own = is_own(spec, recipe)
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=task,
            dataset_name=task,
            metric_type=values.metric or "score",
            metric_value=round(values.score, 6),
        )
        for task, values in tasks.items()
    ]
    return ModelCardData(
        license="apache-2.0" if own else "other",
        license_name=None if own else "that-of-its-parts-and-data",
        library_name=LIBRARIES.get(written, "transformers"),
        pipeline_tag=TASK,
        base_model=bases or None,
        datasets=[path for path in dict.fromkeys(sets) if is_hub_id(path)] or None,
        tags=["lucida", "vision-language-model", written],
        # The Hub's metadata take results under the name of a model only.
        model_name=name if results else None,
        eval_results=results or None,
    )


def parts_of(spec: ModelSpec) -> list[str]:
    """Where encoders and language model come from."""
    vision = [] if spec.vision is None else [spec.vision, *spec.vision.more]
    return [*(each.path for each in vision), spec.language.path]


def is_hub_id(path: str) -> bool:
    """Whether a path has the form ORG/NAME, and is no folder here."""
    named = path.count("/") == 1 and path[0] not in "./~" and ":" not in path
    return named and not Path(path).exists()


def is_own(spec: ModelSpec, recipe: Recipe | None) -> bool:
    """Whether all parts ship with Lucida and all data are drawn by it."""
    drawn = all(source["kind"] == "world" for source in sources_of(recipe))
    return recipe is not None and drawn and all(each.startswith(OWN) for each in parts_of(spec))


def sources_of(recipe: Recipe | None) -> list[dict[str, Any]]:
    """All sources of all stages, as values of their specs."""
    stages = recipe.stages if recipe else []
    return [
        source.model_dump(mode="json")
        for stage in stages
        for source in stage.mixture.sources.values()
    ]


def scores(tasks: Mapping[str, TaskScores]) -> str:
    """A table of scores with their intervals beside the blind baseline."""
    if not tasks:
        return "Nothing was measured before this export."
    heads = "task", "metric", "score", "95% interval", "blind", "gain", "chance", "questions"
    lines = [f"| {' | '.join(heads)} |", "|---|---|--:|---|--:|---|--:|--:|"]
    for name, task in tasks.items():
        gain = task.gain
        cells = [
            name,
            ", ".join([task.metric or "", *describe_asking(task)]).strip(", "),
            format_score(task, task.score),
            between(task, task.interval),
            number(task, task.blind),
            f"{format_score(task, gain.mean, signed=True)} ({between(task, gain.interval)})"
            if gain
            else "",
            number(task, task.chance),
            f"{task.n:,}" if task.n else "",
        ]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + (
        "\n\nBlind: the same training and questions without images, so what language alone gives."
    )


def number(task: TaskScores, value: float | None) -> str:
    """A score in the task's unit, or nothing."""
    return "" if value is None else format_score(task, value)


def between(task: TaskScores, interval: Sequence[float] | None) -> str:
    """`61.2 to 66.0`, or nothing."""
    return " to ".join(format_score(task, end) for end in interval) if interval else ""


def cell(text: object) -> str:
    """Text that stays within its cell of a table."""
    return " ".join(str(text).replace("|", "\\|").split())


def design(model: LucidaModel, spec: ModelSpec) -> str:
    """What the model is made of."""
    vision = [] if spec.vision is None else [spec.vision, *spec.vision.more]
    lines = [f"* vision: {', '.join(f'`{place(each.path)}`' for each in vision) or 'none (blind)'}"]
    if vision:
        lines.append(f"* projector: `{spec.projector.kind}`; images: `{spec.image.policy}`")
    lines.append(f"* language: `{place(spec.language.path)}`, template `{spec.language.template}`")
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    lines.append(f"* {millions:,.2f} million parameters, context {spec.language.max_length}")
    return "\n".join(lines)


def data(recipe: Recipe | None) -> str:
    """The sources of every stage."""
    if recipe is None:
        return "The folder that was exported has no recipe, so its data are not known here."
    lines = ["| stage | source | kind | from |", "|---|---|---|---|"]
    for stage in recipe.stages:
        for name, source in stage.mixture.sources.items():
            values = source.model_dump(mode="json")
            path = values.get("path") or "drawn by Lucida's miniature world"
            cells = [stage.name, name, values["kind"], place(path)]
            lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def limits(
    spec: ModelSpec, recipe: Recipe | None, tasks: Mapping[str, TaskScores], notes: Sequence[str]
) -> str:
    """What is known to be missing or otherwise."""
    found = [
        "It may answer wrongly and with confidence; only what the table names was measured.",
        "It was not examined for bias, safety, or languages and pictures unlike its data.",
        f"Prompts and images together fit {spec.language.max_length} tokens.",
    ]
    blind = [name for name, task in tasks.items() if task.gain and not is_better(task, task.gain)]
    if blind:
        found.append(f"On {', '.join(blind)} it is not surely better than without the picture.")
    if recipe and is_own(spec, recipe):
        found.append("It knows a miniature world of drawn shapes, and no photographs.")
    return "\n".join(f"* {each}" for each in [*found, *notes])


def licence(spec: ModelSpec, recipe: Recipe | None) -> str:
    """Whose terms hold."""
    if is_own(spec, recipe):
        return "Apache-2.0, as Lucida, whose parts and data it is made of."
    paths = [path for path in parts_of(spec) if not path.startswith(OWN)]
    sets = [source.get("path") or "" for source in sources_of(recipe) if source["kind"] != "world"]
    names = [f"`{place(each)}`" for each in dict.fromkeys([*paths, *sets]) if each]
    unknown = "" if recipe else " and of its data, which are not known here,"
    return f"The terms of {', '.join(names) or 'its parts'}{unknown} hold; look them up before use."


def recipe_text(recipe: Recipe | None) -> str:
    """The resolved recipe, folded."""
    if recipe is None:
        return "None was found beside the model."
    values = without_folders(yaml.safe_load(dump_recipe(recipe)))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return (
        f"Hash `{recipe_hash(recipe)}`; with the places of your files put in, `lucida train FILE` "
        f"repeats it.\n\n<details>\n<summary>{recipe.name}</summary>\n\n```yaml\n{text}```\n\n"
        "</details>"
    )


def without_folders(value: Any) -> Any:
    """The same values with places on this machine by their last name only."""
    if isinstance(value, Mapping):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return place(value) if isinstance(value, str) else value


def place(path: str) -> str:
    """A path as others may see it: absolute ones, and those from home, by their last name."""
    return f"…/{Path(path).name}" if path.startswith(("/", "~")) and len(path) > 1 else path
