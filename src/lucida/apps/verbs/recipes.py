"""Verbs about recipes: new, show, explain, schema."""

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
