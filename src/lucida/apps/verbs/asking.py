"""Verbs that ask a trained model: look, web, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lucida.apps.command import FewBits, app, guarded, must_exist

KINDS = "attention|occlusion|words|heads"


@app.command()
@guarded
def look(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|FOLDER", help="A run, or an export that transformers loads."),
    ],
    image: Annotated[
        list[Path], typer.Option(metavar="FILE", help="The picture; may be repeated.")
    ],
    question: Annotated[str, typer.Option(metavar="TEXT", help="What is asked about it.")],
    answer: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The answer to explain.", show_default="the model's own"),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar=KINDS, help="What to find out; may be repeated.", show_default="all"),
    ] = None,
    cells: Annotated[
        int, typer.Option(min=1, help="Cells along the longer side that are covered in turn.")
    ] = 8,
    cover: Annotated[
        Literal["mean", "grey", "blur"], typer.Option(help="What covers parts of a picture.")
    ] = "mean",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="RUN/look/NAME OF IMAGE"),
    ] = None,
) -> None:
    """Show what a model looked at: look.html, and maps over the picture as PNG.

    Attention, what covering each part of the picture changes, the words that each patch says, and
    what each head is good for.
    """
    must_exist(run)
    from lucida.apps.look import main

    target = out or run / "look" / image[0].stem
    options = {"cells": cells, "cover": cover, "max_new_tokens": max_new_tokens}
    main(run, image, question, target, answer, show, **options)


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
