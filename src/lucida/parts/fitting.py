"""The training loop of the small parts: one loss, one optimizer, a rate for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lucida.core.progress import Progress
from lucida.training.optim import set_learning_rate


class Fitting(Progress):
    """Takes steps and shows them; `loss` is a running mean over about fifty of them."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(name, steps, "step")
        self.loss = 0.0

    def fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: Iterable[int],
        loss_of: Callable[[int], Tensor],
        rate: Callable[[int], float],
        after: Callable[[int], object] | None = None,
        clip: float | None = 1.0,
    ) -> None:
        """Take `steps` by their numbers.

        loss_of: the loss of a step's batch, under autocast if need be. rate: the factor on the
        optimizer's peak rates. after: called after each update. clip: largest norm of the gradient.
        """
        for step in steps:
            set_learning_rate(optimizer, rate(step))
            loss = loss_of(step)
            model.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            value = loss.item()
            self.loss = 0.98 * self.loss + 0.02 * value if self.done else value  # about fifty steps
            self.advance(1, loss=self.loss)
            if after is not None:
                after(step)
