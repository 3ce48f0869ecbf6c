"""Keys and values of questions that are answered: written once, into room that is made once.

transformers' own layer of a cache joins old and new by `cat`, which copies everything at every
token. For small models that is a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Given(DynamicLayer):
    """One layer that is filled once and keeps what it was given, without a copy."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states


class Roomy(DynamicLayer):
    """One layer whose rows have room for what will be written behind them.

    keys, values [rows, heads, positions, size]: the `filled` first positions of the room. Beyond
    the room it goes on as transformers' layer does.
    """

    def __init__(
        self, like: Tensor, like_values: Tensor, rows: int, filled: int, room: int
    ) -> None:
        """like [any, heads, any, size]: precision and sizes. The first positions are to be set."""
        super().__init__()
        self.lazy_initialization(like, like_values)
        self.room = tuple(
            # Unset: nobody reads beyond what is `filled`.
            each.new_empty(rows, each.shape[1], filled + room, each.shape[-1])
            for each in (like, like_values)
        )
        self.show(filled)

    def show(self, filled: int) -> None:
        """Let so many positions count."""
        self.keys, self.values = (each[:, :, :filled] for each in self.room)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.room[0].shape[2]:
            more = end  # twice what is needed now
            self.room = tuple(
                torch.cat([each, each.new_empty(*each.shape[:2], more, each.shape[-1])], 2)
                for each in self.room
            )
        for whole, new in zip(self.room, (key_states, value_states), strict=True):
            whole[:, :, start:end] = new
        self.show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        filled = self.keys.shape[2]
        # Only what is filled is copied; the rest of the new room is as unset as it was.
        fewer = tuple(each.new_empty(len(indices), *each.shape[1:]) for each in self.room)
        for rows, each in zip(fewer, (self.keys, self.values), strict=True):
            rows[:, :, :filled] = each[indices]
        self.room = fewer
        self.show(filled)


def make_single_use_cache() -> DynamicCache:
    """An empty cache for one forward."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = Given
    return cache


def cache_of(layers: Sequence[Roomy]) -> DynamicCache:
    """A cache of these layers."""
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache
