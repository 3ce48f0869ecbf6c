"""The question and the answer that is looked at, as tokens of one row.

<bos> I I I I what ? | red <end>        fed: all but the last
                   ^   ^                asking: the positions that predict the answer's tokens
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from lucida.core.errors import DataError
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, Sample, Tokens

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

END = "(end)"
"""Shown for the token that ends an answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """tokens: what is fed. asking, targets [T]: the positions that predict the answer's tokens, and
    their ids. shown: the tokens as people read them. text: the whole answer."""

    tokens: Tokens
    asking: np.ndarray
    targets: np.ndarray
    shown: tuple[str, ...]
    text: str


def ask_once(
    model: LucidaModel,
    processor: LucidaProcessor,
    sample: Sample,
    answer: str | None,
    max_new_tokens: int,
) -> Asked:
    """A question with its answer: the given one, or what the model says."""
    if not sample.images:
        raise DataError("a question without a picture has nothing to look at", origin=sample.origin)
    if answer is None:
        stem = processor.prompt(sample)
        targets, ended = _write(model, processor, stem, max_new_tokens)
    else:
        stem, targets, ended = _read(processor, sample, answer)
    words = targets[: len(targets) - ended].tolist()
    shown = (*(write_token(token, processor) for token in words), *([END] * ended))
    text = processor.tokenizer.decode(words, skip_special_tokens=True).strip()
    tokens = _lay_out(stem, targets)
    return Asked(tokens, np.arange(len(stem) - 1, len(tokens)), targets, shown, text)


def write_token(token: int, processor: LucidaProcessor) -> str:
    """A token as text: a space as ·, a line break as ⏎, and half a character by its own name."""
    text = processor.tokenizer.decode([token])
    if not text or "\ufffd" in text:
        return str(processor.tokenizer.convert_ids_to_tokens(token))
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def _lay_out(stem: Tokens, targets: np.ndarray) -> Tokens:
    """A prompt with an answer behind it, its last token left out."""
    fed = np.concatenate([stem.input_ids, targets[:-1]])
    target = np.full(len(fed), IGNORED, np.int64)
    target[len(stem) - 1 :] = targets  # masks take what stands before it for the prompt
    return replace(
        stem,
        input_ids=fed,
        branch=np.ones_like(fed),
        position=np.append(stem.position, stem.behind(len(stem)) + np.arange(len(targets) - 1)),
        image=np.pad(stem.image, (0, len(targets) - 1)),
        target=target,
    )


def _write(
    model: LucidaModel, processor: LucidaProcessor, prompt: Tokens, most: int
) -> tuple[np.ndarray, bool]:
    """The ids of the likeliest answer, its end included where it ended."""
    from lucida.model.decode import write

    ((_, written),) = write(model, processor, [prompt], most)
    if not written.ended:
        return np.array(written.ids, np.int64), False
    # Of the end tokens that a model may know, the likeliest.
    # `write` does not say which end token it was, so the answer is read once more; the token behind
    # it is never fed, any will do.
    row = _lay_out(prompt, np.array([*written.ids, prompt.input_ids[-1]], np.int64))
    batch = collate([row], pack=False, pad_id=processor.tokenizer.pad_token_id)
    batch.pixel_values = processor.pixels(row.images)
    with torch.no_grad():
        hidden = model.hidden(batch.to(model.device), model.mask_for(processor))
        scores = model.logits(hidden[0, -1])
    known = model.generation_config.eos_token_id
    ends = torch.tensor([known] if isinstance(known, int) else known, device=scores.device)
    return np.array([*written.ids, int(ends[scores[ends].argmax()])], np.int64), True


def _read(
    processor: LucidaProcessor, sample: Sample, answer: str
) -> tuple[Tokens, np.ndarray, bool]:
    """What stands before a given answer, and its ids, the end token the last of them."""
    from lucida.eval.likelihood import question

    if not answer.strip():
        raise DataError("the answer to explain is empty", remedy="leave it out for the model's own")
    read = question(processor, 0, sample, [answer])
    return read.stem, read.targets[0], True
