"""Keys and values of a cache as parts that are kept, closed up and put together.

A part is, of every layer, keys and values [rows, heads, positions, size]; what is kept of one
prompt has no axis of rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from lucida.model.cross_attention import SEEN
from lucida.model.decode import State
from lucida.model.key_values import Roomy, cache_of
from lucida.model.trees import Beginning

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer."""

MOST_BYTES = 512 * 2**20
"""Bytes of the beginnings that a model keeps."""


class Prefixes:
    """Beginnings with pictures that were read, of at most `most` bytes; what was asked about
    longest ago goes first."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.bytes = most, 0
        self.kept: OrderedDict[Beginning, Layers] = OrderedDict()
        self.taken = 0
        """How often one was found here."""

    def find(self, key: Beginning) -> Layers | None:
        """What is kept of a beginning."""
        return self.kept.get(key)

    def take(self, key: Beginning) -> Layers:
        """What is kept of a beginning, which is the youngest now."""
        self.taken += 1
        self.kept.move_to_end(key)
        return self.kept[key]

    def keep(self, key: Beginning, layers: Layers) -> None:
        """Keep a beginning, unless it alone is too large."""
        size = sum(part.nbytes for pair in layers for part in pair)
        if size > self.most or key in self.kept:
            return
        self.kept[key] = layers
        self.bytes += size
        while self.bytes > self.most:
            _, oldest = self.kept.popitem(last=False)
            self.bytes -= sum(part.nbytes for pair in oldest for part in pair)


def stack_prefixes(kept: Sequence[Layers], filled: int, room: int) -> DynamicCache:
    """A cache with what is kept of each prompt as its rows, `filled` positions wide; zeros where a
    row is shorter."""
    layers = []
    for pairs in zip(*kept, strict=True):
        keys, values = pairs[0]
        layer = Roomy(keys[None], values[None], len(pairs), filled, room)
        for row, parts in enumerate(pairs):
            for whole, part in zip((layer.keys, layer.values), parts, strict=True):
                whole[row, :, : part.shape[1]] = part
                whole[row, :, part.shape[1] :] = 0
        layers.append(layer)
    return cache_of(layers)


def close_rows(state: State, rows: Sequence[int]) -> Layers:
    """These rows with the positions that are their own side by side, in their order, as wide as the
    longest; behind the others stands something finite that is nobody's."""
    chosen = torch.tensor(rows, device=state.owner.device)
    # A stable sort by "is nobody's" moves a row's own columns to the left and keeps their order; as
    # wide as the longest row, what stands at the end of the others is hidden by `owner`.
    nobody = (state.owner[chosen] < 0).long()
    place = nobody.argsort(dim=1, stable=True)[:, : int((1 - nobody).sum(1).max())]
    found = []
    for layer in state.cache.layers:
        pair = []
        for states in (layer.keys, layer.values):
            heads, size = states.shape[1], states.shape[3]
            index = place[:, None, :, None].expand(-1, heads, -1, size)
            pair.append(states[chosen].gather(2, index))
        found.append(tuple(pair))
    return found


def join_parts(parts: Sequence[Layers], filled: int, room: int) -> DynamicCache:
    """The rows of all parts, one below the other, `filled` positions wide; zeros behind those that
    are shorter."""
    layers = []
    for pairs in zip(*parts, strict=True):
        rows = sum(len(keys) for keys, _ in pairs)
        layer = Roomy(*pairs[0], rows, filled, room)
        start = 0
        for pair in pairs:
            end = start + len(pair[0])
            for whole, part in zip((layer.keys, layer.values), pair, strict=True):
                whole[start:end, :, : part.shape[2]] = part
                whole[start:end, :, part.shape[2] :] = 0
            start = end
        layers.append(layer)
    return cache_of(layers)


def copy_row(cache: Cache, row: int) -> DynamicCache:
    """One row of a cache, and the images that it has seen."""
    layers = []
    for each in cache.layers:
        keys, values = each.keys[row : row + 1], each.values[row : row + 1]
        layer = Roomy(keys, values, 1, keys.shape[2], 1)
        layer.keys.copy_(keys)
        layer.values.copy_(values)
        layers.append(layer)
    found = cache_of(layers)
    if (images := getattr(cache, SEEN, None)) is not None:
        setattr(found, SEEN, images.selected(torch.tensor([row], device=images.visual.device)))
    return found
