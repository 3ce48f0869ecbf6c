"""Rotary positions of three parts: time, height and width (`language.positions: mrope`).

    position [rows, length] ─▶ three of them at visual tokens (model/arrangement.py) ─▶ a table each
                            ─▶ of each frequency the part that it belongs to ─▶ one table

A decoder layer rotates by whatever table it is given, so one of the three parts mixed takes the
place of the usual one and no layer changes. Where the parts are equal, as in text, the mix is the
usual table to the bit; so a forward without pictures needs nothing of this, and a language model
that knows words goes on knowing them.

Of n frequencies, the fastest first, Qwen2-VL gives the first n / 4 to time, the next 3 n / 8 to
height and the rest to width (16, 24 and 24 of 64). Qwen3-VL deals them out in turn, time, height,
width, time, …, 5 n / 16 each to height and width and what is left to time (24, 20 and 20 of 64).

Reference: Wang et al., Qwen2-VL, 2024, arXiv 2409.12191, section 2.1; transformers'
Qwen2VLRotaryEmbedding and Qwen3VLTextRotaryEmbedding (`recomposition_frequencies`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lucida.core.errors import ModelError
from lucida.core.spec import ModelSpec, Positions


def part_of_frequencies(count: int, positions: Positions) -> Tensor:
    """Which part (0 time, 1 height, 2 width) each of so many frequencies belongs to: [count]."""
    if positions == "mrope_interleaved":
        number = torch.arange(count)
        return torch.where(number < 3 * (5 * count // 16), number % 3, 0)
    time = count // 4
    height = (count - time) // 2
    return torch.tensor([0] * time + [1] * height + [2] * (count - time - height))


def find_rotary(language: PreTrainedModel) -> nn.Module | None:
    """The one module that makes the table for all layers; None where there is none, as where
    positions are learned or layers differ in theirs."""
    module = getattr(language.base_model, "rotary_emb", None)
    return module if isinstance(getattr(module, "inv_freq", None), Tensor) else None


@torch.no_grad()
def check_rotary(language: PreTrainedModel, spec: ModelSpec) -> None:
    """ModelError where a design wants three parts and its language model has no table that can be
    mixed of three: cosines and sines of which the second half repeats the first."""
    if not spec.language.positions.startswith("mrope"):
        return
    rotary = find_rotary(language)
    halves = rotary is not None
    if halves and not rotary.inv_freq.is_meta:
        position = torch.arange(3, device=rotary.inv_freq.device)[None]
        try:
            table = rotary(torch.zeros(1, device=position.device), position)
            halves = all(torch.equal(*part.chunk(2, -1)) for part in table)
        except (TypeError, ValueError, AttributeError, KeyError, RuntimeError):
            halves = False  # another kind of table
    if not halves:
        raise ModelError(
            f"{type(language).__name__} has no rotary table that three parts can share",
            expected="one `rotary_emb` for all layers, as Llama, Mistral, Qwen2 and Qwen3 have it",
            given=f"model.language.positions={spec.language.positions}",
            origin=spec.language.path,
            remedy="set model.language.positions to 1d or reset, or choose another language model",
        )


@contextmanager
def rotating(
    language: PreTrainedModel, position: Tensor | None, positions: Positions
) -> Iterator[None]:
    """Within, queries and keys of the language model are rotated by these three parts
    [rows, length, 3], whatever position ids it is given; None leaves everything as it is."""
    if position is None:
        yield
        return

    def mix(module: nn.Module, args: tuple, options: dict, usual: object) -> tuple[Tensor, Tensor]:
        # `forward`, which calls no hooks: not this one again.
        return mix_tables(module.forward, position, positions, args[0])

    # In front of other hooks, which then see the mix (training/kernels.py rounds tables).
    hook = find_rotary(language).register_forward_hook(mix, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def mix_tables(
    table: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    position: Tensor,
    positions: Positions,
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, length, size], each frequency by its part of the positions."""
    found = [table(x, part.contiguous()) for part in position.unbind(-1)]
    # [size]: the table repeats its n frequencies, (f1 … fn f1 … fn), and so does the choice of
    # parts.
    which = part_of_frequencies(found[0][0].shape[-1] // 2, positions).repeat(2).to(x.device)
    mixed = []
    for parts in zip(*found, strict=True):
        wanted = which.expand_as(parts[0])[None]
        mixed.append(torch.stack(parts).gather(0, wanted)[0])
    return mixed[0], mixed[1]
