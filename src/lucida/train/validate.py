"""The loss on held-out samples, looked at without leaving a trace in the training.

Nothing of the training may depend on when or whether one looks: the random generators and the
modules' modes are put back, and the held-out batches do not come from the training stream.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lucida.data.sample import Batch
from lucida.train.objective import supervised_loss
from lucida.train.precision import Precision
from lucida.train.state import random_state, restore_random_state


def validation_loss(model: nn.Module, batches: Iterable[Batch], precision: Precision) -> float:
    """Mean loss per supervised token over `batches`, without dropout."""
    generators = random_state()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    summed, count = 0.0, 0
    try:
        with torch.inference_mode(), precision.autocast():
            for batch in batches:
                loss, supervised = supervised_loss(model, batch.to(precision.device))
                summed += loss.item()
                count += supervised
    finally:
        for module, training in modes.items():
            module.training = training
        restore_random_state(*generators)
    return summed / count
