"""A model in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module, modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Within, dropout and batch statistics are off; afterwards each module is in the mode it was
    in, unless somebody else switched it meanwhile. Modules that are so already are not touched: for
    a small model, switching all of them twice a question takes as long as a fifth of the answer.
    modules: the model's, if they are listed."""
    awake = [each for each in modules or model.modules() if each.training]
    for module in awake:
        module.training = False
    try:
        yield
    finally:
        for module in awake:
            module.training = True
