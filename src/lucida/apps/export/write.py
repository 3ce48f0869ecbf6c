"""Exporting a run: choose the format, write aside, reload, compare, and only then give the name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lucida.core.errors import ModelError, RunError
from lucida.core.files import atomic_folder
from lucida.data.jinja import chat_jinja
from lucida.model.conversion.fits import OBSTACLES, language_obstacles, nearest

if TYPE_CHECKING:
    from lucida.apps.export.probes import Agreement
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

Format = Literal["auto", "llava", "llava-next", "remote-code"]
FORMATS: tuple[Format, ...] = ("auto", "llava", "llava-next", "remote-code")
TITLES = {"llava": "Llava", "llava-next": "LlavaNext"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the format, why it is no Llava (if it runs on Lucida), how well it
    agrees."""

    format: Format
    obstacles: list[str]
    agreement: Agreement


def export(run: Path, out: Path, wanted: Format = "auto") -> Exported:
    """Write the trained model of a run as a folder for programs that know nothing of Lucida.

    `auto` takes `llava` or `llava-next` where the design fits and `remote-code` otherwise. The
    folder is reloaded from disk and has to give equal tokens, pixels and logits; then it is renamed
    to `out`. ModelError with every reason when the design does not fit the format, or when the
    comparison fails; nothing is left at `out` then.
    """
    from lucida.model.checkpoint import load

    if wanted not in FORMATS:
        raise ModelError("unknown export format", expected=", ".join(FORMATS), given=wanted)
    must_be_free(out)
    model, processor = load(run)
    chosen, obstacles = format_of(model, processor, wanted)
    if wanted in OBSTACLES and obstacles:
        listed = "".join(f"\n  - {each}" for each in obstacles)
        raise ModelError(
            f"this design is no {TITLES[wanted]}:{listed}\n",
            origin=run,
            remedy="export with --format remote-code, which runs on Lucida",
        )
    if chosen in OBSTACLES:
        from lucida.model.conversion.llava import write_llava as write
    else:
        from lucida.apps.export.remote import write_remote as write
    with atomic_folder(out) as aside:
        write(model, processor, aside)
        agreement = check(model, processor, chosen, aside)
    return Exported(chosen, obstacles, agreement)


def check(
    model: LucidaModel, processor: LucidaProcessor, format: Format, folder: Path
) -> Agreement:
    """Reload the folder and compare it with the model; ModelError when they differ."""
    from lucida.apps.export.probes import compare
    from lucida.apps.export.remote import Remote
    from lucida.model.conversion.llava import Llava

    other = (Llava if format in OBSTACLES else Remote)(folder)
    return compare(
        model, processor, lambda given: other.logits(given, 0), folder.name, other.inputs
    )


def format_of(
    model: LucidaModel, processor: LucidaProcessor, wanted: Format
) -> tuple[Format, list[str]]:
    """The format that a model is written in, and why it is not the wanted one, or under `auto` none
    of transformers' (then the reasons are those against the nearest)."""
    if wanted == "remote-code":
        return wanted, []
    asked = wanted if wanted in OBSTACLES else nearest(model.config.model_spec)
    found = reasons(model, processor, asked)
    return ("remote-code" if found else asked), found


def reasons(
    model: LucidaModel, processor: LucidaProcessor, format: Literal["llava", "llava-next"] = "llava"
) -> list[str]:
    """Every reason why this model is no Llava (or LlavaNext), those of its weights and template
    included."""
    config = model.config
    vision = None if model.vision is None else config.vision_config
    found = OBSTACLES[format](config.model_spec, vision, config.text_config, config.image_size)
    found += language_obstacles(model.language)
    try:
        chat_jinja(
            processor.template, processor.tokenizer, processor.image_token, processor.image_places
        )
    except ModelError as problem:
        found.append(str(problem))
    return found


def must_be_free(out: Path) -> None:
    """Refuse a place where something stands already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            "something stands there already", origin=out, remedy="give a folder that is new"
        )
