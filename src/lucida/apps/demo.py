"""The whole of Lucida in one command: train, train blind, evaluate both, show, and say how to chat.

    recipe ─▶ RUN (train) ─▶ RUN/blind (train) ─▶ evaluate both ─▶ table, pictures, report.html

Every phase that a folder has finished already is used again; one that was stopped goes on.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lucida.apps.ahead import check_evaluation
from lucida.apps.command import command, command_line
from lucida.apps.drawn import COLUMNS, half_blocks
from lucida.core.progress import output, say, table
from lucida.core.recipe import load_recipe
from lucida.core.results import Results, TaskScores
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.eval.formatting import (
    describe_asking,
    describe_attacks,
    describe_judge,
    describe_left_out,
    describe_limits,
    describe_measurement,
    describe_values,
    format_score,
)
from lucida.eval.gallery import Shot, gallery
from lucida.eval.report import duration, mark
from lucida.eval.usual import usual_scores


def main(folder: Path, recipe_name: str, overrides: list[str]) -> None:
    """Run the demo of a recipe in `folder`; LucidaError when a phase cannot be done."""
    from lucida.eval.run import evaluate_run

    recipe = load_recipe(recipe_name, overrides)
    check_evaluation(recipe, asked=True)
    started = time.monotonic()
    _train(recipe, folder)
    evaluate_run(folder)
    results = RunFolder(folder).results
    took = time.monotonic() - started
    shots = [
        (name, task, shot)
        for number, (name, task) in enumerate(results.tasks.items())
        for shot in gallery(folder, name, 1, skip=number)
    ]
    show_pictures(shots, output())
    show_scores(results, usual_scores(recipe))
    show_endings(folder, results, shots[0][2] if shots else None, took)


def _train(recipe: Recipe, folder: Path) -> None:
    """Train the recipe and its blind baseline, and keep how long each took."""
    from lucida.eval.during_training import observers
    from lucida.training.blind import blind_recipe
    from lucida.training.loop import train_alone

    phases = [("train", recipe, folder)]
    if recipe.blind is not None:
        phases.append(("train_blind", blind_recipe(recipe), folder / "blind"))
    taken = {}
    for phase, each, place in phases:
        fresh = not RunFolder(place).exists  # a resumed phase is timed by its metrics instead
        begun = time.monotonic()
        train_alone(each, place, command_line(), observers(each))
        if fresh:
            taken[phase] = time.monotonic() - begun
    run = RunFolder(folder)
    results = run.results
    results.seconds |= taken
    run.write_results(results)


def show_pictures(shots: list[tuple[str, TaskScores, Shot]], console: Console) -> None:
    """One held-out example of each task: question, answer, truth, and the picture on a terminal."""
    console.print("\nHeld-out pictures, questions and answers\n", style="bold")
    for name, task, shot in shots:
        words = _words(name, task, shot)
        if not console.is_terminal:
            console.print(words, soft_wrap=True)
            console.print()
            continue
        row = Table.grid(padding=(0, 3))
        columns = COLUMNS if len(shot.images) == 1 else COLUMNS * 2 // 3
        row.add_row(*(half_blocks(image, columns) for image in shot.images), Padding(words, (1, 0)))
        console.print(row)
        console.print()


def _words(name: str, task: TaskScores, shot: Shot) -> Text:
    """What is said about one example."""
    judged = mark(shot.score, task)
    sign, style = {"right": ("✓", "green"), "wrong": ("✗", "red")}.get(judged, ("·", "blue"))
    if judged == "graded":
        sign = f"{task.metric} {format_score(task, shot.score)}"
    text = Text()
    text.append(f"{name}\n", "dim")
    text.append(f"question  {shot.question}\n")
    text.append(f"answer    {shot.answer}  {sign}\n", style)
    truth = shot.truth
    if shot.wanted is not None:
        x0, y0, x1, y1 = (round(value) for value in shot.wanted)
        truth = f"({x0}, {y0}) to ({x1}, {y1})"
    text.append(f"truth     {truth}")
    if shot.blind is not None:
        text.append(f"\nblind     {shot.blind}", "dim")
    return text


def show_scores(results: Results, usual: Mapping | None = None) -> None:
    """The closing table, in points; what is no share (bits per byte) in its own unit. A star marks
    what is not surely above guessing; questions that were never answered are told below. `usual`
    (`eval.usual`): what the recipe scored with other seeds and on other machines, if known."""
    rows, notes = [], []
    for name, task in results.tasks.items():
        gain, blind = task.gain, task.blind
        floor = "*" if task.floor else ""
        rows.append(
            [
                name,
                task.metric,
                format_score(task, task.score) + floor,
                " to ".join(format_score(task, value) for value in task.interval),
                "" if blind is None else format_score(task, blind),
                format_score(task, task.chance),
                "" if gain is None else format_score(task, gain.mean, signed=True),
                f"{task.n:,}",
            ]
            + ([] if usual is None else [spread(task, usual["tasks"].get(name))])
        )
        others = results.others.get(name, ())
        notes += [f"{name}: {describe_measurement(task, other)}" for other in others]
        if task.own is not None:  # others have a size of their own that everybody knows
            told = (*describe_left_out(task), *describe_values(task), *describe_limits(task))
            notes += [f"{name}: {each}" for each in told]
        if task.judge is not None:
            read = format_score(task, task.judge.score)
            notes.append(f"{name}: {read} as {describe_judge(task.judge)}")
        if task.attacks is not None:
            notes.append(f"{name}: {describe_attacks(task.attacks)}")
        if task.failed:
            part = f"{task.failed} of {task.n:,} questions"
            notes.append(f"{name}: {part} were never answered and count as empty outputs")
    columns = ["task", "metric", "score", "95% interval", "blind", "chance", "gain", "questions"]
    if usual is not None:
        columns.append(f"{usual['runs']} other runs")
    table(
        "Held-out scores (blind: the same language model trained without pictures)", columns, rows
    )
    if any(task.floor for task in results.tasks.values()):
        say("* not surely above guessing (chance or the majority answer), by the paired interval")
    if usual is not None:
        say(f"other runs: median (lowest to highest) of {usual['how']}")
    ways: dict[str, list[str]] = {}
    for name, task in results.tasks.items():
        for how in describe_asking(task):
            ways.setdefault(how, []).append(name)
    for how, names in ways.items():
        say(f"asked {how}: {', '.join(names)}")
    for name, file in results.answers.items():
        failed = results.failed.get(name, 0)
        missing = f"; {failed} of its answers never came and are empty" if failed else ""
        scored = "is scored by rules alone" if name in results.tasks else "has no score here"
        notes.append(f"{name} {scored}: its judge reads {file} in the folder{missing}")
    for note in notes:
        say(note)


def spread(task: TaskScores, known: Mapping[str, float] | None) -> str:
    """Median and range of a task over other runs, as its score is shown."""
    if known is None:
        return ""
    low, middle, high = (format_score(task, known[key]) for key in ("lowest", "median", "highest"))
    return f"{middle} ({low} to {high})"


def show_endings(folder: Path, results: Results, shot: Shot | None, took: float) -> None:
    """Seconds for each phase, where the report is, and the command to chat: about the picture of an
    example where one has any."""
    phases = [f"{name.replace('_', ' ')} {duration(s)}" for name, s in results.seconds.items()]
    say(f"time: {', '.join(phases)}; this command {duration(took)}")
    print(f"\nreport  {folder / 'report.html'}")
    shown_to = []
    if shot is not None and shot.images:
        example = folder / "example.png"
        shot.images[0].save(example)
        shown_to = ["--image", str(example)]
    print(f"chat    {shlex.join([*command(), 'chat', str(folder), *shown_to])}")
    print(f"page    {shlex.join([*command(), 'web', str(folder)])}")
    if shot is not None:
        print(f'        and ask, for instance: "{shot.question}"')


def show_shots(results: Results, names: list | None) -> None:
    """A line for each task: its score without demonstrations, then mean ± deviation over seeds."""
    tasks = {n: t for n, t in results.tasks.items() if names is None or n in names}
    counts = sorted({int(count) for t in tasks.values() for count in t.shots})
    rows = []
    for name, task in tasks.items():
        cells = [format_score(task, task.score)]
        for count in counts:
            row = task.shots.get(str(count))
            spread = "" if row is None or row.sd is None else f" ± {format_score(task, row.sd)}"
            cells.append("" if row is None else f"{format_score(task, row.mean)}{spread}")
        rows.append([name, task.metric, *cells])
    columns = ["task", "metric", "0-shot", *(f"{count}-shot" for count in counts)]
    table("Demonstrations (mean ± sd over seeds)", columns, rows)
