"""Held-out pictures with what was asked, what the model said and what is true.

For people to look at. `gallery` shows examples in the order of the benchmark, one per picture, and
never chosen by how they came out; `extremes` shows the worst and the best, and says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lucida.core.errors import RunError
from lucida.core.results import TaskScores
from lucida.core.runs import JsonLines, RunFolder
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval.benchmark import Benchmark, Example
from lucida.eval.benchmarks import benchmark, find_task, load_task
from lucida.eval.metrics.boxes import Box, as_box

_MOST = 1e15  # no score is larger; NaN is not smaller

TARGET = "target.json"
"""In the folder of an evaluated model that is no run: what it is, and the evaluation's values."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One example as it is shown. A box stands beside the image (0-based) that it lies in."""

    id: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str
    truth: str
    score: float
    blind: str | None
    found: Box | None
    wanted: Box | None
    image: int


def predictions(folder: Path, task: str) -> JsonLines:
    """The file RUN/predictions/TASK.jsonl: one row per question that was asked."""
    return JsonLines(folder / "predictions" / f"{task}.jsonl")


def gallery(folder: Path, task: str, count: int = 8, skip: int = 0) -> list[Shot]:
    """Examples of a task with different pictures, in order, from an evaluated run folder.

    `skip` passes over that many pictures first (the tasks of the miniature world share pictures).
    """
    pairs = find_answered(folder, task)
    blind = read_scored(folder / "blind", task)
    firsts: dict[str, tuple[Example, dict]] = {}
    for example, row in pairs:
        firsts.setdefault(example.cluster, (example, row))
    shown = list(firsts.values())
    # Tasks of the miniature world show the same pictures; so each begins at others.
    shown = shown[skip:] + shown[:skip]
    return [_shot(example, row, blind.get(example.id)) for example, row in shown[:count]]


def extremes(folder: Path, task: str, count: int = 4) -> tuple[list[Shot], list[Shot]]:
    """The worst and the best answers of a task, one per picture; empty when all score alike.

    Among equal scores the benchmark's order decides. No example is in both.
    """
    pairs = find_answered(folder, task)
    blind = read_scored(folder / "blind", task)
    sign = 1 if evaluated_benchmark(folder, task).higher_is_better else -1
    ranked = sorted(pairs, key=lambda pair: sign * pair[1]["score"])
    if not ranked or ranked[0][1]["score"] == ranked[-1][1]["score"]:
        return [], []
    # No example is in both: the worst lie below the middle of the range, the best do not.
    middle = (ranked[0][1]["score"] + ranked[-1][1]["score"]) / 2
    found: list[list[Shot]] = []
    top = sorted(pairs, key=lambda pair: -sign * pair[1]["score"])
    for order, low in ((ranked, True), (top, False)):
        firsts: dict[str, tuple[Example, dict]] = {}
        for example, row in order:
            if (sign * row["score"] < sign * middle) == low:
                firsts.setdefault(example.cluster, (example, row))
        chosen = list(firsts.values())[:count]
        found.append([_shot(example, row, blind.get(example.id)) for example, row in chosen])
    return found[0], found[1]


def find_answered(folder: Path, task: str) -> list[tuple[Example, dict]]:
    """The examples of a task that have a score in this folder, in order, with their rows."""
    rows = read_scored(folder, task)
    examples = evaluated_benchmark(folder, task).examples(len(rows))
    return [(example, rows[example.id]) for example in examples if example.id in rows]


def read_scored(folder: Path, task: str) -> dict[str, dict]:
    """The rows that have a score, by id; what was never answered has none. RunError names a row
    that is no prediction."""
    file = predictions(folder, task)
    rows = {}
    for number, row in enumerate(file.read(), start=1):
        if row.get("score") is None:
            continue
        is_number = isinstance(row["score"], int | float) and abs(row["score"]) < _MOST
        wrong = [name for name in ("id", "output") if not isinstance(row.get(name), str)]
        wrong += [] if is_number else ["score"]
        wrong += [n for n in ("cluster", "prompt") if not isinstance(row.get(n, ""), str)]
        if wrong:
            raise RunError(
                f"row {number} is no prediction",
                expected="text for id, output, cluster, prompt; a number for score",
                given={name: row.get(name) for name in wrong},
                origin=file.path,
                remedy="delete the row; `lucida eval` then asks its question again",
            )
        rows[row["id"]] = row
    return rows


def evaluated_benchmark(folder: Path, task: str) -> Benchmark:
    """The benchmark as it was asked in this folder: its prompts, its data.

    They stand beside its scores, as a command may have chosen others than the recipe's.
    """
    name = task.split(".", 1)[0]
    spec = evaluation_of(folder)
    asked = RunFolder(folder).results.tasks.get(name, TaskScores(score=0.0))
    if asked.own is not None:
        return load_task(own_task(asked.own, folder))
    usual = find_task(spec, name)
    prompts, data = asked.prompts or usual.prompts, asked.data or spec.data
    if (prompts, data) == (usual.prompts, spec.data):
        return usual  # whose examples are made already
    return benchmark(name, prompts, data)


def own_task(described: object, folder: Path) -> OwnTaskSpec:
    """A task over own records as results.json describes it; RunError where it cannot be read."""
    try:
        return OwnTaskSpec.model_validate(described)
    except ValueError as problem:
        raise RunError(
            f"this file does not say what was evaluated: {str(problem).splitlines()[0]}",
            origin=RunFolder(folder).results_file,
            remedy="remove the task from it and evaluate it again; stored answers are used",
        ) from None


def evaluation_of(folder: Path) -> EvaluationSpec:
    """The evaluation of a run's recipe, or of what was evaluated without one."""
    if (folder / TARGET).is_file():
        return target_of(folder)[1]
    run = RunFolder(folder)
    return run.recipe.evaluation


def target_of(folder: Path) -> tuple[str, EvaluationSpec]:
    """The name of an evaluated model that is no run, and how it was asked. RunError where the
    folder does not say so."""
    file = folder / TARGET
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return str(told["target"]), EvaluationSpec.model_validate(told["evaluation"])
    except FileNotFoundError:
        raise RunError(
            f"the folder holds neither a run (recipe.yaml) nor an evaluated model ({TARGET})",
            origin=folder,
            remedy="`lucida runs` lists the runs",
        ) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as problem:
        raise RunError(
            f"this file does not say what was evaluated: {str(problem).splitlines()[0]}",
            origin=file,
            remedy="delete it and evaluate the model again; stored answers are used",
        ) from None


def _shot(example: Example, row: dict, blind: dict | None) -> Shot:
    is_box = example.box is not None
    found = as_box(row.get("parsed")) if is_box else None
    return Shot(
        id=example.id,
        images=tuple(source.load() for source in example.sample.images),
        question=example.question,
        answer=_describe_output(row, is_box),
        truth="" if is_box or not example.answers else example.answers[0],
        score=row["score"],
        blind=None if blind is None else _describe_output(blind, is_box),
        found=found,
        wanted=example.box,
        image=example.image,
    )


def _describe_output(row: dict, is_box: bool) -> str:
    """The output in words; a box is named by its corners, what is no box is quoted."""
    if not is_box:
        return row["output"].strip() or "(nothing)"
    found = as_box(row.get("parsed"))
    if found is None:
        return f"no box: {row['output'].strip() or '(nothing)'}"
    x0, y0, x1, y1 = (round(value) for value in found)
    return f"({x0}, {y0}) to ({x1}, {y1})"
