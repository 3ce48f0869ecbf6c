"""Exporting a run: choose the format, write aside, reload, compare, and only then give the name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lucida.core.errors import ModelError
from lucida.core.files import atomic_folder, check_free
from lucida.data.jinja import chat_jinja
from lucida.model.conversion.fits import (
    OBSTACLES,
    gguf_obstacles,
    language_obstacles,
    nearest,
    vllm_obstacles,
)
from lucida.model.folder import CHAT

if TYPE_CHECKING:
    from lucida.apps.export.probes import Agreement
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

Format = Literal["auto", "llava", "llava-next", "gguf", "remote-code"]
FORMATS: tuple[Format, ...] = get_args(Format)
TITLES = {
    "llava": "Llava",
    "llava-next": "LlavaNext",
    "gguf": "model that llama.cpp runs as it was trained",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the format, why it is no Llava (if it runs on Lucida), how well it agrees
    (None where the other program is not at hand), how it is run, and what that program does
    otherwise."""

    format: Format
    obstacles: list[str]
    agreement: Agreement | None
    commands: str
    notes: list[str] = field(default_factory=list)


def export(run: Path, out: Path, wanted: Format = "auto", quantize: str | None = None) -> Exported:
    """Write the trained model of a run as a folder for programs that know nothing of Lucida.

    `auto` takes `llava` or `llava-next` where the design fits and `remote-code` otherwise. The
    folder is reloaded from disk and has to give equal tokens, pixels and logits (of `gguf` the
    files are read back, bit by bit); then it is renamed to `out`. quantize: how `gguf` keeps
    matrices, f16 if None. ModelError with every reason when the design does not fit the format, or
    when the comparison fails; nothing is left at `out` then.
    """
    from lucida.model.checkpoint import load

    if wanted not in FORMATS:
        raise ModelError("unknown export format", expected=", ".join(FORMATS), given=wanted)
    if quantize is not None and wanted != "gguf":
        raise ModelError(
            "only the format gguf keeps weights in fewer bits",
            given=f"quantize {quantize} with format {wanted}",
            remedy="add --format gguf, or leave --quantize out",
        )
    check_free(out)
    model, processor = load(run)
    chosen, obstacles = format_of(model, processor, wanted)
    if wanted in TITLES and obstacles:
        listed = "".join(f"\n  - {each}" for each in obstacles)
        raise ModelError(
            f"this design is no {TITLES[wanted]}:{listed}\n",
            origin=run,
            remedy="export with --format remote-code, which runs on Lucida",
        )
    from lucida.apps.export.card import write_card

    agreement, notes, options = None, [], ""
    with atomic_folder(out) as aside:
        if chosen == "gguf":
            names, notes, options = write_for_llama(model, processor, aside, quantize or "f16")
        else:
            names = []
            if chosen in OBSTACLES:
                from lucida.model.conversion.llava import write_llava as write
            else:
                from lucida.apps.export.remote import write_remote as write
            write(model, processor, aside)
            agreement = check(model, processor, chosen, aside)
        vllm = vllm_note(model, processor, chosen, out.name)
        hint = commands_of(chosen, out.name, names, options)
        fence = "sh" if chosen == "gguf" else "python"
        missing = write_card(
            run, aside, model, chosen, f"```{fence}\n{hint}\n```\n\n{vllm}.", notes
        )
    commands = commands_of(chosen, str(out), names, options)
    return Exported(chosen, obstacles, agreement, commands, [*notes, vllm, *missing])


def write_for_llama(
    model: LucidaModel, processor: LucidaProcessor, folder: Path, quantize: str
) -> tuple[list[str], list[str], str]:
    """Write llama.cpp's two files: their names, what it does otherwise, and what it has to be told
    beside them."""
    from lucida.model.conversion.gguf import gguf_notes, gguf_options, note_mix, write_gguf

    files = write_gguf(model, processor, folder, quantize)
    notes = [*gguf_notes(model, processor), *note_mix(files[0], quantize)]
    notes.append("scores were measured with the run's own weights, not with these files")
    return [file.name for file in files], notes, gguf_options(model, processor)


def vllm_note(model: LucidaModel, processor: LucidaProcessor, format: Format, folder: str) -> str:
    """Whether vLLM runs an export, and by which command."""
    spec = model.config.model_spec
    vision = None if model.vision is None else model.config.vision_config
    text = model.config.text_config
    # vLLM refuses a length beyond the positions that the language model knows.
    longest = min(processor.max_length, text.max_position_embeddings)
    return describe_vllm(format, vllm_obstacles(spec, format, vision, text), folder, longest)


def describe_vllm(format: str, obstacles: list[str], folder: str, longest: int) -> str:
    """One sentence about vLLM, with the command where it runs an export."""
    if obstacles:
        return f"vLLM does not run it: {'; '.join(obstacles)}"
    command, how = f"vllm serve {folder} --max-model-len {longest}", "natively"
    if format == "remote-code":
        command += f" --model-impl transformers --trust-remote-code --chat-template {folder}/{CHAT}"
        how = "through its transformers backend, with Lucida installed beside it"
    return f"vLLM runs it {how}, by its source (not tried): `{command}`"


def commands_of(format: Format, folder: str, files: list[str], options: str = "") -> str:
    """What to type to run an export; options: what llama-server has to be told beside its files."""
    if format == "gguf":
        language, vision = files
        return f"llama-server -m {folder}/{language} --mmproj {folder}/{vision} --jinja{options}"
    trusted = ", trust_remote_code=True" if format == "remote-code" else ""
    return (
        "from transformers import AutoModelForImageTextToText as Auto, AutoProcessor\n"
        f'model = Auto.from_pretrained("{folder}"{trusted})\n'
        f'processor = AutoProcessor.from_pretrained("{folder}"{trusted})'
    )


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
    asked = wanted if wanted in TITLES else nearest(model.config.model_spec)
    found = reasons(model, processor, asked)
    return ("remote-code" if found else asked), found


def reasons(model: LucidaModel, processor: LucidaProcessor, format: Format) -> list[str]:
    """Every reason why this model is none of a format, those of its weights, tokenizer and template
    included."""
    config = model.config
    vision = None if model.vision is None else config.vision_config
    facts = config.model_spec, vision, config.text_config, config.image_size
    if format == "gguf":
        from lucida.model.conversion.gguf import tokenizer_obstacles

        found = gguf_obstacles(*facts) + tokenizer_obstacles(model, processor)
    else:
        found = OBSTACLES[format](*facts) + language_obstacles(model.language)
    try:
        chat_jinja(
            processor.template, processor.tokenizer, processor.image_token, processor.image_places
        )
    except ModelError as problem:
        found.append(str(problem))
    return found
