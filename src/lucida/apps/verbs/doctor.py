"""The verb that finds the part at fault: doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Overrides, app, guarded


@app.command()
@guarded
def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE|RUN]", help="Without it: the environment alone."),
    ] = None,
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stage.", show_default="the last")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the overfitting trial.")] = 60,
) -> None:
    """Examine the environment and a recipe: what is broken, and what to do."""
    from lucida.apps.doctor.environment import environment_checks
    from lucida.apps.doctor.finding import report

    if recipe is None:
        broken = report("environment", environment_checks())
    else:
        from lucida.core.recipe import load_recipe

        value = load_recipe(recipe, overrides or [])
        from lucida.apps.doctor.examine import examine

        broken = report("environment", environment_checks(value))
        run = Path(recipe) if Path(recipe).is_dir() else None
        broken += report(f"recipe {value.name}", examine(value, stage, steps, run))
    if broken:
        raise typer.Exit(1)
