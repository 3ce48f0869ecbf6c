"""Scores of a model while it is being trained, without a trace in the training.

evaluate_slim(model, processor, ["attribute"], limit=64, step=200)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from lucida.eval.run import evaluate

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

SAMPLES = 500
"""Bootstrap resamples; an interval on the way need not be sharp."""


def evaluate_slim(
    model: LucidaModel,
    processor: LucidaProcessor,
    tasks: Iterable[str],
    limit: int,
    step: int,
    max_new_tokens: int = 32,
) -> dict:
    """`{"step", "tasks": {name: {"score", "interval", "n"}}, "seconds"}` on the first `limit`
    examples of each task.

    Afterwards the model is what it was, bit for bit: weights, gradients, which modules train, the
    mode of every module, and the state of all random generators.
    """
    with undisturbed(model):
        found = evaluate(model, processor, tasks, limit, max_new_tokens, samples=SAMPLES)
    tasks = {
        name: {key: task[key] for key in ("score", "interval", "n")}
        for name, task in found["tasks"].items()
    }
    return {"step": step, "tasks": tasks, "seconds": found["seconds"]["evaluate"]}


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Generators and the mode of every module are as before when the block ends, however it ends.

    A module's own mode is kept one by one: a frozen encoder stays in evaluation mode while the rest
    trains.
    """
    modes = [(module, module.training) for module in model.modules()]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
