"""Which module first produced a number that is not finite.

Called once, when a step has gone wrong: it runs the batch again with hooks on every module, which
would be far too slow on every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Every floating-point tensor in a module's input or output."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def finite(value: object) -> bool:
    """True when every floating-point tensor in `value` is finite throughout."""
    return all(bool(torch.isfinite(each).all()) for each in tensors_in(value))


def first_bad_module(model: nn.Module, forward: Callable[[], torch.Tensor]) -> str | None:
    """A phrase that names where the first infinity or NaN comes from; None when there is none.

    Looks at the weights, then at the outputs of modules in the order in which they finish, then at
    gradients. `forward` computes the loss of the batch that went wrong.
    """
    for name, parameter in model.named_parameters():
        if not finite(parameter):
            return f"the weights of {name} are not finite"
    bad: list[str] = []

    def watch(name: str) -> Callable:
        def look(module: nn.Module, inputs: tuple, output: object) -> None:
            if not bad and not finite(output):
                bad.append(name)

        return look

    handles = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    try:
        model.zero_grad(set_to_none=True)
        loss = forward()
        if bad:
            return f"module {bad[0]} is the first whose output is not finite"
        if not finite(loss):
            return "every module's output is finite, but the loss is not"
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not finite(parameter.grad)
    ]
    model.zero_grad(set_to_none=True)
    if broken:
        # Backward runs from the output, and parameters stand from the input on: the last is the
        # first hit.
        return f"the loss is finite, but the gradient of {broken[-1]} is not ({len(broken)} in all)"
    return None
