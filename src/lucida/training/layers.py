"""How the layers of a stage are computed: as they are, again in the backward pass, compiled.

    layer.forward ─▶ compiled (engine.compile) ─▶ computed again (batch.checkpointing) ─▶ layer

Memory against time: a layer normally keeps all its inner results for the backward pass. With `full`
it keeps its input alone and runs a second time; with `selective` it also keeps the products with
weight matrices, which are most of the work, and repeats the cheap rest (norms, activations,
attention weights). The numbers stay the same, dropout included (up to rounding of the last layer,
which is then computed at every position). transformers' own switch covers
only layers in training mode, so not a frozen language model below which a projector learns.

Reference: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lucida.core.progress import say
from lucida.training.blocks import blocks

Checkpointing = Literal["none", "full", "selective"]

PRODUCTS = frozenset(
    (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.convolution.default)
)
"""Operators whose results `selective` keeps. Batched products are not among them: those are the
attention scores, whose size grows with the square of the length."""


def keep_products(context: object, operator: object, *inputs: object, **more: object) -> object:
    """The policy of `selective`: keep what came out of a weight matrix, repeat the rest."""
    kept = operator in PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def recomputing(forward: Callable[..., Any], how: Checkpointing) -> Callable[..., Any]:
    """A layer's `forward` that keeps less for the backward pass."""
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        selective = partial(create_selective_checkpoint_contexts, keep_products)
        options["context_fn"] = selective

    def again(*inputs: Any, **more: Any) -> Any:
        if not torch.is_grad_enabled():  # nothing is kept anyway
            return forward(*inputs, **more)
        return checkpoint(forward, *inputs, **options, **more)

    return again


def equip(model: nn.Module, how: Checkpointing, compiled: bool) -> int:
    """Set how the layers of a model compute; gives the number of layers that are changed.

    Undoes what an earlier call did. Layers of the language model, and those of an encoder in which
    something trains (a frozen one keeps nothing anyway, and is not worth compiling).
    """
    changed = 0
    parts = {"language": model.language, "vision": model.vision}
    for name, part in parts.items():
        if part is None:
            continue
        learns = name == "language" or any(weight.requires_grad for weight in part.parameters())
        for layer in blocks(part).values():
            # `forward` as an attribute of the object hides its class's; without it that one is
            # back.
            layer.__dict__.pop("forward", None)
            if not learns or (how == "none" and not compiled):
                continue
            forward = layer.forward
            if compiled:
                forward = torch.compile(forward, dynamic=True)
            layer.forward = forward if how == "none" else recomputing(forward, how)
            changed += 1
    return changed


def able_to_compile() -> bool:
    """Does torch.compile work here? Tried on a line; the reason is said when it does not."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        twice = torch.compile(lambda x: x.sin() + x)
        twice(torch.ones(2))
    except (TorchDynamoException, RuntimeError, OSError) as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()]
        reason = lines[0] if lines else type(problem).__name__
        say(f"engine.compile: going on without, torch.compile does not work here: {reason}")
        return False
    return True
