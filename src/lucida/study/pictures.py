"""Pictures on which an arm and the baseline disagree, to look at."""

from __future__ import annotations

from dataclasses import dataclass

from lucida.eval.gallery import find_answered
from lucida.eval.report import data_address
from lucida.study.analysis import Analysis, common
from lucida.study.design import BASELINE

SHOWN = 2
"""Questions of a task that an arm answers better, and as many that it answers worse."""


@dataclass(frozen=True, slots=True)
class Card:
    """One question. `gain` is the arm's score minus the baseline's in points, over `seeds`;
    answers are those of the first seed."""

    task: str
    pictures: tuple[str, ...]
    question: str
    truth: str
    answers: tuple[str, str]
    gain: float


def disagreements(analysis: Analysis, arm: str) -> list[Card]:
    """Questions with the largest gains and losses over seeds, each of another picture; chosen by
    how they came out, so they show kinds of mistakes and not how many there are."""
    seeds = common(analysis.runs, arm)
    cards = []
    for task in analysis.design.study.evaluation.tasks:
        pairs = [(analysis.runs[BASELINE][k].tasks[task], analysis.runs[arm][k].tasks[task])
                 for k in seeds]  # fmt: skip
        sign = 1 if pairs[0][0].higher else -1
        gains = {
            name: sign * sum(b.rows[name][1] - a.rows[name][1] for a, b in pairs) / len(seeds)
            for name in pairs[0][0].rows
        }
        order = sorted((name for name in gains if gains[name]), key=lambda name: -gains[name])
        seen: set[str] = set()
        # `seen` is shared: a picture is shown once, among the gains or the losses.
        best = _first([n for n in order if gains[n] > 0], pairs[0][0].rows, seen)
        worst = _first([n for n in reversed(order) if gains[n] < 0], pairs[0][0].rows, seen)
        if not best + worst:
            continue
        runs = [analysis.runs[each][seeds[0]].folder for each in (BASELINE, arm)]
        answered = {example.id: (example, row) for example, row in find_answered(runs[0], task)}
        other = {example.id: row for example, row in find_answered(runs[1], task)}
        for name in [*best, *worst]:
            example, row = answered[name]
            truth = row.get("truth") if example.box else ", ".join(dict.fromkeys(example.answers))
            cards.append(
                Card(
                    task,
                    tuple(data_address(image.load()) for image in example.sample.images),
                    example.question,
                    str(truth),
                    (row["output"].strip(), other[name]["output"].strip()),
                    gains[name],
                )
            )
    return cards


def _first(names: list[str], rows: dict, seen: set[str]) -> list[str]:
    """The first `SHOWN` names whose pictures have not been `seen`."""
    found = []
    for name in names:
        if len(found) < SHOWN and rows[name][0] not in seen:
            seen.add(rows[name][0])
            found.append(name)
    return found
