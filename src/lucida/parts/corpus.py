"""Text of the world as packed rows of integers, questions isolated behind what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lucida.data.boxes import box_tokens, format_box
from lucida.data.sample import IGNORED, Batch
from lucida.parts.tokenizer import BINS
from lucida.world.questions import INVENTORY, RELATIONS, Exchange
from lucida.world.scenes import Scene, Split, scene_rng
from lucida.world.text import Exercise, document, exercise

TEXT_WEIGHT = 0.1
"""Weight of a token of a description, which is mostly unpredictable. A token of an answer of n
tokens weighs 1/√n: otherwise long answers drown the ones that take a comparison or a count.

Reference: Chen et al., InternVL 2.5, 2024, arXiv 2412.05271, section 3.3 (square averaging).
"""
COMPARISONS = 3
"""Pairs of bare comparisons behind every exercise."""


@dataclass
class TextBatch:
    """Rows laid end to end, and the weight of each position's target [1, positions]."""

    batch: Batch
    weight: torch.Tensor


Told = Sequence[str | tuple[int, int, int, int]]
"""Words and boxes (pixels) in the order in which they are said."""


class Reader:
    """Turns exercises and documents into rows with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.ids = lru_cache(maxsize=65536)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def box(self, scene: Scene, box: tuple[int, int, int, int]) -> str:
        """The box's tokens in the frame of the letterboxed square."""
        side = max(scene.width, scene.height)
        left, top = (side - scene.width) / 2, (side - scene.height) / 2
        x0, y0, x1, y1 = box
        frame = ((x0 + left) / side, (y0 + top) / side, (x1 + left) / side, (y1 + top) / side)
        return format_box(frame, BINS)

    def row(
        self, told: Exercise, isolated: bool = True, more: Sequence[Exchange] = ()
    ) -> list[tuple[int, int, int, int, float]]:
        """(token, branch, position, target, weight) per position of one exercise.

        Its last question asks for all that was told: copying at length is what a model learns
        first, and looking things up grows from it. Not isolated, the questions follow each other
        and later ones may read earlier ones.
        """
        words = self.words(told.scene, told.told)
        exchanges = (*told.exchanges, *more)
        asked = [(each.question, self.answer(told.scene, each)) for each in exchanges]
        return self.asked(words, [*asked, (INVENTORY, words)], isolated)

    def asked(
        self,
        words: Sequence[int],
        questions: Sequence[tuple[str, Sequence[int]]],
        isolated: bool = True,
    ) -> list[tuple[int, int, int, int, float]]:
        """(token, branch, position, target, weight) per position of a text and of questions with
        their answers behind it, as the template `qa` writes them."""
        stem = [self.tokenizer.bos_token_id, *words]
        rows = _line(stem, 0, 0, range(1, len(stem)), TEXT_WEIGHT)
        for branch, (question, answer) in enumerate(questions, start=1):
            before = [*self.ids("\nQuestion:"), *self.ids(f" {question}"), *self.ids("\nAnswer:")]
            line = [*before, *answer, self.tokenizer.eos_token_id]
            # Isolated questions all begin right behind the text; otherwise each behind the answer
            # before it.
            at, start = (branch, len(stem)) if isolated else (0, len(rows))
            weight = (len(answer) + 1) ** -0.5  # the end token counts as one of the answer's
            rows += _line(line, at, start, range(len(before), len(line)), weight)
        return rows

    def words(self, scene: Scene, told: Told) -> tuple[int, ...]:
        """Words and boxes as tokens; the space before a box is a token of its own."""
        ids: tuple[int, ...] = ()
        for part in told:
            if isinstance(part, str):
                ids += self.ids(part.rstrip(" ")) + (self.ids(" ") if part.endswith(" ") else ())
            else:
                ids += self.ids(self.box(scene, part))
        return ids

    def answer(self, scene: Scene, exchange: Exchange) -> tuple[int, ...]:
        """An answer in words, as a box, or both."""
        if exchange.box is not None:
            return self.words(scene, (" ", exchange.box))
        if exchange.told:
            return self.words(scene, (f" {exchange.told[0]}", *exchange.told[1:]))
        return self.ids(f" {exchange.answer}")

    def text_row(self, texts: list[str]) -> list[tuple[int, int, int, int, float]]:
        """Documents that are no exercises, side by side and hidden from each other."""
        rows = []
        for branch, text in enumerate(texts, start=1):
            line = [self.tokenizer.bos_token_id, *self.ids(text), self.tokenizer.eos_token_id]
            rows += _line(line, branch, 0, range(1, len(line)), TEXT_WEIGHT)
        return rows

    def batch(
        self, seed: int, split: Split, step: int, size: int, progress: float, texts: float = 0.15
    ) -> TextBatch:
        """Batch number `step`: `size` rows, each an exercise or (share `texts`) four documents.

        Every other exercise is an ordinary conversation.
        """
        rows = []
        for index in range(step * size, (step + 1) * size):
            if index % 20 < round(20 * texts):
                rows.append(self.text_row([document(seed, split, 4 * index + k) for k in range(4)]))
            else:
                told = exercise(seed, split, index, progress=progress)
                bare = bare_comparisons(seed, index, COMPARISONS)
                rows.append(self.row(told, index % 2 == 0, bare))
        return self.stack(rows)

    def stack(self, rows: list[list[tuple[int, int, int, int, float]]]) -> TextBatch:
        """Lay rows end to end without padding; each is a segment of its own."""
        cells = np.array([cell for row in rows for cell in row])
        token, branch, position, target = torch.from_numpy(cells[None, :, :4]).long().unbind(-1)
        lengths = torch.tensor([len(row) for row in rows])
        segment = torch.arange(1, len(rows) + 1).repeat_interleave(lengths)[None]
        batch = Batch(token, segment, branch, position, torch.zeros_like(token), target)
        return TextBatch(batch, torch.from_numpy(cells[None, :, 4]).float())


def bare_comparisons(seed: int, index: int, pairs: int) -> list[Exchange]:
    """Questions about coordinates alone, a choice and a statement a pair: that <b03> is left of
    <b17> has to be known before it can be said of two things that must first be looked up."""
    rng = scene_rng(seed, index, 557)
    exchanges = []
    for statement in (False, True) * pairs:
        pair = rng.sample(range(BINS), 2)
        a, b = (box_tokens(BINS)[number] for number in pair)
        axis = rng.randrange(2)
        holds = RELATIONS[2 * axis + (pair[0] > pair[1])]  # left of, right of, above, below
        if statement:
            said = rng.choice(RELATIONS[2 * axis : 2 * axis + 2])
            question = f"true or false: {a} is {said} {b}."
            answer = "true" if said == holds else "false"
        else:
            question = f"is {a} {('left or right of', 'above or below')[axis]} {b}?"
            answer = holds.split()[0]
        exchanges.append(Exchange("comparison", "bare", question, answer))
    return exchanges


def _line(
    ids: list[int], branch: int, start: int, supervised: range, weight: float
) -> list[tuple[int, int, int, int, float]]:
    """Positions of one run of tokens; the token at index k is predicted at index k - 1."""
    rows = []
    for k, token in enumerate(ids):
        told = k + 1 in supervised
        target = ids[k + 1] if told else IGNORED
        rows.append((token, branch, start + k, target, weight if told else 0.0))
    return rows
