"""The cost of a deep model from a few of its layers: of each kind one runs, the others are counted.

    layers a a a a b b b ─┬─ one a, one b    base
                          ├─ two a, one b    base + a
                          └─ one a, two b    base + b      ─▶  base + 3 a + 2 b

Layers are of a kind when they hold the same modules, train the same of their weights and are called
with the same shapes and types, gradients or none: then they cost the same, to the byte. One that is
left out hands on what it was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lucida.apps.plan.step import Cost
from lucida.model.last_layer import last_layer
from lucida.training.blocks import blocks

DEEP = 12
"""Layers of a part from which on few of them are run; fewer are as soon run as told apart."""


def cost_by_kinds(model: nn.Module, run: Callable[[], Cost]) -> Cost:
    """What `run`, a pass of the model, costs; its deep parts run a few of their layers."""
    found = [blocks(part) for part in (model.vision, model.language) if part is not None]
    last = last_layer(model.language)  # it may be computed at fewer positions than the others
    layers = [layer for each in found if len(each) >= DEEP for layer in each.values()]
    layers = [layer for layer in layers if layer is not last]
    if not layers:
        return run()
    with Few(layers).put_in() as few:
        base = few.measure(run)
        left_out = dict(few.left_out)
        ran = len(layers) - sum(left_out.values())
        if len(left_out) * (ran + 1) < sum(left_out.values()):
            ones = [(few.measure(run, twice=kind), left_out[kind]) for kind in left_out]
            return add(base, ones)
    return run()


def add(base: Cost, ones: list[tuple[Cost, int]]) -> Cost:
    """The base and of each kind as many as were left out; `ones` are the base and one of a kind."""
    flops, kept = dict(base.flops), dict(base.kept)
    for one, count in ones:
        for total, part, before in ((flops, one.flops, base.flops), (kept, one.kept, base.kept)):
            for name in total:
                total[name] += count * (part[name] - before[name])
    return Cost(flops, kept, base.working)


class Few:
    """Layers of which one of each kind runs, of one kind two.

    left_out: how many of each kind did not run in the last pass.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        # What a layer holds and what of it trains is long to say: once for all passes.
        numbers: dict[Hashable, int] = {}
        self.contents = {
            layer: numbers.setdefault(
                (repr(layer), tuple(weight.requires_grad for weight in layer.parameters())),
                len(numbers),
            )
            for layer in layers
        }
        self.twice: Hashable = None
        self.ran: Counter[Hashable] = Counter()
        self.left_out: Counter[Hashable] = Counter()
        self.like_input: dict[Hashable, bool] = {}

    @contextmanager
    def put_in(self) -> Iterator[Few]:
        """Within, the layers run or hand on."""
        before = {layer: vars(layer).get("forward") for layer in self.layers}
        try:
            for layer in self.layers:
                layer.forward = partial(self.call, layer, layer.forward)
            yield self
        finally:
            for layer, forward in before.items():
                if forward is None:
                    del layer.forward
                else:
                    layer.forward = forward

    def measure(self, run: Callable[[], Cost], twice: Hashable = None) -> Cost:
        """The cost of a pass that runs one layer of each kind, and two of one kind."""
        self.twice = twice
        self.ran.clear()
        self.left_out.clear()
        cost = run()
        for layer in self.layers:
            for weight in layer.parameters():
                weight.grad = None
        return cost

    def call(self, layer: nn.Module, forward: Callable, *args: Any, **options: Any) -> Any:
        """A layer's `forward`, or what it was given instead."""
        kind = (self.contents[layer], torch.is_grad_enabled(), *map(shape, args))
        kind += tuple((name, shape(value)) for name, value in sorted(options.items()))
        enough = 2 if kind == self.twice else 1
        if self.ran[kind] >= enough and self.like_input[kind]:
            self.left_out[kind] += 1
            return args[0]
        self.ran[kind] += 1
        result = forward(*args, **options)
        self.like_input[kind] = bool(args) and shape(result) == shape(args[0]) is not None
        return result


def shape(value: object) -> Hashable:
    """Of what an argument is, as far as it decides about costs; numbers and words themselves."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.requires_grad
    if isinstance(value, tuple | list):
        return tuple(map(shape, value))
    return value if isinstance(value, str | int | float | None) else type(value)
