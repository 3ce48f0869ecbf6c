"""Verbs about the tiny pretrained parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import app, guarded

parts_app = typer.Typer(help="The tiny pretrained parts of the miniature world.")
app.add_typer(parts_app, name="parts", invoke_without_command=True)


@parts_app.callback(invoke_without_command=True)
@guarded
def parts(context: typer.Context) -> None:
    """List the parts that ship with Lucida, with what was measured on them."""
    if context.invoked_subcommand is None:
        from lucida.core.progress import table
        from lucida.parts.table import card_rows

        columns = ["part", "parameters", "what", "measured (held out)", "made by"]
        table("pretrained parts", columns, card_rows())


@parts_app.command("build")
@guarded
def build_part(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A part, as `lucida parts` lists.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it must be new.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps.", show_default="own")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Make a part from nothing: text and pictures of the world, no download."""
    from lucida.core.progress import table
    from lucida.parts.table import beside_shipped
    from lucida.parts.table import build_part as build

    card = build(name, out, seed=seed, **({} if steps is None else {"steps": steps}))
    columns = ["measured (held out)", "this one", "the one that ships"]
    table(f"{name} in {out}", columns, beside_shipped(name, card))
    typer.echo(f"wrote {out}; its card is {out / 'card.json'}", err=True)
