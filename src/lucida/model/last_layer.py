"""The last layer computed only where somebody looks at its result.

Of the last layer every position's keys and values are needed, but queries, the output of attention
and the MLP only where a next token is asked for. With few such positions a short model saves much
(the four layers of `mini`: a fifth of its multiplications), a deep one little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from lucida.core.errors import ModelError
from lucida.model.cross_attention import decoder_layers

SPARED = ("mlp", "self_attn.q_proj", "self_attn.o_proj")
"""Modules of a decoder layer that treat every position by itself, where they have these names; what
is named otherwise is computed whole."""


@contextmanager
def only_at(language: PreTrainedModel, wanted: Tensor | None) -> Iterator[None]:
    """Within, the states that come out of the language model are right at the flat positions
    `wanted` and arbitrary (but finite) elsewhere; None leaves everything as it is.

    Worked example: rows of 3 positions, wanted 2 and 5: the last MLP sees two positions, not six.
    """
    layer = None if wanted is None else last_layer(language)
    if layer is None:
        yield
        return
    modules = dict(layer.named_modules())
    hooks = []
    try:
        for name in SPARED:
            if name in modules:
                hooks += spare(modules[name], wanted)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_layer(language: PreTrainedModel) -> nn.Module | None:
    """The last decoder layer; None where there is no list of layers, where it is compiled (a hook
    would compile it again), or where it is computed again in the backward pass, when no hook is
    there any more."""
    try:
        layer = decoder_layers(language)[1][-1]
    except ModelError:
        return None
    replaced = "forward" in vars(layer) or getattr(layer, "_compiled_call_impl", None) is not None
    return None if replaced else layer


def spare(module: nn.Module, wanted: Tensor) -> list:
    """Hooks by which a module computes the wanted positions of [rows, length, width], and gives 0
    at the others."""
    shape: list[int] = []

    def select(module: nn.Module, args: tuple) -> tuple | None:
        shape.clear()  # one pair of hooks for all calls of a module
        if len(args) != 1 or args[0].ndim != 3:
            return None  # called in a way of its own: computed whole
        shape.extend(args[0].shape[:2])
        return (args[0].flatten(0, 1)[wanted][None],)  # [1, wanted, width]

    def spread(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        if not shape:
            return None
        states, *rest = output if isinstance(output, tuple) else (output,)
        every = states.new_zeros(shape[0] * shape[1], states.shape[-1])
        every[wanted] = states[0]
        every = every.view(*shape, -1)
        return (every, *rest) if isinstance(output, tuple) else every

    return [module.register_forward_pre_hook(select), module.register_forward_hook(spread)]
