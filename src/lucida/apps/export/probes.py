"""Conversations that an export is asked before and after: the comparison behind "done"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from lucida.core.errors import DataError, ModelError
from lucida.data.sample import Views

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

LOGITS = 1e-5
"""Largest difference between two logits in fp32."""
PIXELS = 1e-5
"""Largest difference between two normalised pixel values."""

Conversation = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was compared and how far it lies apart at most."""

    prompts: int
    images: int
    logits: float
    pixels: float


def picture(number: int, width: int, height: int) -> Image.Image:
    """A picture with slopes and noise, always the same for the same number."""
    noise = np.random.default_rng(number).integers(0, 64, (height, width, 3))
    across = np.linspace(0, 190, width)[None, :, None]
    down = np.linspace(0, 190, height)[:, None, None]
    slopes = np.concatenate([across + 0 * down, down + 0 * across, 0.5 * (across + down)], axis=2)
    return Image.fromarray((slopes + noise).astype(np.uint8))


def conversations() -> list[Conversation]:
    """One image, several, none; wide, high and square; one round and more."""
    wide, high, square = picture(1, 97, 64), picture(2, 60, 121), picture(3, 64, 64)

    def user(*parts: str | Image.Image) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part}
            for part in parts
        ]
        return {"role": "user", "content": content}

    def assistant(text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": [{"type": "text", "text": text}]}

    return [
        [user(wide, "What is this?")],
        [user(high, square, "Compare the two.")],
        [user("First", square, "then", wide, "which one is red?")],
        [user("How many sides has a square?")],
        [user(square, "What colour?"), assistant("red"), user("And the shape?")],
        [{"role": "system", "content": "Be brief."}, user(wide, "What is this?")],
    ]


def asked(processor: LucidaProcessor) -> list[Conversation]:
    """Those of `conversations()` that this model's template writes and that fit its context."""
    kept, why = [], None
    for conversation in conversations():
        try:
            processor.apply_chat_template(conversation, add_generation_prompt=True)
        except DataError as problem:
            why = problem
        else:
            kept.append(conversation)
    if not kept:
        raise ModelError(f"no prompt can be asked of this model: {why}")
    return kept


def groups(probes: list[Conversation]) -> list[list[Conversation]]:
    """Each by itself, and all of them as one batch with padding."""
    return [*([each] for each in probes), probes]


Written = Callable[[list[Conversation]], dict[str, torch.Tensor]]
"""What a processor makes of a group of conversations."""
Answered = Callable[[dict[str, torch.Tensor]], torch.Tensor]
"""The logits that a model gives to it."""


@torch.no_grad()
def compare(
    model: LucidaModel,
    processor: LucidaProcessor,
    answered: Answered,
    origin: object,
    written: Written | None = None,
) -> Agreement:
    """Ask both the same and give the largest differences; ModelError for any that counts.

    Prompt by prompt and as one padded batch: ids and masks equal, pixels within `PIXELS`, logits
    (at every position that is no padding) within `LOGITS`. Without `written`, the other's
    processor, the same tokens and pixels go through both models.
    """
    probes = asked(processor)
    logits, pixels, images = [0.0], [0.0], 0
    for group in groups(probes):
        ours = dict(
            processor.apply_chat_template(
                group, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        )
        if "pixel_values" in ours:
            images += len(ours["pixel_values"])
        if written is not None:
            pixels.append(inputs_apart(ours, written(group), origin))
        seen = ours["attention_mask"].bool()
        # Rotary phases of shifted rows round differently; both count from the first real token.
        ours["position_ids"] = (ours["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        expected, given = model(**ours).logits, answered(ours)
        words = min(expected.shape[-1], given.shape[-1])  # Lucida may have added tokens
        difference = expected[..., :words] - given[..., :words]
        logits.append(float(difference[seen].abs().max()))
    # NumPy keeps NaN, which Python's `max` drops.
    most = Agreement(len(probes), images, float(np.max(logits)), float(np.max(pixels)))
    for what, allowed, given in (
        ("normalised pixels", PIXELS, most.pixels),
        ("logits", LOGITS, most.logits),
    ):
        if not given <= allowed:
            raise differs(what, f"at most {allowed:g} apart", f"{given:.3g}", origin)
    return most


def inputs_apart(
    ours: dict[str, torch.Tensor], given: dict[str, torch.Tensor], origin: object
) -> float:
    """The largest difference between pixels; ModelError where tokens or masks differ, or where one
    side alone has images."""
    for name in ("input_ids", "attention_mask"):
        if not torch.equal(ours[name], given[name]):
            raise differs(name, ours[name], given[name], origin)
    if ("pixel_values" in ours) != ("pixel_values" in given):
        raise differs("the images", sorted(ours), sorted(given), origin)
    if "pixel_values" not in ours:
        return 0.0
    mine, theirs = Views.read(ours["pixel_values"]), Views.read(given["pixel_values"])
    if len(mine) != len(theirs):
        raise differs("the images", len(mine), len(theirs), origin)
    return apart(mine, theirs, origin)


def apart(ours: Views, given: Views, origin: object) -> float:
    """The largest difference between what images became on both sides.

    On the other side, where tiles of several images are one tensor, they may be filled up with
    zeros.
    """
    most = [0.0]
    for mine, theirs in zip(ours.encoders(), given.encoders(), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            blank = one.new_zeros(max(0, len(other) - len(one)), *one.shape[1:])
            filled = torch.cat([one, blank])
            if filled.shape != other.shape:
                raise differs("the images", tuple(one.shape), tuple(other.shape), origin)
            most.append(float((filled - other).abs().max()))
    return float(np.max(most))


def differs(what: str, expected: object, given: object, origin: object) -> ModelError:
    """The error for an export that is not the model it was made from."""
    shown = [
        value.flatten().tolist()[:24] if isinstance(value, torch.Tensor) else value
        for value in (expected, given)
    ]
    return ModelError(
        f"the export does not equal the model: {what} differ",
        expected=shown[0],
        given=shown[1],
        origin=origin,
    )
