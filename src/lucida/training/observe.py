"""Who looks at a model while a run trains it, and how one looks without leaving a trace.

    before stage 1 ─▶ stage 1, every `evaluate_every` steps ─▶ after stage 1 ─▶ stage 2 … ─▶ after

Nothing of the training may depend on when or whether one looks: the random generators and the
modules' modes are put back, and the held-out batches do not come from the training stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from lucida.core.spec import MaskName
from lucida.data.sample import Batch
from lucida.training.engine import Engine
from lucida.training.precision import Precision
from lucida.training.state import random_state, restore_random_state

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


class Observer:
    """Looks at the model of a run; what it finds stands in metrics.jsonl under `name`.

    between_stages: it looks before the first stage and after every one, once each, however often
    the run is stopped, and may forbid that the run goes on. Otherwise it looks every so many steps,
    where a stage sets `evaluate_every`.
    """

    name = "evaluation"
    between_stages = False

    def look(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        step: int,
        earlier: Sequence[Mapping[str, object]],
    ) -> Mapping[str, object] | None:
        """What is found after `step` steps of the run, as JSON values; None is not recorded.

        processor: as the stage sets it. earlier: between stages, what was found there before.
        `said` in what is found is a sentence for the log.
        """
        raise NotImplementedError

    def is_higher_better(self, score: str) -> bool:
        """Which way a score that it finds, by name, is better."""
        raise NotImplementedError

    def require(self, found: Mapping[str, object], origin: object) -> None:
        """RunError where what was found between two stages forbids to go on."""


@contextmanager
def leave_untouched(model: nn.Module) -> Iterator[None]:
    """A look at the model in evaluation mode and without gradients; afterwards the modules' modes
    and all random generators are what they were."""
    generators = random_state()
    # Not `evaluating`, which puts back what it switched itself: who looks may switch modes too.
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
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision,
    engine: Engine,
    mask: MaskName | None = None,
    how: str = "segments",
) -> float | None:
    """Mean loss per supervised token, or pair, over the `batches` of all ranks, without dropout;
    None when they hold no such token. `model` is the one that trains; `mask`, `how`
    as in `token_losses`."""
    summed, count = 0.0, 0
    with leave_untouched(model), engine.looking(model) as loss_of, precision.autocast():
        for batch in batches:
            loss, each = loss_of(batch.to(precision.device), mask, how)
            summed += loss.item()
            count += batch.counting if len(each) else 0
    summed, count = engine.total(summed, count)
    return summed / count if count else None
