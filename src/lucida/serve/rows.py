"""Prompts that are being answered, side by side: some join and some leave between two tokens.

    before    [ A a a 1 2 3 ]      a row of the cache for each prompt; the answer stands behind
              [ B b . 1 2 . ]      . is nobody's
    B ends, C joins
    after     [ A a a 1 2 3 ]      the rows that go on, closed up, and those that were read just now
              [ C c . . . . ]
    a step    [ A a a 1 2 3 4 ]    one token for every row
              [ C c . . . . 1 ]

Where a position stands in the cache does not matter: each row says which of them are its own
(`owner` of model/decode.py), and rotary positions are counted apart. So an answer is the one that
is given alone, to rounding, whoever else is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lucida.data.collate import collate
from lucida.eval.loss import plain
from lucida.model.decode import KEEP, State, request
from lucida.model.masks import is_asked_whole
from lucida.model.prefill import Request, prefill
from lucida.serve.job import Job, Token, choose_tokens, tell_token
from lucida.serve.prefixes import (
    Layers,
    Prefixes,
    close_rows,
    copy_row,
    join_parts,
    stack_prefixes,
)

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel
    from lucida.serve.spelling import Spelling

ROOM = 64
"""Positions that the cache has room for behind what is written, before it is copied."""

AT_ONCE = 256
"""Positions whose scores are in memory at once while a text's likelihood is read."""


class Rows:
    """The prompts that a model is answering. Not for several threads at a time."""

    def __init__(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        spelling: Spelling,
        prefixes: Prefixes,
    ) -> None:
        self.model, self.processor, self.spelling = model, processor, spelling
        self.prefixes = prefixes
        self.ends = set(model.generation_config.eos_token_id)
        self.never = model.generation_config.suppress_tokens or []
        self.jobs: list[Job] = []
        """Of each row; it stays until the rows are closed up, also when it is done."""
        self.held: list[int] = []
        """Positions of each row that are its own."""
        self.state: State | None = None

    def __len__(self) -> int:
        return sum(not job.done for job in self.jobs)

    @property
    def width(self) -> int:
        """Positions of a row of the cache."""
        return self.state.owner.shape[1] if self.state else 0

    @property
    def may_join(self) -> bool:
        """Whether prompts may join rows that are under way: gated layers keep the images of all
        rows in one table."""
        return not len(self) or self.model.cross_attention is None

    def join(self, jobs: Sequence[Job]) -> None:
        """Read these prompts, give each its first token, and answer them beside the others."""
        whole = is_asked_whole(self.model.mask_for(self.processor))
        asked = [request(k, job.prompt, whole) for k, job in enumerate(jobs)]
        known = [each for each in asked if self.prefixes.find(each.stem) is not None]
        new = [each for each in asked if self.prefixes.find(each.stem) is None]
        for each, read in ((known, self.read_behind), (new, self.read)):
            if each:
                state, scores = read(each)
                own = [jobs[one.index] for one in each]
                self.choose(scores, own)
                self.add(state, own)

    def read(self, asked: Sequence[Request]) -> tuple[State, Tensor]:
        """Prompts from their beginnings; those of pictures are kept for others."""
        found = prefill(self.model, self.processor, [[each] for each in asked])
        # 0 is the stem's, 1 that of the one question behind it: here both are the row's own, 0.
        state = State(self.model, found.cache, found.owner.clamp(max=0), plain=False)
        for row, each in enumerate(asked):
            if self.may_keep(each):
                layers = [
                    (
                        layer.keys[row, :, : each.cut].clone(),
                        layer.values[row, :, : each.cut].clone(),
                    )
                    for layer in found.cache.layers
                ]
                self.prefixes.keep(each.stem, layers)
        return state, self.model.logits(found.hidden[:, 0])

    def may_keep(self, asked: Request) -> bool:
        """Whether what stands before the cut of a prompt is kept: pictures, which others may ask
        about too."""
        return (
            self.model.cross_attention is None
            and asked.rest > 0
            and bool(asked.prompt.image[: asked.cut].any())
            and self.prefixes.find(asked.stem) is None
        )

    def read_behind(self, asked: Sequence[Request]) -> tuple[State, Tensor]:
        """Prompts whose beginnings are kept: what stands behind them, ending in one column."""
        device = self.model.device
        kept = [self.prefixes.take(each.stem) for each in asked]
        filled, rest = max(each.cut for each in asked), max(each.rest for each in asked)
        cache = stack_prefixes(kept, filled, rest + ROOM)
        owner = torch.full((len(asked), filled), -1)
        ids = torch.zeros(len(asked), rest, dtype=torch.long)
        mine, position = torch.full_like(ids, -1), torch.zeros_like(ids)
        for row, each in enumerate(asked):
            owner[row, : each.cut] = 0
            # Flush right: every row's next token comes from the last column, whatever its length.
            own = slice(rest - each.rest, rest)
            ids[row, own] = torch.from_numpy(each.prompt.input_ids[each.cut :])
            mine[row, own] = 0
            position[row, own] = torch.from_numpy(each.prompt.position[each.cut :])
        state = State(self.model, cache, owner.to(device), plain=False)
        scores = state.forward(ids.to(device), mine.to(device), position.to(device), keep=1)
        return state, scores[:, 0]

    def step(self) -> None:
        """One more token for every prompt that has not ended."""
        last = [job.ids[-1] if job.ids else 0 for job in self.jobs]
        # `behind` is the position of the first token of the answer; the last one written is
        # len(ids) - 1 on.
        at = [job.prompt.behind(len(job.prompt)) + len(job.ids) - 1 for job in self.jobs]
        owner = [-1 if job.done else 0 for job in self.jobs]
        ids, position, mine = torch.tensor([last, at, owner], device=self.model.device)[..., None]
        width = self.width
        # Nothing is hidden from any row: transformers' own mask is the same, and cheaper.
        living = (size for size, job in zip(self.held, self.jobs, strict=True) if not job.done)
        self.state.plain = all(size == width for size in living)
        try:
            scores = self.state.forward(ids, mine, position, keep=1)[:, 0]
        except Exception:
            self.state.owner = self.state.owner[:, :width]
            for layer in self.state.cache.layers:
                layer.show(width)
            raise
        self.held = [size + (not job.done) for size, job in zip(self.held, self.jobs, strict=True)]
        self.choose(scores, self.jobs)
        going = len(self)
        # Closing up copies the cache, so it waits until enough rows are over, or half of the
        # columns idle.
        if going <= KEEP * len(self.jobs) or 2 * max(self.held) < width:
            self.close_up()

    def choose(self, scores: Tensor, jobs: Sequence[Job]) -> None:
        """The next token of each job that goes on, from scores [jobs, words]."""
        choose_tokens(scores, jobs, self.ends, self.spelling, self.never)

    def score(self, job: Job) -> None:
        """Tell the log-probability of each token of a prompt; the first has none (nan)."""
        ids, top = job.prompt.input_ids, job.options.top or 0
        special = self.spelling.special
        fields = collate([plain(ids, job.prompt.origin)], True, 0).to(self.model.device)
        states = self.model.hidden(fields, self.model.mask_for(self.processor))[0]
        # Nothing stands before the first token, so nothing says how likely it is.
        first = int(ids[0])
        nothing = Token(self.spelling.bytes_of(first), float("nan"), (), first in special)
        job.tokens = [nothing]
        for start in range(0, len(ids) - 1, AT_ONCE):
            if job.left.is_set():
                break
            part = states[start : min(start + AT_ONCE, len(ids) - 1)]
            logs = self.model.logits(part).float().log_softmax(-1)
            words = ids[start + 1 : start + 1 + len(part)].tolist()
            job.tokens += [
                tell_token(word, logs[row], top, self.spelling, word in special)
                for row, word in enumerate(words)
            ]
        job.end("length")

    def add(self, state: State, jobs: Sequence[Job]) -> None:
        """Put rows that were read beside those under way."""
        going = [row for row, job in enumerate(jobs) if not job.done]
        if not going:
            return
        held = (state.owner >= 0).sum(1).tolist()
        if self.model.cross_attention is not None:  # alone, as they are
            self.state, self.jobs, self.held = state, list(jobs), held
            return
        self.close_up(close_rows(state, going), [jobs[k] for k in going], [held[k] for k in going])

    def close_up(
        self,
        more: Layers | None = None,
        jobs: Sequence[Job] = (),
        held: Sequence[int] = (),
    ) -> None:
        """Forget what has ended, put the positions of each row together, and add `more` rows."""
        old = [row for row, job in enumerate(self.jobs) if not job.done]
        if self.model.cross_attention is not None:
            if old:
                self.keep(old)
            else:
                self.state, self.jobs, self.held = None, [], []
            return
        parts = [close_rows(self.state, old)] if old else []
        parts += [more] if more is not None else []
        self.jobs = [*(self.jobs[row] for row in old), *jobs]
        self.held = [*(self.held[row] for row in old), *held]
        self.state = None
        if parts:
            filled = max(self.held)
            cache = join_parts(parts, filled, ROOM)
            column = torch.arange(filled)
            owner = torch.where(column < torch.tensor(self.held)[:, None], 0, -1)
            self.state = State(self.model, cache, owner.to(self.model.device), plain=False)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows, and leave their positions where they are."""
        self.state.keep(torch.tensor(rows, device=self.model.device))
        self.jobs = [self.jobs[row] for row in rows]
        self.held = [self.held[row] for row in rows]

    def split(self) -> list[Rows]:
        """Each prompt that goes on by itself, as when all of them together could not be answered;
        nobody is left here."""
        found = []
        for row, job in enumerate(self.jobs):
            if job.done:
                continue
            alone = Rows(self.model, self.processor, self.spelling, self.prefixes)
            cache = copy_row(self.state.cache, row)
            owner = self.state.owner[row : row + 1]
            alone.state = State(self.model, cache, owner, plain=False)
            alone.jobs, alone.held = [job], [self.held[row]]
            found.append(alone)
        self.state, self.jobs, self.held = None, [], []
        return found
