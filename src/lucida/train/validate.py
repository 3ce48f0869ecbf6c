"""Looks at the model during training that leave no trace in it; the loss on held-out samples.

Nothing of the training may depend on when or whether one looks: the random generators and the
modules' modes are put back, and the held-out batches do not come from the training stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lucida.data.sample import Batch
from lucida.train.engine import Engine
from lucida.train.precision import Precision
from lucida.train.state import random_state, restore_random_state


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A look at the model in evaluation mode and without gradients; afterwards the modules' modes
    and all random generators are what they were."""
    generators = random_state()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        restore_random_state(*generators)


def validation_loss(
    model: nn.Module, batches: Iterable[Batch], precision: Precision, engine: Engine
) -> float | None:
    """Mean loss per supervised token over the `batches` of all ranks, without dropout; None when
    they hold no such token."""
    summed, count = 0.0, 0
    with untouched(model), engine.looking(model) as loss_of, precision.autocast():
        for batch in batches:
            loss, each = loss_of(batch.to(precision.device))
            summed += loss.item()
            count += len(each)
    summed, count = engine.total(summed, count)
    return summed / count if count else None
