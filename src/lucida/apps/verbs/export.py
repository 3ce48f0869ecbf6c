"""Verbs that carry models to other programs and back: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lucida.apps.command import Run, app, guarded, must_exist


@app.command()
@guarded
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must be new.")],
    format: Annotated[
        Literal["auto", "llava", "remote-code"],
        typer.Option(help="auto is llava where the design fits, else remote-code."),
    ] = "auto",
) -> None:
    """Write a trained model for programs that do not know Lucida."""
    must_exist(run)
    from lucida.apps.export.write import export as write

    done = write(run, out, format)
    for reason in done.obstacles:
        typer.echo(f"not a Llava: {reason}", err=True)
    trusted = ", trust_remote_code=True" if done.format == "remote-code" else ""
    found = done.agreement
    typer.echo(
        f"wrote {out} as {done.format}; reloaded and asked {found.prompts} prompts with "
        f"{found.images} images: logits differ by at most {found.logits:.2g}, "
        f"pixels by {found.pixels:.2g}, tokens not at all",
        err=True,
    )
    typer.echo(
        f"from transformers import AutoModelForImageTextToText as Auto, AutoProcessor\n"
        f'model = Auto.from_pretrained("{out}"{trusted})\n'
        f'processor = AutoProcessor.from_pretrained("{out}"{trusted})'
    )


@app.command("import")
@guarded
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint to read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must be new.")],
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Chat template, if none writes as its processor does."),
    ] = None,
) -> None:
    """Read a transformers Llava checkpoint as a model of Lucida's."""
    must_exist(folder)
    from lucida.apps.export.read import read

    done = read(folder, out, template)
    typer.echo(
        f"wrote {out} (template {done.template}); asked {done.agreement.prompts} prompts with "
        f"{done.agreement.images} images: logits differ by at most {done.agreement.logits:.2g}",
        err=True,
    )
