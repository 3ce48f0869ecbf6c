"""Verbs that make and use runs: train, chat, ask, runs, demo."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucida.apps.command import (
    FewBits,
    Overrides,
    RecipeName,
    Run,
    app,
    command,
    command_line,
    guarded,
    must_exist,
)

if TYPE_CHECKING:
    from lucida.core.spec import Recipe


@app.command()
@guarded
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder.", show_default="runs/NAME"),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Go on with a run although its data or parts have changed since it began.",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Tell this tracker too (see `lucida track`)."),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Play it through in minutes: a few steps of every stage and a few questions of "
            "every benchmark, on tiny random parts and made-up records; nothing is fetched.",
        ),
    ] = False,
) -> None:
    """Train a recipe; a stopped run continues by itself.

    A run folder given as the recipe goes on itself; with changes it needs another --run DIR.
    """
    from lucida.core.recipe import load_recipe
    from lucida.core.runs import RunFolder
    from lucida.core.start import check_parts
    from lucida.training.folder import finished, folder_of, tell_finished

    value = load_recipe(recipe, overrides or [])
    if rehearse:
        from lucida.apps.rehearse import rehearsal

        rehearsal.rehearse(value, run or Path("runs") / "rehearsals" / value.name)
        return
    folder = folder_of(recipe, value, run, changed=bool(overrides))
    if finished(RunFolder(folder), value):  # said at once: what trains takes seconds to import
        tell_finished(RunFolder(folder))
        _propose(value, folder)
        return
    check_parts(value.model)
    from lucida.apps.ahead import check_evaluation
    from lucida.apps.track import Followers
    from lucida.eval.during_training import observers
    from lucida.training.loop import train_run

    check_evaluation(value)
    followers = Followers(folder, track or [])
    try:
        train_run(value, folder, command_line(), observers(value), accept_changes)
    finally:
        followers.end()
    _propose(value, folder)


def _propose(recipe: Recipe, folder: Path) -> None:
    """Say what to type next; of several processes the first does."""
    from lucida.apps.ahead import following
    from lucida.core.progress import say

    words, remarks = following(recipe, folder)
    for remark in remarks:
        say(remark)
    say(f"next: {shlex.join([*command(), *words])}")


@app.command()
@guarded
def chat(
    run: Run,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Show this image; may be repeated.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this once and leave.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always gives the likeliest answer.")
    ] = 0.0,
    weights: FewBits = None,
) -> None:
    """Talk with a trained model about images."""
    must_exist(run)
    from lucida.apps.chat import main as talk

    talk(run, image or [], prompt, max_new_tokens, temperature, weights)


@app.command()
@guarded
def ask(
    run: Run,
    questions: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="JSONL, CSV or TSV with `question`, and `image` or `images` (paths from its "
            "folder).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL with a row for each question.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
) -> None:
    """Ask a run every question of a file; a stopped one goes on."""
    must_exist(run)
    from lucida.apps.ask import main as ask_file

    ask_file(run, questions, out, max_new_tokens)


@app.command()
@guarded
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs"),
) -> None:
    """List runs with their state and scores."""
    from lucida.core.progress import table
    from lucida.core.runs import list_runs

    found = list_runs(folder)
    if not found:
        typer.echo(f"no runs in {folder}; `lucida train mini` makes one")
        return
    tasks = sorted({task for each in found for task in each.scores})
    rows = [
        [
            *(str(each.path), each.recipe, each.state, each.stage, each.step, each.left_out),
            *(each.scores.get(t) for t in tasks),
        ]
        for each in found
    ]
    table("runs", ["run", "recipe", "state", "stage", "step", "left out", *tasks], rows)
    for each in found:
        if each.problem:
            typer.echo(f"{each.path}: {each.problem}", err=True)


@app.command()
@guarded
def demo(
    overrides: Overrides = None,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="What to train.")] = "mini",
) -> None:
    """Train, measure and show answers, in minutes."""
    from lucida.apps.demo import main as run_demo

    run_demo(run, recipe, overrides or [])
