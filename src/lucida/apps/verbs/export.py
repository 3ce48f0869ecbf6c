"""Verbs that carry models and runs to other programs: export, import, track, push."""

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
        Literal["auto", "llava", "llava-next", "gguf", "remote-code"],
        typer.Option(
            help="auto is llava or llava-next where the design fits, else remote-code; gguf is for "
            "llama.cpp."
        ),
    ] = "auto",
    quantize: Annotated[
        Literal["f32", "f16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q4_k_m", "q4_1", "q4_0"] | None,
        typer.Option(
            help="How gguf keeps the language model's matrices; f16 if not given. q6_k, q5_k_m and "
            "q4_k_m are llama-quantize's mixes."
        ),
    ] = None,
) -> None:
    """Write a trained model for programs that do not know Lucida."""
    must_exist(run)
    from lucida.apps.export.write import export as write

    done = write(run, out, format, quantize)
    for reason in done.obstacles:
        typer.echo(f"not a Llava: {reason}", err=True)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    compared = "read back, bit by bit"
    if found := done.agreement:
        compared = (
            f"reloaded and asked {found.prompts} prompts with {found.images} images: logits differ "
            f"by at most {found.logits:.2g}, pixels by {found.pixels:.2g}, tokens not at all"
        )
    typer.echo(f"wrote {out} as {done.format}, with a model card; {compared}", err=True)
    typer.echo(done.commands)


@app.command("import")
@guarded
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint to read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must be new.")],
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Chat template, if none writes as its processor does."),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read weights that are pickles (.pt, .bin): only tensors, no code is run.",
        ),
    ] = False,
    vision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Folder or Hub id of a vision encoder that the checkpoint only names; repeat it "
            "for fused encoders.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Folder or Hub id of the language model that the checkpoint starts from.",
        ),
    ] = None,
) -> None:
    """Read a checkpoint of transformers' Llava or LlavaNext, of LLaVA's or Prismatic's own code."""
    must_exist(folder)
    from lucida.apps.export.read import read

    done = read(
        folder,
        out,
        template,
        allow_pickle=allow_pickle,
        vision=tuple(vision or ()),
        language=language,
    )
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"wrote {out} (template {done.template}); asked {done.agreement.prompts} prompts with "
        f"{done.agreement.images} images: logits differ by at most {done.agreement.logits:.2g}",
        err=True,
    )


@app.command()
@guarded
def track(
    run: Run,
    to: Annotated[
        list[str], typer.Option(metavar="NAME", help="tensorboard, wandb, trackio or mlflow.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until standard input ends (Ctrl-D).")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Keep everything on this machine.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="RUN/trackers/NAME")
    ] = None,
) -> None:
    """Give a run's numbers, scores and answered pictures to a tracker.

    While it trains: `lucida train RECIPE --track NAME`. The same command again goes on where the
    last one ended.
    """
    must_exist(run)
    from lucida.apps.track import track as tell

    for name in to:
        tell(run, name, follow, offline, out)


@app.command()
@guarded
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run, or what export wrote.")],
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A new repository.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see.")] = False,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="How a run is exported (see `lucida export`).")
    ] = "auto",
) -> None:
    """Upload a model to a new repository of the Hugging Face Hub, private by default."""
    must_exist(run)
    from lucida.apps.push import push as upload

    typer.echo(upload(run, name, public, format))
