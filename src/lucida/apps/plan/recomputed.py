"""What layers that are computed again in the backward pass hold, and when.

    between the passes    the input of each layer; under `selective` its products with weights too
    during one layer      all that it would have kept if it were not computed again

The first is there for all layers at once, the second for one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lucida.training.blocks import blocks
from lucida.training.layers import PRODUCTS


class Products(TorchDispatchMode):
    """Counts the bytes of the products with weights that are made inside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.inside = 0, False

    def __torch_dispatch__(
        self, operator: Callable, types: Any, arguments: tuple = (), options: dict | None = None
    ) -> Any:
        result = operator(*arguments, **(options or {}))
        if self.inside and operator in PRODUCTS:
            self.bytes += result.untyped_storage().nbytes()
        return result


class Layers:
    """The layers of a part while it runs: what `selective` keeps of them, and the first one with
    what it was called with."""

    def __init__(self) -> None:
        self.products = Products()
        self.first: tuple[nn.Module, tuple, dict[str, Any]] | None = None

    def enter(self, layer: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
        """The hook in front of each layer."""
        self.products.inside = True
        self.first = self.first or (layer, arguments, options)

    def leave(self, layer: nn.Module, arguments: tuple, output: object) -> None:
        """The hook behind each layer."""
        self.products.inside = False

    def again(self, keep: Callable[[Tensor], Tensor]) -> None:
        """Run the first layer as it is without recomputing; `keep` is given what it saves."""
        layer, arguments, options = self.first
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # The class's own: `equip` has laid one that recomputes over it.
            type(layer).forward(layer, *arguments, **options)


@contextmanager
def watch_layers(part: nn.Module) -> Iterator[Layers]:
    """The layers of a part, filled while it runs inside the block."""
    layers = Layers()
    handles = []
    for layer in blocks(part).values():
        handles.append(layer.register_forward_pre_hook(layers.enter, with_kwargs=True))
        handles.append(layer.register_forward_hook(layers.leave))
    try:
        with layers.products:
            yield layers
    finally:
        for handle in handles:
            handle.remove()
