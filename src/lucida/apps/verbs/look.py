"""The verb look: what a model looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lucida.apps.command import app, guarded, must_exist

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
