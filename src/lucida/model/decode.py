"""Greedy answers to many questions: each image encoded once, each shared beginning run once.

    questions about image A: a1 a2 a3, about B: b1

    stems     [ A ]                          one forward, key-value cache kept, padded on the left
              [ B ]
    prompts   [ A ][a1 a2 a3 | last tokens]  a row holds all questions of a stem; nothing is copied
              [ B ][      b1 | last token ]
    decode    one token a step for every question that has not ended

A row is a stem with questions side by side behind it; a mask keeps them apart (each position has an
owner: 0 the stem, k question k). So the cache of a picture exists once however many questions there
are about it. Equal to `model.generate` one question at a time (tests/model/test_decode.py).

Under a mask that lets an image see its question (`prefix`, `mutual`) nothing can be shared: each
prompt is a stem of its own, run whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from lucida.core.errors import DataError, ModelError
from lucida.data.sample import Sample, Tokens
from lucida.model.cross_attention import select_rows
from lucida.model.masks import ASK_WHOLE

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

BATCH_TOKENS = 16_384
"""Positions that the cache of one batch may hold at its end, answers included."""

KEEP = 0.75
"""Rows whose questions have all ended are dropped when at most this share is still being written:
dropping copies the cache, so doing it for every row would cost more than it saves."""

SPREAD = 2
"""Positions behind a stem, as a multiple of its length (and `LEAST` more), that share one row.
Questions of a row score each other's positions in vain, which grows with their square."""

LEAST = 64

WASTE = 0.2
"""Largest share of a stem's row that may be padding."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, cut behind its last visual token (or its stem, whichever ends later).

    At its full length it is not cut: nothing of it is shared.
    """

    index: int
    prompt: Tokens
    cut: int

    @property
    def stem(self) -> tuple[tuple[str, ...], bytes]:
        """What must be equal for two requests to share their beginning."""
        images = tuple(source.key for source in self.prompt.images)
        return images, self.prompt.input_ids[: self.cut].tobytes()

    @property
    def rest(self) -> int:
        """Positions behind the stem."""
        return len(self.prompt) - self.cut


Row = list[Request]
"""Requests of one stem that share a row."""


def greedy(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """The most likely continuation of each sample, as text, in the order of the samples."""
    texts = [""] * len(samples)
    for index, text in stream(model, processor, samples, max_new_tokens, batch_tokens):
        texts[index] = text
    return texts


def stream(
    model: LucidaModel,
    processor: LucidaProcessor,
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[tuple[int, str]]:
    """The same as batches are done: (number of the sample, its text)."""
    prompts = [processor.prompt(sample) for sample in samples]
    for index, ids in token_stream(model, processor, prompts, max_new_tokens, batch_tokens):
        yield index, processor.tokenizer.decode(ids, skip_special_tokens=True)


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
    answers: list[list[int]] = [[] for _ in prompts]
    for index, ids in token_stream(model, processor, prompts, max_new_tokens, batch_tokens):
        answers[index] = ids
    return answers


def token_stream(
    model: LucidaModel,
    processor: LucidaProcessor,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[tuple[int, list[int]]]:
    """(number of the prompt, ids), batch by batch. The model's mode is as before in between."""
    whole = model.mask in ASK_WHOLE
    requests = [request(index, prompt, whole) for index, prompt in enumerate(prompts)]
    for batch in batches(requests, max_new_tokens, batch_tokens):
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                written = answer(model, processor, batch, max_new_tokens)
        finally:
            model.train(training)
        for row, answers in zip(batch, written, strict=True):
            for asked, ids in zip(row, answers, strict=False):
                yield asked.index, [token for token in ids if token >= 0]


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
    if whole or len(prompt) == 1:
        return Request(index, prompt, len(prompt))
    shared = np.flatnonzero((prompt.image > 0) | (prompt.branch == 0))
    cut = int(shared[-1]) + 1 if len(shared) else 1
    return Request(index, prompt, min(cut, len(prompt) - 1))


def batches(requests: Sequence[Request], new: int, batch_tokens: int) -> Iterator[list[Row]]:
    """Rows with stems of similar length, those of equal stems side by side, within the budget."""
    batch: list[Row] = []
    for row in rows_of(requests, new):
        widest = max(len(each) for each in [*batch, row])
        behind = max(sum(asked.rest for asked in each) for each in [*batch, row])
        size = (len(batch) + 1) * (row[0].cut + behind + widest * new)
        uneven = batch and batch[0][0].cut < (1 - WASTE) * row[0].cut
        if batch and (size > batch_tokens or uneven):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def rows_of(requests: Sequence[Request], new: int) -> list[Row]:
    """Requests of equal stems joined into rows; the rows by length of stem, then by what follows.

    An uncut prompt is a row of its own: what it says first stands at its stem's end.
    """
    order = sorted(requests, key=lambda asked: (asked.cut, asked.stem, len(asked.prompt)))
    rows: list[Row] = []
    filled = 0
    for asked in order:
        taken = asked.rest + new
        room = SPREAD * asked.cut + LEAST
        same = rows and rows[-1][0].stem == asked.stem
        if same and asked.rest and filled + taken <= room:
            rows[-1].append(asked)
            filled += taken
        else:
            rows.append([asked])
            filled = taken
    rows.sort(key=lambda row: (row[0].cut, len(row), sum(asked.rest for asked in row), row[0].stem))
    return rows


@dataclass(slots=True)
class State:
    """Rows while they are being answered. owner [rows, positions]: 0 the stem, k question k,
    -1 padding."""

    model: LucidaModel
    cache: Cache
    owner: Tensor

    def forward(self, ids: Tensor, owner: Tensor, position: Tensor, keep: int) -> Tensor:
        """Scores of the next token at the last `keep` of new positions [rows, new]."""
        self.owner = torch.cat([self.owner, owner], dim=1)
        total, count = self.owner.shape[1], ids.shape[1]
        window = getattr(self.model.config.text_config, "sliding_window", None)
        if window is not None and total > window:
            raise ModelError(
                "the language model's sliding window is shorter than questions behind one picture",
                expected=f"at most {window} positions",
                given=total,
                remedy="ask fewer questions at a time, or use shorter prompts",
            )
        keys, asking = self.owner[:, None, :], owner[:, :, None]
        column = torch.arange(total, device=ids.device)
        allowed = ((keys == 0) | (keys == asking)) & (column <= column[-count:, None])
        bias = torch.zeros(allowed.shape, dtype=self.model.dtype, device=ids.device)
        bias.masked_fill_(~allowed, torch.finfo(bias.dtype).min)
        output = self.model(
            input_ids=ids,
            attention_mask=bias[:, None],
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits

    def keep(self, rows: Tensor) -> None:
        """Forget all other rows."""
        select_rows(self.cache, rows)
        self.owner = self.owner[rows]


def answer(
    model: LucidaModel, processor: LucidaProcessor, batch: list[Row], new: int
) -> list[list[list[int]]]:
    """Answers of one batch, by row and question; -1 behind an end."""
    state, scores, rows = run_stems(model, processor, batch)
    if len(rows) != len(state.owner) or bool((rows != torch.arange(len(rows)).to(rows)).any()):
        state.keep(rows)
        scores = scores[rows]
    ids, owner, position = behind_stems(batch, processor.tokenizer.pad_token_id, model.device)
    count = max(map(len, batch))
    if ids.shape[1]:
        scores = state.forward(ids, owner, position, keep=count)
    device = model.device
    ends = torch.tensor(model.generation_config.eos_token_id, device=device)
    never = model.generation_config.suppress_tokens or []
    written = torch.full((len(batch), count, new), -1, device=device)
    alive = torch.arange(len(batch), device=device)[:, None]  # rows of `written`
    slot = torch.arange(count, device=device).repeat(len(batch), 1)  # questions of `written`
    size = torch.tensor([len(row) for row in batch], device=device)
    going = slot < size[:, None]
    length = torch.zeros_like(slot)
    for number, row in enumerate(batch):
        length[number, : len(row)] = torch.tensor([len(asked.prompt) for asked in row])
    for step in range(new):
        scores[..., never] = -torch.inf
        chosen = scores.argmax(-1)
        going = going & ~torch.isin(chosen, ends)
        written[alive.expand_as(slot)[going], slot[going], step] = chosen[going]
        left = going.any(1)
        if step + 1 == new or not bool(left.any()):
            break
        if int(left.sum()) <= KEEP * len(left):
            kept = left.nonzero().squeeze(1)
            state.keep(kept)
            alive, slot, going, chosen, length = (
                x[kept] for x in (alive, slot, going, chosen, length)
            )
        first = (~going).long().argsort(dim=1, stable=True)[:, : int(going.sum(1).max())]
        slot, going, chosen, length = (x.gather(1, first) for x in (slot, going, chosen, length))
        owner = torch.where(going, slot + 1, -1)
        scores = state.forward(chosen, owner, length + step, keep=chosen.shape[1])
    return written.tolist()


def run_stems(
    model: LucidaModel, processor: LucidaProcessor, batch: list[Row]
) -> tuple[State, Tensor, Tensor]:
    """The different stems of a batch, run; scores behind each [stems, 1, vocabulary]; and for each
    row which stem is its own."""
    place: dict[tuple, int] = {}
    first: list[Request] = []
    rows = []
    for row in batch:
        if row[0].stem not in place:
            place[row[0].stem] = len(first)
            first.append(row[0])
        rows.append(place[row[0].stem])
    longest = max(asked.cut for asked in first)
    ids = torch.full((len(first), longest), processor.tokenizer.pad_token_id)
    seen = torch.zeros_like(ids)
    for number, asked in enumerate(first):
        ids[number, longest - asked.cut :] = torch.from_numpy(asked.prompt.input_ids[: asked.cut])
        seen[number, longest - asked.cut :] = 1
    pixels = processor.pixels([source for asked in first for source in asked.prompt.images])
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=None if bool(seen.all()) else seen.to(model.device),
        pixel_values=None if pixels is None else pixels.to(model.device),
        use_cache=True,
        logits_to_keep=1,
    )
    state = State(model, output.past_key_values, (seen - 1).to(model.device))
    return state, output.logits, torch.tensor(rows, device=model.device)


def behind_stems(
    batch: list[Row], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, owners and positions behind the stems, each [rows, length]; empty for uncut prompts.

    The last token of every question stands at the row's end, one column for each question, so that
    only those columns need scores; the rest is padded on the left.

    Worked example: questions a1 a2 a3 and b1 b2 behind a stem of 4.

        ids       a1 a2 b1 a3 b2
        owner      1  1  2  1  2
        position   4  5  4  6  5
    """
    count = max(map(len, batch))
    bodies = [[(k, asked) for k, asked in enumerate(row, 1) if asked.rest] for row in batch]
    if not any(bodies):
        empty = torch.zeros(len(batch), 0, dtype=torch.long, device=device)
        return empty, empty, empty
    width = max(sum(asked.rest - 1 for _, asked in row) for row in bodies)
    shape = (len(batch), width + count)
    ids, owner, position = np.full(shape, pad_id), np.full(shape, -1), np.zeros(shape, np.int64)
    for number, row in enumerate(bodies):
        place = width - sum(asked.rest - 1 for _, asked in row)
        for k, asked in row:
            body = slice(place, place + asked.rest - 1)
            ids[number, body] = asked.prompt.input_ids[asked.cut : -1]
            owner[number, body] = k
            position[number, body] = np.arange(asked.cut, len(asked.prompt) - 1)
            place = body.stop
            last = width + k - 1
            ids[number, last] = asked.prompt.input_ids[-1]
            owner[number, last] = k
            position[number, last] = len(asked.prompt) - 1
    return tuple(torch.from_numpy(array).to(device) for array in (ids, owner, position))
