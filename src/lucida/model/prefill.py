"""The first pass over prompts that are to be answered, and the cache that answers go on from.

    rows           [ A a1 a2 ] [ A a3 ] [ B b1 ]     a stem and questions side by side
    forward        | A a1 a2 a3 | B b1 |             a tree for each stem, packed
    cache          [ A a1 a2 ]                       gathered into rows, each as wide as the widest
                   [ A a3  . ]
                   [ B b1  . ]

A tree is a segment of a packed row: its questions are branches and do not see one another. So a
stem runs once for all its questions, whatever stands in the batch beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from lucida.data.collate import collate
from lucida.data.sample import Tokens
from lucida.model.cross_attention import SEEN
from lucida.model.key_values import Roomy, cache_of, make_single_use_cache
from lucida.model.trees import (
    PASS_TOKENS,
    Beginning,
    batches,
    beginning,
    branched,
    group_by_beginning,
    with_images,
)

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, cut behind its last visual token (or its stem, whichever ends later).

    At its full length it is not cut: nothing of it is shared.
    """

    index: int
    prompt: Tokens
    cut: int

    @property
    def stem(self) -> Beginning:
        """What must be equal for two requests to share their beginning."""
        return beginning(self.prompt, self.cut)

    @property
    def rest(self) -> int:
        """Positions behind the stem."""
        return len(self.prompt) - self.cut


Row = list[Request]
"""Requests of one stem that share a row of the cache."""


def length(row: Row) -> int:
    """Positions of a row before anything is written."""
    return row[0].cut + sum(asked.rest for asked in row)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts that have been read.

    owner [rows, positions]: whose each position of the cache is: 0 the stem's, k question k's,
    -1 nobody's. hidden [rows, questions, width]: the last state of each prompt, arbitrary where a
    row has fewer questions.
    """

    cache: Cache
    owner: Tensor
    hidden: Tensor


def prefill(
    model: LucidaModel, processor: LucidaProcessor, batch: Sequence[Row], new: int = 0
) -> Prefilled:
    """Every prompt of the rows, packed: one forward, or several of `PASS_TOKENS` on a CPU. The
    cache has room for `new` more positions of each question.

    Worked example: the rows [A a1 a2] and [A a3] with a stem of 3 positions, a1 and a3 of 2, a2 of
    1. The tree is A A A a1 a1 a2 a3 a3; the cache gathers its places 0 1 2 3 4 5 and 0 1 2 6 7,
    owners 0 0 0 1 1 2 and 0 0 0 1 1 -1.
    """
    device, mask = model.device, model.mask_for(processor)
    width, most = max(map(length, batch)), max(map(len, batch))
    packed = model.cross_attention is None  # gated layers keep their images by the row
    layers: list[Roomy] = []
    owners = torch.full((len(batch), width), -1, device=device)
    hidden = None
    size = partial(tree_length, batch)
    budget = PASS_TOKENS if packed and device.type == "cpu" else math.inf
    for trees in batches(trees_of(batch, packed), size, budget):
        tokens = [segment([asked for n in tree for asked in batch[n]]) for tree in trees]
        fields = collate(tokens, packed, processor.tokenizer.pad_token_id)
        with_images(fields, model, processor, tokens)
        # Flat positions at which trees begin: end to end in one row, or each at the beginning of
        # its own.
        step = [len(each) for each in tokens]
        starts = np.cumsum([0, *(step if packed else [max(step)] * len(step))])
        place, owner, last = map(torch.from_numpy, places(batch, trees, starts, width, most))
        place, owner, last = place.to(device), owner.to(device), last.to(device)
        cache = make_single_use_cache()
        plain = packed and mask == "causal" and len(trees) == 1 and alone(batch, trees[0])
        # transformers takes a gap between positions for the beginning of another text.
        plain = plain and not fields.reduced
        states = model.hidden(fields.to(device), mask, cache, last.unique(), plain).flatten(0, 1)
        rows = torch.tensor([number for tree in trees for number in tree], device=device)
        if hidden is None:
            hidden = states.new_zeros(len(batch), most, states.shape[-1])
            layers = [
                Roomy(each.keys, each.values, len(batch), width, most * new)
                for each in cache.layers
            ]
        hidden[rows], owners[rows] = states[last], owner
        for layer, each in zip(layers, cache.layers, strict=True):
            layer.keys[rows] = gather_states(each.keys, place)
            layer.values[rows] = gather_states(each.values, place)
    joined = cache_of(layers)
    if hasattr(cache, SEEN):  # gated layers: all rows were one forward
        setattr(joined, SEEN, getattr(cache, SEEN))
    return Prefilled(joined, owners, hidden)


def alone(batch: Sequence[Row], tree: Sequence[int]) -> bool:
    """Whether a tree is one prompt: a text without branches."""
    return len(tree) == 1 and len(batch[tree[0]]) == 1


def tree_length(batch: Sequence[Row], trees: Sequence[Sequence[int]]) -> int:
    """Positions of these trees: what their rows share is counted once."""
    rows = [[batch[number] for number in tree] for tree in trees]
    return sum(tree[0][0].cut + sum(asked.rest for row in tree for asked in row) for tree in rows)


def trees_of(batch: Sequence[Row], joined: bool) -> list[list[int]]:
    """Rows that are read as one tree, by number: those of equal stems. Every row by itself where
    they are not to be `joined`."""
    if not joined:
        return [[number] for number in range(len(batch))]
    return group_by_beginning(
        range(len(batch)),
        key=lambda number: batch[number][0].stem,
        cut=lambda number: batch[number][0].cut,
        behind=lambda number: sum(asked.rest for asked in batch[number]),
    )


def segment(asked: Sequence[Request]) -> Tokens:
    """A stem with prompts as its branches."""
    stem, cut = asked[0].prompt, asked[0].cut
    first = stem.behind(cut)
    behind = [(each.prompt.input_ids[cut:], n, first) for n, each in enumerate(asked, 1)]
    return branched(stem, cut, behind, cut - 1 + np.cumsum([each.rest for each in asked]))


def places(
    batch: Sequence[Row],
    trees: Sequence[Sequence[int]],
    starts: np.ndarray,
    width: int,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the rows of these trees, in their order: where each position stands in the forward, whose
    it is, and where the prompts end: [rows, width], [rows, width], [rows, most]."""
    rows = sum(map(len, trees))
    # What nobody owns shows flat position 0: finite, and hidden by its owner of -1.
    place = np.zeros((rows, width), np.int64)
    owner = np.full_like(place, -1)
    last = np.zeros((rows, most), np.int64)
    row = 0
    for tree, start in zip(trees, starts, strict=False):
        cut = batch[tree[0]][0].cut
        behind = start + cut
        for number in tree:
            place[row, :cut] = np.arange(start, start + cut)
            owner[row, :cut] = 0
            end = cut
            for k, asked in enumerate(batch[number], 1):
                own = slice(end, end + asked.rest)
                place[row, own] = np.arange(behind, behind + asked.rest)
                owner[row, own] = k
                end, behind = own.stop, behind + asked.rest
                last[row, k - 1] = behind - 1
            last[row, len(batch[number]) :] = last[row, 0]  # any place that exists
            row += 1
    return place, owner, last


def gather_states(states: Tensor, place: Tensor) -> Tensor:
    """Keys or values [rows, heads, length, size] of a forward, by flat position, as [rows of the
    cache, heads, positions, size]."""
    heads, size = states.shape[1], states.shape[-1]
    every = states.transpose(1, 2).reshape(-1, heads, size)
    rows = every.index_select(0, place.flatten()).view(*place.shape, heads, size)
    return rows.transpose(1, 2)
