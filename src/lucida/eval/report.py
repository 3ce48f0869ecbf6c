"""report.html: one page that shows what a run learnt, with pictures, and needs nothing else.

    recipe.yaml, results.json, metrics.jsonl, predictions/ ──write_report──▶ report.html

All images and the curve are inside the file; it asks the network for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lucida.core.errors import LucidaError
from lucida.core.files import make_writable
from lucida.core.pages import render_page
from lucida.core.recipe import dump_recipe
from lucida.core.results import Results, TaskScores, check_whole
from lucida.core.runs import RunFolder, atomic_write
from lucida.data.encoded import make_data_address
from lucida.eval.curve import loss_curve, score_curves, source_curves
from lucida.eval.formatting import (
    describe_asking,
    describe_attacks,
    describe_judge,
    describe_left_out,
    describe_limits,
    describe_measurement,
    format_score,
    is_better,
)
from lucida.eval.gallery import Shot, extremes, gallery, target_of

SHOTS = 8
"""Pictures per task, as they come."""
EXTREMES = 4
"""Of the worst and of the best answers, each."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table; places are percent of the width of the track. ahead: the interval of
    the gain over the blind model is on the good side of zero."""

    name: str
    metric: str
    task: TaskScores
    score: float
    low: float
    high: float
    blind: float | None
    chance: float
    gain: str
    ahead: bool
    kinds: list[tuple[str, float, int]]
    n: int
    ceiling: float
    floor: bool
    notes: list[str]

    def place(self, value: float) -> str:
        """Where a score lies on the track, as CSS percent."""
        return f"{100 * max(0.0, min(value / self.ceiling, 1.0)):.2f}%"

    def shown(self, value: float) -> str:
        """A score in the task's own unit."""
        return format_score(self.task, value)


def write_report(folder: Path) -> Path:
    """Write RUN/report.html from what stands in the run folder; gives its path.

    RunError names a damaged results.json, recipe or target.json; of any other damaged file the page
    says why its part is missing.
    """
    run = RunFolder(folder)
    results = run.results
    check_whole(results, run.results_file)
    name, description, told = _heading(run)
    tasks = results.tasks
    logged, facts, problems = [], [], []
    try:
        logged = run.logged
    except LucidaError as problem:
        problems.append(f"the curves of training: {problem}")
    try:
        facts = [(key, str(value)) for key, value in run.environment_entry.items()]
    except LucidaError as problem:
        problems.append(f"device and precision: {problem}")
    page = render_page(
        "eval/report.html",
        name=name,
        description=description,
        facts=_facts(results) + [fact for fact in facts if fact[0] in ("device", "precision")],
        bars=[_bar(name, task, results.others.get(name, ())) for name, task in tasks.items()],
        has_blind=any(task.blind is not None for task in tasks.values()),
        curve=loss_curve(logged),
        source_curves=source_curves(logged),
        score_curves=score_curves(logged),
        galleries=[
            (name, *_examples(folder, task.predictions or name, task, SHOTS * n))
            for n, (name, task) in enumerate(tasks.items())
        ],
        recipe=told,
        phases=list(results.seconds.items()),
        run=folder if run.exists else None,
        problems=problems,
    )
    atomic_write(run.report_file, make_writable(page))
    return run.report_file


def _examples(
    folder: Path, key: str, task: TaskScores, skip: int
) -> tuple[list[dict], list[dict], str | None]:
    """Cards of a task in order, of its worst and best answers, and why there are none: the files
    of a task that was evaluated earlier may be elsewhere by now."""
    try:
        ordered = gallery(folder, key, SHOTS, skip)
        worst, best = extremes(folder, key, EXTREMES)
    except LucidaError as problem:
        return [], [], str(problem)
    first, ends = ([_card(shot, task) for shot in each] for each in (ordered, worst + best))
    return first, ends, None


def _heading(run: RunFolder) -> tuple[str, str, str]:
    """Name, description, and the whole recipe or, of a model that is no run, how it was asked."""
    if run.exists:
        recipe = run.recipe
        return recipe.name, recipe.description, dump_recipe(recipe)
    target, spec = target_of(run.path)
    return target, "", json.dumps(spec.model_dump(mode="json"), indent=2)


def _facts(results: Results) -> list[tuple[str, str]]:
    """Short facts under the title: name and value."""
    facts = []
    seconds = results.seconds
    if "train" in seconds:
        facts.append(("trained in", duration(seconds["train"])))
    if "evaluate" in seconds:
        facts.append(("evaluated in", duration(seconds["evaluate"])))
    asked = sum(task.count for task in results.tasks.values())
    facts.append(("held-out questions", f"{asked:,}"))
    for key, label in (("parameters", "parameters"), ("trained_parameters", "trained")):
        if (number := getattr(results, key)) is not None:
            facts.append((label, f"{number / 1e6:.2f} M"))
    if kept := results.retention:
        told = f"{kept.measure} {kept.before:.4g} → {kept.after:.4g}"
        lost = "all" if kept.lost is None else f"{kept.lost:+.1%}"  # infinitely much
        facts.append(("text", f"{told} ({lost} lost)"))
        facts += [(f"text after {each.stage}", f"{each.after:.4g}") for each in kept.stages]
    return facts


def duration(seconds: float) -> str:
    """Seconds for people: "48 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _bar(name: str, task: TaskScores, others: Sequence[TaskScores]) -> Bar:
    low, high = task.interval
    blind, gain = task.blind, task.gain
    # CIDEr-D and bits per byte may be above 1; the track is as long as the longest.
    known = [1.0, high, blind or 0.0, task.chance]
    return Bar(
        name=name,
        metric=task.metric,
        task=task,
        score=task.score,
        low=low,
        high=high,
        blind=blind,
        chance=task.chance,
        gain=format_score(task, gain.mean, signed=True) if gain else "",
        ahead=bool(gain) and is_better(task, gain),
        kinds=[(kind, row.score, row.n) for kind, row in task.kinds.items()],
        n=task.n,
        ceiling=max(known),
        floor=bool(task.floor),
        notes=_notes(task) + [describe_measurement(task, other) for other in others],
    )


def _notes(task: TaskScores) -> list[str]:
    """What else was measured of a task, in words; what was left unanswered comes first."""
    notes = describe_left_out(task)
    if task.failed:
        notes.append(f"{task.failed} of {task.n} questions were never answered and count as empty")
    if task.of and task.of > task.n:
        notes.append(f"{task.n:,} of its {task.of:,} examples")
    notes += [f"asked {how}" for how in describe_asking(task)]
    notes += describe_limits(task)
    for name, row in task.baselines.items():
        score = format_score(task, row.score)
        gain = format_score(task, row.gain.mean, signed=True)
        notes.append(f"pictures {name} {score} ({gain} with them, n {row.n})")
    for protocol, row in task.protocols.items():
        if protocol != task.protocol:
            notes.append(f"by {protocol} {format_score(task, row.score)}")
        for by, score in row.by.items():
            notes.append(f"likeliest by {by} {format_score(task, score)}")
    for count, row in task.shots.items():
        spread = "" if row.sd is None else f" ± {format_score(task, row.sd)}"
        number = len(row.scores)
        notes.append(f"{count}-shot {format_score(task, row.mean)}{spread} ({number} seeds)")
    if task.judge is not None:
        notes.append(f"{format_score(task, task.judge.score)} as {describe_judge(task.judge)}")
    if task.attacks is not None:
        notes.append(describe_attacks(task.attacks))
        for part, rate in task.attacks.rates.items():
            notes.append(f"{part} {'no rate' if rate is None else f'{100 * rate:.1f}%'}")
    for name, value in task.totals.items():
        notes.append(f"{name} no finite number" if value is None else f"{name} {value:.4g}")
    return notes


def _card(shot: Shot, task: TaskScores) -> dict:
    """What the template needs of one example."""
    pictures = []
    for number, image in enumerate(shot.images):
        boxes = []
        if number == shot.image:
            boxes = [
                (kind, box[0], box[1], box[2] - box[0], box[3] - box[1])
                for kind, box in (("wanted", shot.wanted), ("found", shot.found))
                if box is not None
            ]
        pictures.append({"source": data_address(image), "size": image.size, "boxes": boxes})
    grade = f"{task.metric} {format_score(task, shot.score)}"
    return {"shot": shot, "pictures": pictures, "mark": mark(shot.score, task), "grade": grade}


def mark(score: float, task: TaskScores) -> str:
    """right or wrong, or graded where a score is not one of the two."""
    if task.metric == "CIDEr-D" or not task.higher_is_better:
        return "graded"
    return "right" if score >= 1.0 else "wrong"


def data_address(image: Image.Image) -> str:
    """The picture inside an address: PNG, at most 512 pixels on the longer side."""
    image = image.copy()
    image.thumbnail((512, 512))
    return make_data_address(image, optimize=True)
