"""Two evaluated folders side by side, on the terminal and as a page."""

from __future__ import annotations

from pathlib import Path

import typer

from lucida.apps.command import must_exist
from lucida.core.errors import RunError

MOST = 20
"""Values of the recipes that the terminal shows; the page has all."""


def compare_folders(folders: list[str], out: Path | None) -> None:
    """Tables of the scores and of the validation losses, what the recipes say otherwise, and a page
    in `out`, by default in the second folder."""
    if len(folders) != 2:
        raise RunError(
            "diff compares two evaluated folders",
            expected="diff A B",
            given=f"diff {' '.join(folders)}",
        )
    first, second = map(Path, folders)
    must_exist(first)
    must_exist(second)
    from lucida.core.progress import table
    from lucida.eval.difference import compare_losses, differences, tasks_of_one, write_page

    found = differences(first, second)
    rows = [
        [
            each.task,
            *map(each.shown, each.scores),
            each.shown(each.gain.mean, signed=True),
            " to ".join(each.shown(end, signed=True) for end in (each.gain.low, each.gain.high)),
            f"{each.gain.n:,}",
            f"{len(each.changes):,}",
        ]
        for each in found
    ]
    columns = ["task", "A", "B", "B - A", "95% interval", "examples", "changed"]
    table(f"A {first}, B {second}: the same examples", columns, rows)
    for each in found:
        for note in each.notes:
            typer.echo(f"{each.task}: {note}")
    for letter, folder, other in (("A", first, second), ("B", second, first)):
        if alone := tasks_of_one(folder, other):
            typer.echo(f"only {letter} was asked {', '.join(alone)}")
    if losses := compare_losses(first, second):
        columns = ["stage", "A", "B", "B - A"]
        lines = [[stage, *both, change] for stage, both, change in losses]
        table("validation loss, the last of each stage", columns, lines)
    _show_changes(first, second)
    page = write_page(first, second, found, (out or second) / "diff.html")
    typer.echo(f"page    {page}")


def _show_changes(first: Path, second: Path) -> None:
    from lucida.eval.difference import recipe_changes

    changes = recipe_changes(first, second)
    if changes:
        typer.echo("the recipes differ in (A -> B)")
    for line in changes[:MOST]:
        typer.echo(f"  {line}")
    if len(changes) > MOST:
        typer.echo(f"  and {len(changes) - MOST} more values, which the page lists")
