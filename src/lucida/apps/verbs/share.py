"""Verbs that take a run elsewhere: track, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Run, app, guarded, must_exist


@app.command()
@guarded
def track(
    run: Run,
    to: Annotated[
        list[str], typer.Option(metavar="NAME", help="tensorboard, wandb, trackio or mlflow.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until standard input ends (Ctrl-D).")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Keep everything on this machine.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="RUN/trackers/NAME")
    ] = None,
) -> None:
    """Give a run's numbers, scores and answered pictures to a tracker.

    While it trains: `lucida train RECIPE --track NAME`. The same command again goes on where the
    last one ended.
    """
    must_exist(run)
    from lucida.apps.track import track as tell

    for name in to:
        tell(run, name, follow, offline, out)


@app.command()
@guarded
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run, or what export wrote.")],
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A new repository.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see.")] = False,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="How a run is exported (see `lucida export`).")
    ] = "auto",
) -> None:
    """Upload a model to a new repository of the Hugging Face Hub, private by default."""
    must_exist(run)
    from lucida.apps.push import push as upload

    typer.echo(upload(run, name, public, format))
