"""Greedy answers to many questions, each image encoded once and each shared beginning run once.

    questions about image A: a1 a2 a3, about B: b1

    stem      [A  ]  one forward for stems of equal length, key-value cache kept
              [B  ]
    select    [A  ] [A  ] [A  ] [B  ]              the cache, once for each question
    ask       [ a1] [  a2] [a3] [b1]               padded on the left, one forward
    decode    one token a step for all; rows that have ended leave the batch

Equal to `model.generate` one question at a time (tests/model/test_decode.py), at a fraction of the
cost: with 64 visual tokens, 8 questions an image and 5 new tokens the prompt is 5 times shorter.
Under a mask that lets an image see its question (`prefix`, `mutual`) nothing can be shared: each
prompt is run whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from lucida.core.errors import DataError
from lucida.data.sample import Sample, Tokens
from lucida.model.masks import ASK_WHOLE

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

BATCH_TOKENS = 16_384
"""Positions that one batch may hold at its end, answers included."""

KEEP = 0.75
"""Ended rows are dropped when at most this share is still being written: dropping copies the
cache, so doing it for every row would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, cut behind its last visual token (or its stem, whichever ends later).

    At 0 it is not cut: nothing of it is shared.
    """

    index: int
    prompt: Tokens
    cut: int

    @property
    def stem(self) -> tuple[tuple[str, ...], bytes]:
        """What must be equal for two requests to share their beginning."""
        images = tuple(source.key for source in self.prompt.images)
        return images, self.prompt.input_ids[: self.cut].tobytes()


def greedy(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """The most likely continuation of each sample, as text, in the order of the samples."""
    prompts = [processor.prompt(sample) for sample in samples]
    written = greedy_tokens(model, processor, prompts, max_new_tokens, batch_tokens)
    return [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]


@torch.no_grad()
def greedy_tokens(
    model: LucidaModel,
    processor: LucidaProcessor,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[int]]:
    """The same for prompts of one branch each, as ids without the end token.

    Nothing is cut: an answer ends with an end token of the model's generation settings, or at
    `max_new_tokens`.
    """
    training = model.training
    model.eval()
    whole = model.mask in ASK_WHOLE
    requests = [request(index, prompt, whole) for index, prompt in enumerate(prompts)]
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in batches(requests, max_new_tokens, batch_tokens):
        for asked, ids in zip(batch, answer(model, processor, batch, max_new_tokens), strict=True):
            answers[asked.index] = ids
    model.train(training)
    return answers


def request(index: int, prompt: Tokens, whole: bool = False) -> Request:
    """Cuts a prompt unless it is wanted whole; DataError when it has several branches."""
    if len(prompt) and int(prompt.branch.max()) > 1:
        raise DataError(
            "each prompt to be answered has one branch",
            expected=1,
            given=int(prompt.branch.max()),
            origin=prompt.origin,
            remedy="ask each branch as its own sample; equal stems are shared anyway",
        )
    if whole:
        return Request(index, prompt, 0)
    shared = np.flatnonzero((prompt.image > 0) | (prompt.branch == 0))
    cut = int(shared[-1]) + 1 if len(shared) else 1
    return Request(index, prompt, min(cut, len(prompt) - 1))


def batches(requests: list[Request], new: int, batch_tokens: int) -> Iterator[list[Request]]:
    """Requests whose stems have one length, equal stems side by side, within `batch_tokens`."""
    order = sorted(requests, key=lambda asked: (asked.cut, asked.stem, len(asked.prompt)))
    batch: list[Request] = []
    longest = 0
    for asked in order:
        longest = max(longest, len(asked.prompt))
        full = (len(batch) + 1) * (longest + new) > batch_tokens
        if batch and (full or asked.cut != batch[0].cut):
            yield batch
            batch, longest = [], len(asked.prompt)
        batch.append(asked)
    if batch:
        yield batch


def answer(
    model: LucidaModel, processor: LucidaProcessor, batch: list[Request], new: int
) -> list[list[int]]:
    """Answers of one batch."""
    cache, rows = run_stems(model, processor, batch)
    if cache is not None:
        cache.batch_select_indices(rows)
    cut = batch[0].cut if cache is not None else 0
    lengths = [len(asked.prompt) - cut for asked in batch]
    ids = torch.full((len(batch), max(lengths)), processor.tokenizer.pad_token_id)
    seen = torch.ones(len(batch), cut + max(lengths), dtype=torch.long)
    for row, (asked, length) in enumerate(zip(batch, lengths, strict=True)):
        ids[row, -length:] = torch.from_numpy(asked.prompt.input_ids[cut:])
        seen[row, cut : cut + max(lengths) - length] = 0
    ids, seen = ids.to(model.device), seen.to(model.device)
    pixels = pixels_of(model, processor, batch) if cache is None else None
    ends = torch.tensor(model.generation_config.eos_token_id, device=model.device)
    never = model.generation_config.suppress_tokens or []
    written = torch.full((len(batch), new), -1, device=model.device)
    alive = torch.arange(len(batch), device=model.device)  # row of `written` of each cache row
    going = torch.ones(len(batch), dtype=torch.bool, device=model.device)
    for step in range(new):
        output = model(
            input_ids=ids,
            pixel_values=pixels if step == 0 else None,
            attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        scores = output.logits[:, -1]
        scores[:, never] = -torch.inf
        chosen = scores.argmax(-1)
        going &= ~torch.isin(chosen, ends)
        written[alive[going], step] = chosen[going]
        left = int(going.sum())
        if left == 0:
            break
        if left <= KEEP * len(going):
            keep = going.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, chosen, seen, going = (x[keep] for x in (alive, chosen, seen, going))
        ids = chosen[:, None]
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
    return [[token for token in row if token >= 0] for row in written.tolist()]


def run_stems(
    model: LucidaModel, processor: LucidaProcessor, batch: list[Request]
) -> tuple[Cache | None, Tensor]:
    """The cache of the different stems of a batch, and for each request which row of it is its own.

    None when nothing is shared: prompts of one token, or a mask that needs them whole.
    """
    place: dict[tuple, int] = {}
    first: list[Request] = []
    rows = []
    for asked in batch:
        if asked.stem not in place:
            place[asked.stem] = len(first)
            first.append(asked)
        rows.append(place[asked.stem])
    indices = torch.tensor(rows, device=model.device)
    cut = batch[0].cut
    if cut == 0:
        return None, indices
    ids = np.stack([asked.prompt.input_ids[:cut] for asked in first])
    output = model(
        input_ids=torch.from_numpy(ids).to(model.device),
        pixel_values=pixels_of(model, processor, first),
        use_cache=True,
        logits_to_keep=1,
    )
    return output.past_key_values, indices


def pixels_of(
    model: LucidaModel, processor: LucidaProcessor, requests: list[Request]
) -> Tensor | None:
    """Pixels of the images of these requests, in order, or None without images."""
    pixels = processor.pixels([source for asked in requests for source in asked.prompt.images])
    return None if pixels is None else pixels.to(model.device)
