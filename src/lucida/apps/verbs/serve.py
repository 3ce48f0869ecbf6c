"""Verbs that put a model behind an address: serve, web."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import FewBits, app, guarded, must_exist

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Run folders, or hf:FOLDER for what transformers loads."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")]


@app.command()
@guarded
def serve(
    run: Runs,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Port = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LUCIDA_API_KEY", metavar="KEY", help="Clients must send it."),
    ] = None,
    most_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; more get 429.")
    ] = 256,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Also take pictures from https://HOST/ (repeat)."),
    ] = None,
    weights: FewBits = None,
) -> None:
    """Answer OpenAI's clients and people: /v1/chat/completions, and a page at /.

    Several runs are served side by side, each by its folder's name; the blind model of one as
    NAME/blind.
    """
    check_targets(run)
    from lucida.serve.start import start

    start(run, host, port, api_key, most_waiting, hosts=allow_host or (), weights=weights)


def check_targets(targets: list[str]) -> None:
    """Refuse a folder that is not there, before anything is imported."""
    for each in targets:
        must_exist(Path(each.removeprefix("hf:")))


@app.command()
@guarded
def web(run: Runs, port: Port = 0) -> None:
    """Serve runs on this machine and open the page in a browser."""
    check_targets(run)
    from lucida.serve.start import start

    start(run, "127.0.0.1", port, None, 256, browser=True)
