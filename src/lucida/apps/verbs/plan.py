"""The verb about cost: plan."""

from __future__ import annotations

import json
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
