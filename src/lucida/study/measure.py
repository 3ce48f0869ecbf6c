"""What the runs of a study scored: per picture, over training, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lucida.core.errors import RunError, shorten
from lucida.core.results import TaskScores
from lucida.core.runs import JsonLines, RunFolder


@dataclass(frozen=True)
class Scores:
    """One task of one run. `rows`: example id → (picture, score in points, prompt); `score` is
    their mean, larger is better where `higher`."""

    rows: Mapping[str, tuple[str, float, str]]
    metric: str
    higher: bool
    floor: float
    """Points of the blind baseline, else of chance, else 0."""

    @property
    def score(self) -> float:
        """The mean over examples, in points."""
        return sum(score for _, score, _ in self.rows.values()) / len(self.rows)


@dataclass(frozen=True)
class Measured:
    """A run: scores by task, the curve of scores on the way, and costs by name."""

    folder: Path
    tasks: dict[str, Scores]
    curve: list[tuple[int, dict[str, float]]]
    """(samples seen since the run began, task → points, more is better) of every stage that was
    asked on the way."""
    cost: dict[str, float]

    def outcome(self, name: str, tasks: Sequence[str]) -> float:
        """Points of a task, or the mean over `tasks`, such that more is better: bits per byte count
        as negative."""
        found = [self.tasks[each] for each in (tasks if name == "mean" else [name])]
        return sum(each.score if each.higher else -each.score for each in found) / len(found)


def measure(folder: Path, tasks: Sequence[str] | None = None) -> Measured:
    """The scores of an evaluated run; RunError names what it was not asked."""
    run = RunFolder(folder)
    results = run.results
    found = results.tasks
    if missing := [name for name in tasks or () if name not in found] or not found:
        raise RunError(
            "this run has no scores of what is compared",
            expected=", ".join(tasks or ["some task"]),
            given=", ".join(found) or "none",
            origin=folder,
            remedy=f"`lucida eval {folder}"
            + ("".join(f" --task {name}" for name in missing) if tasks else "")
            + "`",
        )
    read = {name: _scores(folder, name, found[name]) for name in tasks or found}
    rows = run.logged
    cost = {"seconds": results.seconds.get("train", 0.0)}
    for key in ("tokens", "samples"):  # counted on from stage to stage
        cost[key] = float(max((row[key] for row in rows if row.get(key) is not None), default=0))
    outcome = folder / "outcome.json"
    if outcome.is_file():
        cost["memory_mb"] = float(json.loads(outcome.read_text())["memory_mb"])
    lower = {name for name, task in found.items() if not task.higher_is_better}
    return Measured(folder, read, _curve(rows, lower), cost)


def _scores(folder: Path, name: str, task: TaskScores) -> Scores:
    # Points of a share; what is better when lower (bits per byte) keeps its unit, and its sign
    # until pairs are compared.
    scale = 100.0 if task.higher_is_better else 1.0
    rows = {
        row["id"]: (row.get("cluster") or row["id"], scale * row["score"], row["prompt"])
        for row in JsonLines(folder / "predictions" / f"{task.predictions or name}.jsonl")
        .read()
        if row.get("score") is not None
    }  # fmt: skip
    if not rows:
        raise RunError(f"no answers of {name} are kept here", origin=folder)
    floor = task.blind if task.blind is not None else task.chance
    return Scores(rows, task.metric or "", task.higher_is_better, scale * (floor or 0.0))


def _curve(rows: Sequence[Mapping], lower: Collection[str]) -> list[tuple[int, dict[str, float]]]:
    seen, found = 0, []
    for row in rows:
        seen = row.get("samples", seen)
        if row.get("evaluation") is not None:
            tasks = row["evaluation"]["tasks"].items()
            known = {name: task["score"] for name, task in tasks if task["score"] is not None}
            points = {n: -score if n in lower else 100 * score for n, score in known.items()}
            found.append((int(seen), points))
    return found


def paired(first: Sequence[Scores], second: Sequence[Scores], origin: str = "") -> np.ndarray:
    """Second minus first by picture, (seeds, pictures), such that the mean over pictures is that
    over examples; signs are such that more is better. RunError, which says whose they are
    (`origin`), when not all were asked the same examples in the same words."""
    reference = first[0].rows
    for each in [*first, *second]:
        if each.rows.keys() != reference.keys():
            raise RunError(
                "runs were asked different examples",
                expected=len(reference),
                given=f"{len(each.rows)}, {len(each.rows.keys() & reference.keys())} in common",
                origin=origin,
                remedy="evaluate all of them with one --limit",
            )
        other = [name for name, row in each.rows.items() if row[2] != reference[name][2]]
        if other:
            raise RunError(
                "runs were asked in other words",
                expected=shorten(reference[other[0]][2]),
                given=shorten(each.rows[other[0]][2]),
                origin=f"{origin}: {other[0]}",
                remedy="evaluate all of them with the same --prompts and version",
            )
    names: dict[str, int] = {}
    member = np.array([names.setdefault(row[0], len(names)) for row in reference.values()])
    size = np.bincount(member)
    table = []
    for a, b in zip(first, second, strict=True):
        change = np.array([b.rows[name][1] - a.rows[name][1] for name in reference])
        mean = change.mean()
        # Pictures with more questions weigh more: a ratio's linear part around its mean.
        total = np.bincount(member, weights=change) - size * mean
        table.append(mean + total * len(size) / len(change))
    return np.array(table) * (1 if first[0].higher else -1)


def how_soon(curve: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Samples until half-way and until 90% from the first to the last score (the mean over tasks,
    straight lines between), and the mean height of the curve; empty with fewer than two points.

    Worked example: 0 at 100 samples, 50 at 200 and 60 at 300: half of 60 at 160, 90% at 240,
    area (25 + 55) / 2 = 40.
    """
    points = [(seen, sum(t.values()) / len(t)) for seen, t in curve if t]
    if len(points) < 2 or points[-1][0] == points[0][0]:
        return {}
    (x0, y0), (x1, y1) = points[0], points[-1]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    found = {"area": area / (x1 - x0)}
    for name, share in (("half", 0.5), ("ninety", 0.9)):
        if y1 <= y0:
            continue
        goal = y0 + share * (y1 - y0)
        for a, b in pairwise(points):
            if a[1] < goal <= b[1]:  # the first time, even if the curve falls below it again
                found[name] = a[0] + (b[0] - a[0]) * (goal - a[1]) / (b[1] - a[1])
                break
    return found
