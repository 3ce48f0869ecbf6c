"""Verbs before a training, and when something is wrong: plan, recommend, inspect, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Device, Devices, Overrides, RecipeName, app, guarded


@app.command()
@guarded
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    device: Device = "cpu",
    devices: Devices = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a recipe needs: parameters, tokens, memory, time, exports. Loads no weights."""
    from lucida.core.recipe import load_recipe

    value = load_recipe(recipe, overrides or [])
    from lucida.apps.plan.devices import find_device
    from lucida.apps.plan.estimate import plan_recipe
    from lucida.apps.plan.show import show

    found = plan_recipe(value, find_device(device), devices)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found)


@app.command()
@guarded
def recommend(
    budget: Annotated[float, typer.Option(min=0.01, metavar="HOURS", help="Time for training.")],
    device: Device = "cpu",
    devices: Devices = 1,
    tasks: Annotated[
        str,
        typer.Option(metavar="A,B", help="Benchmarks or groups of them: general, text, places, "
                     "hard; on a CPU tasks of the miniature world. None: all."),
    ] = "",
    studies: Annotated[
        Path, typer.Option(metavar="DIR", help="Finished studies whose findings are told.")
    ] = Path("studies"),
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the recipe goes.")
    ] = Path("recommended.yaml"),
) -> None:  # fmt: skip
    """The recipe with the best published scores that fits, with the reasons for each choice."""
    from lucida.apps.plan.devices import find_device
    from lucida.apps.recommend import describe, write_recipe
    from lucida.apps.recommend import recommend as advise

    wanted = [name for name in tasks.split(",") if name]
    advice = advise(budget, wanted, find_device(device), devices, studies)
    write_recipe(advice, out)
    for line in describe(advice):
        typer.echo(line)
    typer.echo(f"recipe  {out}: edit it, then `lucida plan {out}`")


@app.command()
@guarded
def inspect(
    recipe: RecipeName,
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stage.", show_default="the first")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Longest table of tokens.")] = 90,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page instead, with pictures.")
    ] = None,
) -> None:
    """Show the first batch as the model sees it: pictures, tokens, labels, mask."""
    from lucida.core.recipe import load_recipe

    value = load_recipe(recipe, overrides or [])
    from lucida.apps.inspect.look import look

    seen = look(value, stage, samples)
    if html is not None:
        from lucida.apps.inspect.page import write

        write(seen, html)
        typer.echo(f"wrote {html}", err=True)
        return
    from lucida.apps.inspect.terminal import show
    from lucida.core.progress import output

    show(seen, output(), tokens)


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
