"""The verb about benchmarks: what can be measured, what it needs, what a question looks like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucida.apps.command import app, guarded

if TYPE_CHECKING:
    from lucida.eval.benchmark import Benchmark, Example


@app.command()
@guarded
def benchmarks(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One benchmark, with an example.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this kind of question, or `world`.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Wording of the example.", show_default="its own"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Published files.", show_default="$LUCIDA_DATA"),
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="List the files of each.")] = False,
) -> None:
    """List what can be measured, or show one example."""
    from lucida.eval.benchmarks import BENCHMARKS, WORLD, benchmark

    folder = None if data is None else str(data)
    if name is not None:
        _show(benchmark(name, prompts, folder))
        return
    every = {each: benchmark(each, prompts, folder) for each in BENCHMARKS}
    if family is not None:
        every = _of_family(every, family, set(WORLD))
    if files:
        for each in every.values():
            _show_files(each)
        return
    from lucida.core.progress import table

    columns = ["benchmark", "family", "twin", "examples", "metric", "licence", "source", "files"]
    table(
        "benchmarks",
        columns,
        [
            [
                each.name,
                each.family,
                f"of {each.twin}" if key in WORLD else each.twin or "none",
                f"{each.count:,}" if each.count else "?",
                each.metric,
                each.licence,
                each.source,
                _found(each),
            ]
            for key, each in every.items()
        ],
    )
    typer.echo("`lucida benchmarks NAME` shows the files and a question, --files all files")


def _of_family(every: dict[str, Benchmark], family: str, world: set[str]) -> dict[str, Benchmark]:
    """Those of one family of prompts; `world` are the miniature's and `published` the others."""
    from lucida.core.errors import RecipeError, suggestion

    groups = {"world": world, "published": set(every) - world}
    chosen = {
        name: each
        for name, each in every.items()
        if each.family == family or name in groups.get(family, ())
    }
    if not chosen:
        known = [*groups, *sorted({each.family for each in every.values()})]
        remedy = suggestion(family, known)
        raise RecipeError(f"no benchmark is of the family `{family}`", remedy=remedy)
    return chosen


def _found(task: Benchmark) -> str:
    """How many of the files that asking needs are there."""
    wanted = [file for file in task.files if file.needed != "train"]
    if not wanted:
        return "none needed"
    root = _root(task)
    if root is None:
        return f"{len(wanted)} needed"
    there = sum((root / file.path).exists() for file in wanted)
    return f"{there} of {len(wanted)}"


def _root(task: Benchmark) -> Path | None:
    from lucida.core.errors import DataError

    try:
        return task.root
    except DataError:  # nobody named a data root, which is no mistake when listing
        return None


def _show_files(task: Benchmark) -> None:
    typer.echo(f"{task.name}: {task.licence}; {task.source}")
    root = _root(task)
    for file in task.files:
        there = "unknown" if root is None else "found" if (root / file.path).exists() else "missing"
        typer.echo(f"  {there}: {file.path} ({file.needed}, {file.size}): {file.source}")


def _show(task: Benchmark) -> None:
    """What a benchmark is, and its first question as the model sees it."""
    from lucida.eval.prompts import prompt_set

    _show_files(task)
    version = prompt_set(task.prompts).version
    typer.echo(f"metric: {task.metric}; headline: {task.headline or 'mean of the scores'}")
    typer.echo(
        f"asked by: {', '.join(task.protocols)}; prompts: {task.prompts} (version {version})"
    )
    (example,) = task.examples(1)[:1]
    typer.echo(f"example: {example.id}\n")
    typer.echo(_write_turns(example))
    if example.box is not None:
        typer.echo(f"\ntruth: box {tuple(round(v, 1) for v in example.box)}, pixels {example.size}")
    else:
        typer.echo(f"\ntruth: {' | '.join(dict.fromkeys(example.answers)) or 'none here'}")
    if example.candidates and example.question:
        typer.echo(f"candidates: {' | '.join(example.candidates)}")


def _write_turns(example: Example) -> str:
    """The turns of an example in words, with its pictures named where they stand."""
    from lucida.data.sample import ImagePart

    written = []
    for turn in (*example.sample.stem, *example.sample.branches[0]):
        parts = []
        for part in turn.parts:
            if isinstance(part, ImagePart):
                picture = example.sample.images[part.index]
                parts.append(f"<image: {picture.origin.rpartition(': ')[2]}>")
            else:
                parts.append(str(part))
        written.append("".join(parts))
    return "\n".join(written)
