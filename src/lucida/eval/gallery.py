"""Held-out pictures with what was asked, what the model said and what is true.

For people to look at: examples are shown in the order of the benchmark, one per picture, and never
chosen by how they came out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lucida.core.runs import JsonLines
from lucida.eval.benchmark import Example
from lucida.eval.benchmarks import benchmark
from lucida.eval.metrics.boxes import Box


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
    rows = {row["id"]: row for row in predictions(folder, task).read() if "score" in row}
    blind = {row["id"]: row for row in predictions(folder / "blind", task).read()}
    firsts: dict[str, Example] = {}
    for example in benchmark(task).examples(len(rows)):
        if example.id in rows:
            firsts.setdefault(example.cluster, example)
    shown = list(firsts.values())
    shown = shown[skip:] + shown[:skip]
    return [_shot(example, rows[example.id], blind.get(example.id)) for example in shown[:count]]


def _shot(example: Example, row: dict, blind: dict | None) -> Shot:
    is_box = example.box is not None
    found = tuple(row["parsed"]) if is_box and row["parsed"] else None
    return Shot(
        id=example.id,
        images=tuple(source.load() for source in example.sample.images),
        question=example.question,
        answer=_said(row, is_box),
        truth="" if is_box else example.answers[0],
        score=row["score"],
        blind=None if blind is None else _said(blind, is_box),
        found=found,
        wanted=example.box,
        image=example.image,
    )


def _said(row: dict, is_box: bool) -> str:
    """The output in words; a box is named by its corners, what is no box is quoted."""
    if not is_box:
        return row["output"].strip() or "(nothing)"
    if not row["parsed"]:
        return f"no box: {row['output'].strip() or '(nothing)'}"
    x0, y0, x1, y1 = (round(value) for value in row["parsed"])
    return f"({x0}, {y0}) to ({x1}, {y1})"
