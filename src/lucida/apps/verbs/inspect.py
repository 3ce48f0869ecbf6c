"""The verb that shows one batch as the model sees it: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import Overrides, RecipeName, app, guarded


@app.command()
@guarded
def inspect(
    recipe: RecipeName,
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stage.", show_default="the first")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Longest table of tokens.")] = 90,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page instead, with pictures.")
    ] = None,
) -> None:
    """Show the first batch as the model sees it: pictures, tokens, labels, mask."""
    from lucida.core.recipe import load_recipe

    value = load_recipe(recipe, overrides or [])
    from lucida.apps.inspect.look import look

    seen = look(value, stage, samples)
    if html is not None:
        from lucida.apps.inspect.page import write

        write(seen, html)
        typer.echo(f"wrote {html}", err=True)
        return
    from lucida.apps.inspect.terminal import show
    from lucida.core.progress import output

    show(seen, output(), tokens)
