"""How well a model predicts plain documents: the negative log-likelihood of all their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lucida.core.errors import DataError
from lucida.data.chat import encode
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, Sample, Tokens
from lucida.eval.likelihood import BATCH_TOKENS, log_probabilities
from lucida.model.evaluating import evaluating
from lucida.model.trees import batches

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


@torch.no_grad()
def document_losses(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[tuple[int, tuple[float, int]]]:
    """(number of the sample, (nats, tokens)) for documents without pictures.

    The end token is no part of the text and is not predicted, nor is a first token with nothing
    before it (a tokenizer without a start token). A document longer than the context is read in
    windows, each from its own start. The model's mode and generators stay as they are.
    """
    windows = []
    for number, sample in enumerate(samples):
        windows += [(number, window) for window in windows_of(processor, sample)]
    waiting = np.bincount([number for number, _ in windows], minlength=len(samples))
    nats, counts = np.zeros(len(samples)), np.zeros(len(samples), dtype=np.int64)
    windows.sort(key=lambda pair: len(pair[1]))  # similar lengths together
    for batch in batches(windows, lambda pairs: sum(len(w) for _, w in pairs), batch_tokens):
        with evaluating(model):
            losses = batch_losses(model, processor, batch)
        for (number, window), loss in zip(batch, losses, strict=True):
            nats[number] += loss
            # The first token of a window has nothing before it that could predict it.
            counts[number] += len(window) - 1
            waiting[number] -= 1
            if not waiting[number]:
                yield number, (float(nats[number]), int(counts[number]))


def windows_of(processor: LucidaProcessor, sample: Sample) -> list[Tokens]:
    """The document's tokens in pieces that fit the context, each with the start token if any."""
    if sample.images:
        raise DataError("the loss is of plain text, not of pictures", origin=sample.origin)
    whole = encode(
        sample,
        processor.tokenizer,
        processor.template,
        processor.visual_tokens,
        processor.image_policy,
        processor.coordinate_bins,
        "all",
        2**62,
        image_token_id=processor.image_token_id,
    )
    ids = whole.input_ids[:-1]  # without the end token
    start = processor.tokenizer.bos_token_id
    begins = start is not None and len(ids) > 0 and ids[0] == start
    body = ids[1:] if begins else ids
    size = processor.max_length - int(begins)
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    if begins:
        pieces = [np.concatenate([[start], piece]) for piece in pieces]
    if not any(len(piece) > 1 for piece in pieces):
        raise DataError(
            "a document has no token to predict", given=f"{len(ids)} tokens", origin=sample.origin
        )
    return [plain(piece, sample.origin) for piece in pieces if len(piece) > 1]


def plain(ids: np.ndarray, origin: str) -> Tokens:
    """Text as one branch, each position asked for the next token."""
    nothing = np.zeros(len(ids), dtype=np.int64)
    target = np.append(ids[1:], IGNORED)
    return Tokens(origin, (), ids, nothing + 1, np.arange(len(ids)), nothing, target)


def batch_losses(
    model: LucidaModel, processor: LucidaProcessor, batch: Sequence[tuple[int, Tokens]]
) -> list[float]:
    """The summed negative log-likelihood of each window."""
    rows = [window for _, window in batch]
    fields = collate(rows, pack=True, pad_id=processor.tokenizer.pad_token_id).to(model.device)
    hidden = model.hidden(fields, model.mask_for(processor))[0]
    where = (fields.target[0] >= 0).nonzero().squeeze(1)
    scores = -log_probabilities(model, hidden, where, fields.target[0, where])
    # One score fewer than a window has tokens, window behind window.
    ends = np.cumsum([len(row) - 1 for row in rows])
    return [float(part.sum()) for part in np.split(scores, ends[:-1])]
