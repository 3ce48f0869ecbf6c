"""The verb that gives advice: recommend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Device, Devices, app, guarded


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
