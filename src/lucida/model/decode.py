"""Greedy answers to many questions: each image encoded once, each shared beginning run once.

    questions about image A: a1 a2 a3, about B: b1

    prefill   | A a1 a2 a3 | B b1 |    all prompts in one packed forward (model/prefill.py)
    decode    [ A a1 a2 a3 | 1 2 3 ]   one token a step for every question that has not ended;
              [ B b1       | 1     ]   a row holds all questions of a stem, nothing is copied

A row is a stem with questions side by side behind it; a mask keeps them apart (each position has an
owner: 0 the stem, k question k). So the cache of a picture exists once however many questions there
are about it. Equal to `model.generate` one question at a time (tests/model/test_decode.py).

Under a mask that lets an image see its question (`prefix`, `mutual`) nothing can be shared: each
prompt is a stem of its own, run whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import Cache

from lucida.core.errors import DataError, ModelError
from lucida.data.sample import Sample, Tokens
from lucida.model.cross_attention import select_rows
from lucida.model.evaluating import evaluating
from lucida.model.masks import is_asked_whole
from lucida.model.prefill import Request, Row, length, prefill
from lucida.model.trees import batches, group_by_beginning, in_order, shared_length

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

BATCH_TOKENS = 16_384
"""Positions that the cache of one batch may hold at its end, answers included."""

KEEP = 0.75
"""Rows whose questions have all ended are dropped when at most this share is still being written:
dropping copies the cache, so doing it for every row would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written behind one prompt, greedily.

    ids: tokens without the end token. log_probabilities: of each of them (nats, as `likelihoods`
    gives them), and of the end token as well where `ended`; without it the answer stopped at its
    longest length.
    """

    ids: list[int]
    log_probabilities: list[float]
    ended: bool


def greedy(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """The most likely continuation of each sample, as text, in the order of the samples."""
    prompts = [processor.prompt(sample) for sample in samples]
    written = in_order(write(model, processor, prompts, max_new_tokens, batch_tokens), len(prompts))
    return [processor.tokenizer.decode(each.ids, skip_special_tokens=True) for each in written]


def write(
    model: LucidaModel,
    processor: LucidaProcessor,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[tuple[int, Written]]:
    """The most likely continuation of each prompt (of one branch), as batches are done: its number
    and what was written. The model's mode is as before in between.

    Nothing is cut: an answer ends with an end token of the model's generation settings, or at
    `max_new_tokens`.
    """
    whole = is_asked_whole(model.mask_for(processor))
    requests = [request(index, prompt, whole) for index, prompt in enumerate(prompts)]
    for batch in row_batches(requests, max_new_tokens, batch_tokens):
        with evaluating(model), torch.no_grad():
            written = answer(model, processor, batch, max_new_tokens)
        for row, answers in zip(batch, written, strict=True):
            # There are as many answers as in the widest row.
            for asked, each in zip(row, answers, strict=False):
                yield asked.index, each


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
    if whole or len(prompt) == 1 or prompt.image[-1] > 0:  # a picture is never cut
        return Request(index, prompt, len(prompt))
    return Request(index, prompt, max(1, shared_length(prompt)))


def row_batches(requests: Sequence[Request], new: int, budget: int) -> Iterator[list[Row]]:
    """Rows of similar length within the budget, which counts the cache with its padding."""

    def cache_positions(rows: Sequence[Row]) -> int:
        return len(rows) * (max(map(length, rows)) + new * max(map(len, rows)))

    return batches(rows_of(requests, new), cache_positions, budget)


def rows_of(requests: Sequence[Request], new: int) -> list[Row]:
    """Requests of equal stems joined into rows; the rows by length, rows of a stem side by side.

    An uncut prompt is a row of its own: what it says first stands at its stem's end.
    """
    rows = group_by_beginning(
        sorted(requests, key=lambda asked: (asked.stem, len(asked.prompt))),
        key=lambda asked: asked.stem,
        cut=lambda asked: asked.cut,
        behind=lambda asked: asked.rest and asked.rest + new,  # 0, a row by itself, if uncut
    )
    return sorted(rows, key=lambda row: (length(row), len(row), row[0].stem))


Choose = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""The next tokens [rows, questions], -1 to end an answer, from: scores [rows, questions, words];
the logarithm of what their exponentials sum to, before any word is suppressed; row and question of
the batch that each belongs to; and which are still written (all [rows, questions]). Called once a
step, so it may also tell somebody what is written so far."""


@dataclass(slots=True)
class State:
    """Rows while they are being answered. owner [rows, positions]: 0 the stem, k question k,
    -1 padding. plain: rows are as long as one another and hold one question each, so that no
    position is hidden from any."""

    model: LucidaModel
    cache: Cache
    owner: Tensor
    plain: bool

    def forward(self, ids: Tensor, owner: Tensor, position: Tensor, keep: int) -> Tensor:
        """Scores of the next token at the last `keep` of new positions [rows, new]."""
        self.owner = torch.cat([self.owner, owner], dim=1)
        total = self.owner.shape[1]
        window = getattr(self.model.config.text_config, "sliding_window", None)
        if window is not None and total > window:
            raise ModelError(
                "the language model's sliding window is shorter than questions behind one picture",
                expected=f"at most {window} positions",
                given=total,
                remedy="ask fewer questions at a time, or use shorter prompts",
            )
        output = self.model(
            input_ids=ids,
            attention_mask=None if self.plain else self.bias(owner),
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits

    def bias(self, asking: Tensor) -> Tensor:
        """What the last positions, of these owners, may see: 0, or the lowest number [rows, 1, new,
        positions]."""
        # A question that has ended asks as -1 and sees padding, which is finite; nobody reads its
        # answer.
        keys, asking = self.owner[:, None, :], asking[:, :, None]
        column = torch.arange(self.owner.shape[1], device=asking.device)
        allowed = ((keys == 0) | (keys == asking)) & (column <= column[-asking.shape[1] :, None])
        bias = torch.zeros(allowed.shape, dtype=self.model.dtype, device=asking.device)
        return bias.masked_fill_(~allowed, torch.finfo(bias.dtype).min)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows."""
        select_rows(self.cache, rows)
        self.owner = self.owner[rows]


def answer(
    model: LucidaModel,
    processor: LucidaProcessor,
    batch: list[Row],
    new: int,
    choose: Choose | None = None,
) -> list[list[Written]]:
    """Answers of one batch, by row and question; arbitrary where a row has fewer questions.

    choose: what takes the next tokens in place of the likeliest.
    """
    read = prefill(model, processor, batch, max(0, new - 1))
    count = max(map(len, batch))
    plain = count == 1 and len({length(row) for row in batch}) == 1
    state, scores = State(model, read.cache, read.owner, plain), model.logits(read.hidden)
    device = model.device
    ends = torch.tensor(model.generation_config.eos_token_id, device=device)
    never = model.generation_config.suppress_tokens or []
    written = torch.full((len(batch), count, new), -1, device=device)  # -1: nothing is written
    logs = torch.full(written.shape, torch.nan, device=device)
    alive = torch.arange(len(batch), device=device)[:, None]  # rows of `written`
    slot = torch.arange(count, device=device).repeat(len(batch), 1)  # questions of `written`
    size = torch.tensor([len(row) for row in batch], device=device)
    going = slot < size[:, None]  # False where a row has fewer questions
    begin = torch.zeros_like(slot)
    for number, row in enumerate(batch):
        ends_at = [asked.prompt.behind(len(asked.prompt)) for asked in row]
        begin[number, : len(row)] = torch.tensor(ends_at)  # position of the first token behind each
    for step in range(new):
        total = scores.float().logsumexp(-1)  # of the model itself: before any word is suppressed
        scores[..., never] = -torch.inf
        if choose is None:
            chosen = scores.argmax(-1)
        else:
            chosen = choose(scores, total, alive.expand_as(slot), slot, going)
            going = going & (chosen >= 0)
            chosen = chosen.clamp(min=0)  # what has ended may still share a row with what has not
        best = scores.gather(-1, chosen[..., None]).squeeze(-1).float()
        row, column = alive.expand_as(slot)[going], slot[going]
        logs[row, column, step] = (best - total)[going]  # ends included
        going = going & ~torch.isin(chosen, ends)
        written[alive.expand_as(slot)[going], slot[going], step] = chosen[going]
        left = going.any(1)
        if step + 1 == new or not bool(left.any()):
            break
        if int(left.sum()) <= KEEP * len(left):
            kept = left.nonzero().squeeze(1)
            state.keep(kept)
            alive, slot, going, chosen, begin = (
                x[kept] for x in (alive, slot, going, chosen, begin)
            )
        # Those that go on to the front of their row, in their order; as wide as the most of a row.
        first = (~going).long().argsort(dim=1, stable=True)[:, : int(going.sum(1).max())]
        slot, going, chosen, begin = (x.gather(1, first) for x in (slot, going, chosen, begin))
        owner = torch.where(going, slot + 1, -1)
        scores = state.forward(chosen, owner, begin + step, keep=chosen.shape[1])
    return [
        [_written(*pair) for pair in zip(ids, log, strict=True)]
        for ids, log in zip(written.tolist(), logs.tolist(), strict=True)
    ]


def _written(ids: Sequence[int], logs: Sequence[float]) -> Written:
    """One row of the tables as an answer. The end token has a log-probability and no id."""
    kept = [token for token in ids if token >= 0]
    known = [value for value in logs if not math.isnan(value)]
    return Written(kept, known, ended=len(known) > len(kept))
