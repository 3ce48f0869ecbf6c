"""Two evaluations of the same examples side by side: how much they differ, and where.

FOLDER A, FOLDER B ──same ids──▶ paired difference with interval, examples that changed
                                      └──▶ diff.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.files import make_writable
from lucida.core.pages import render_page
from lucida.core.recipe import diff_recipes
from lucida.core.results import TaskScores
from lucida.core.runs import RunFolder, atomic_write
from lucida.eval.benchmark import Benchmark, Example
from lucida.eval.formatting import format_score
from lucida.eval.gallery import evaluated_benchmark, read_scored
from lucida.eval.report import data_address
from lucida.eval.statistics import Interval, compare_paired

PICTURES = 60
"""Changed examples of a task that the page shows; it says how many there are."""


@dataclass(frozen=True, slots=True)
class Change:
    """One example that scores differently."""

    example: Example
    first: dict
    second: dict


@dataclass(frozen=True, slots=True)
class Difference:
    """One task of two evaluations. `gain` is B minus A over the `n` examples that both answered;
    `only` counts those that only A, only B answered: nothing is said about them. `reworded` counts
    those of the `n` that were asked in other words (demonstrations, aloud, other prompts). Scores
    are shares where `higher_is_better`."""

    task: str
    metric: str
    scores: tuple[float, float]
    gain: Interval
    changes: list[Change]
    only: tuple[int, int]
    higher_is_better: bool = True
    reworded: int = 0

    @property
    def notes(self) -> list[str]:
        """What has to be known beside the numbers."""
        told = []
        if any(self.only):
            told.append(f"left out: {self.only[0]} that only A answered, {self.only[1]} only B")
        if self.reworded:
            told.append(f"{self.reworded} of {self.gain.n} were asked in other words")
        if self.gain.clusters == 1:
            told.append("all are about one picture, so the interval says nothing")
        return told

    def shown(self, value: float, signed: bool = False) -> str:
        """A score, or a difference, in the task's own unit."""
        return format_score(self, value, signed)

    @property
    def state(self) -> str:
        """How the page marks it: B surely better, surely worse, or neither, as always where all
        examples are about one picture."""
        if self.gain.clusters == 1:
            return ""
        low, high = self.gain.low, self.gain.high
        if not self.higher_is_better:
            low, high = -high, -low
        return "up always" if low > 0 else "down" if high < 0 else ""


def differences(first: Path, second: Path, samples: int = 2000) -> list[Difference]:
    """Every task that both folders have scores of, in the first one's order.

    RunError: a folder without results, no common task, or no common example in one.
    """
    tasks = []
    for folder in (first, second):
        found = RunFolder(folder).results.tasks
        if not found:
            raise RunError(
                "there are no scores in this folder", origin=folder, remedy="`lucida eval` it first"
            )
        tasks.append(found)
    common = [name for name in tasks[0] if name in tasks[1]]
    if not common:
        raise RunError(
            "the two evaluations have no task in common",
            expected=", ".join(tasks[0]),
            given=", ".join(tasks[1]),
            origin=second,
        )
    return [difference(first, second, name, tasks, samples) for name in common]


def recipe_changes(first: Path, second: Path) -> list[str]:
    """The values in which the recipes of two runs differ, as `stages.sft.budget.steps: 400 -> 10`;
    none where one of the folders is no run."""
    runs = RunFolder(first), RunFolder(second)
    if not all(run.exists for run in runs):
        return []
    return diff_recipes(*(run.recipe for run in runs))


def validation_losses(folder: Path) -> dict[str, tuple[int, float]]:
    """Stage → the step and the value of the last validation loss that a run logged; RunError where
    its log is damaged."""
    found = {}
    for row in RunFolder(folder).logged:
        if row.get("validation_loss") is not None:
            found[row.get("stage") or ""] = row.get("step") or 0, row["validation_loss"]
    return found


def compare_losses(first: Path, second: Path) -> list[tuple[str, list[str], str]]:
    """For each stage that either run validated: its name, both last losses with their steps, and
    how much less the second lost. A difference without an interval: one number of each run."""
    losses = validation_losses(first), validation_losses(second)
    rows = []
    for stage in dict.fromkeys([*losses[0], *losses[1]]):
        both = [each.get(stage) for each in losses]
        told = ["" if one is None else f"{one[1]:.4f} (step {one[0]:,})" for one in both]
        known = all(one is not None for one in both)
        rows.append((stage, told, f"{both[1][1] - both[0][1]:+.4f}" if known else ""))
    return rows


def tasks_of_one(folder: Path, other: Path) -> list[str]:
    """Tasks that `folder` has scores of and `other` has not: nothing is said about them."""
    there = RunFolder(other).results.tasks
    return [name for name in RunFolder(folder).results.tasks if name not in there]


def difference(
    first: Path, second: Path, name: str, tasks: list[dict[str, TaskScores]], samples: int
) -> Difference:
    """One task of both."""
    told = tasks[0][name]
    keys = [each[name].predictions or name for each in tasks]
    rows = [read_scored(folder, key) for folder, key in zip((first, second), keys, strict=True)]
    both = [row for row in rows[0] if row in rows[1]]
    if told.own is not None:  # records may have been edited in between
        both = [row for row in both if _is_same_question(rows[0][row], rows[1][row])]
    if not both:
        raise RunError(f"no example of {name} was answered by both", origin=second)
    task = evaluated_benchmark(first, name)
    only = len(rows[0]) - len(both), len(rows[1]) - len(both)
    if task.together:
        # CIDEr-D weighs words by all that is scored together, so both are scored on what is common.
        rows = [_scored_anew(task, both, each) for each in rows]
    scores = [[each[row]["score"] for row in both] for each in rows]
    clusters = [rows[0][row].get("cluster") or row for row in both]
    changed = [row for row in both if rows[0][row]["score"] != rows[1][row]["score"]]
    examples = _examples(task, changed)
    changes = [Change(e, rows[0][e.id], rows[1][e.id]) for e in examples]
    sign = 1 if told.higher_is_better else -1
    changes.sort(key=lambda each: sign * (each.second["score"] - each.first["score"]))
    return Difference(
        task=name,
        metric=told.metric or task.metric,
        scores=tuple(sum(each) / len(each) for each in scores),
        gain=compare_paired(scores[1], scores[0], clusters, samples),
        changes=changes,
        only=only,
        higher_is_better=told.higher_is_better,
        reworded=sum(rows[0][row].get("prompt") != rows[1][row].get("prompt") for row in both),
    )


def _is_same_question(first: dict, second: dict) -> bool:
    return all(first.get(part) == second.get(part) for part in ("prompt", "truth"))


def _scored_anew(task: Benchmark, ids: list[str], rows: dict[str, dict]) -> dict[str, dict]:
    """The rows of these examples with scores of these alone: what was scored among others has other
    weights."""
    examples = _examples(task, ids)
    scores = task.scores(examples, [rows[e.id].get("parsed") for e in examples])
    anew = {e.id: rows[e.id] | {"score": s} for e, s in zip(examples, scores, strict=True)}
    return {row: anew[row] for row in ids}


def _examples(task: Benchmark, ids: list[str]) -> list[Example]:
    """The examples of these ids. RunError when the benchmark does not have one of them."""
    found = {}
    for limit in (len(ids), None):  # mostly the first ones, which are found faster than all
        if ids and len(found) < len(ids):
            wanted = set(ids)
            found = {e.id: e for e in task.examples(limit) if e.id in wanted}
    if missing := [each for each in ids if each not in found]:
        raise RunError(f"{task.name} has no such example", expected="its ids", given=missing[:3])
    return [found[each] for each in ids]


def write_page(first: Path, second: Path, found: list[Difference], page: Path) -> Path:
    """A page with every task and the examples that changed, with pictures; gives its path."""
    tasks = [
        {
            "name": each.task,
            "metric": each.metric,
            "scores": [each.shown(score) for score in each.scores],
            "gain": [
                each.shown(value, signed=True)
                for value in (each.gain.mean, each.gain.low, each.gain.high)
            ],
            "state": each.state,
            "n": each.gain.n,
            "notes": each.notes,
            "count": len(each.changes),
            "changes": [_card(each, change) for change in _both_ends(each.changes)],
        }
        for each in found
    ]
    text = render_page(
        "eval/difference.html",
        first=str(first),
        second=str(second),
        tasks=tasks,
        changes=recipe_changes(first, second),
        losses=compare_losses(first, second),
        alone=[("A", tasks_of_one(first, second)), ("B", tasks_of_one(second, first))],
    )
    atomic_write(page, make_writable(text))
    return page


def _both_ends(changes: list[Change]) -> list[Change]:
    """Those that became worst and those that became best, at most `PICTURES` together."""
    if len(changes) <= PICTURES:
        return changes
    half = PICTURES // 2
    return [*changes[:half], *changes[-half:]]


def _card(task: Difference, change: Change) -> dict:
    example = change.example
    gain = change.second["score"] - change.first["score"]
    return {
        "pictures": [data_address(source.load()) for source in example.sample.images],
        "question": example.question,
        "truth": change.first.get("truth")
        if example.box
        else ", ".join(dict.fromkeys(example.answers)),
        "outputs": [change.first["output"].strip(), change.second["output"].strip()],
        "scores": [change.first["score"], change.second["score"]],
        "better": gain > 0 if task.higher_is_better else gain < 0,
    }
