"""Importing: a checkpoint of another program becomes a model folder of Lucida's, compared first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lucida.apps.export.write import must_be_free
from lucida.core.errors import ModelError, suggestion

if TYPE_CHECKING:
    from lucida.apps.export.assemble import Imported

TRANSFORMERS = ("llava", "llava_next")
"""Kinds of checkpoints of transformers that are read."""


def read(
    folder: Path,
    out: Path,
    template: str | None = None,
    *,
    allow_pickle: bool = False,
    vision: tuple[str, ...] = (),
    language: str | None = None,
) -> Imported:
    """Make the model folder `out` of a checkpoint: transformers' Llava and LlavaNext, the original
    LLaVA's layout, Prismatic's.

    Prompts of a transformers checkpoint are written by the first template that gives the tokens of
    its own processor; `template` names another, and then the tokens may differ (logits never).
    Pickles are read with `allow_pickle` only. `vision` and `language` name folders or Hub ids of
    parts that a checkpoint does not hold. ModelError for another kind of checkpoint, for what
    Lucida has no counterpart of, or when the results differ; nothing is left at `out` then.
    """
    from lucida.apps.export.assemble import Choices
    from lucida.data.templates import TEMPLATES
    from lucida.model.loading import refusing

    if template is not None and template not in TEMPLATES:
        raise ModelError(
            f"unknown template `{template}`", remedy=suggestion(template, list(TEMPLATES))
        )
    must_be_free(out)
    choices = Choices(template, allow_pickle, tuple(vision), language)
    kind = kind_of(folder)
    if kind == "prismatic":
        from lucida.apps.export.read_prismatic import read_prismatic as reader
    elif kind == "original":
        from lucida.apps.export.read_original import read_original as reader
    else:
        from lucida.apps.export.read_llava import read_transformers as reader
    with refusing(folder, "this checkpoint cannot be read"):
        return reader(folder, out, choices)


def kind_of(folder: Path) -> str:
    """`prismatic`, `original` (LLaVA's own layout) or transformers' `model_type`; ModelError when a
    folder is no checkpoint, is of a kind that is not read, or needs its own code."""
    from lucida.model.conversion import prismatic
    from lucida.model.folder import read_json

    if prismatic.read_config(folder) is not None:
        return "prismatic"
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError("this folder holds no checkpoint", expected="config.json", origin=folder)
    values = read_json(file)
    if "mm_vision_tower" in values or "mm_projector_type" in values:
        return "original"
    if values.get("model_type") == "lucida":
        raise ModelError(
            "this is Lucida's own layout already, exported or trained; there is nothing to import",
            origin=folder,
            remedy="use it as it is: `lucida chat FOLDER`, `lucida eval hf:FOLDER`",
        )
    if "auto_map" in values:
        raise ModelError(
            "this checkpoint needs code of its own, which is not run here",
            given=values["auto_map"],
            origin=folder,
            remedy="give a checkpoint in transformers' Llava layout, without `auto_map`",
        )
    kind = values.get("model_type", "nothing")
    if kind not in TRANSFORMERS:
        raise ModelError(
            "this checkpoint is of a kind that is not read here",
            expected=f"{', '.join(TRANSFORMERS)}, the original LLaVA's layout or Prismatic's",
            given=kind,
            origin=folder,
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            "the weights are no safetensors; pickles of this layout are not read",
            origin=folder,
            remedy="convert them first (transformers: save_pretrained)",
        )
    return kind
