"""When a stage ends and how far it is: by steps, by tokens or by the clock.

    budget      far                                    the learning rate follows
    steps       steps done / steps                     the step
    epochs      the same; an epoch is some steps       the step
    tokens      tokens read / tokens                   the share of tokens
    minutes     time in this stage / minutes           the share of the time

With `minutes` a slower machine takes fewer steps and still ends at the end of its schedule. Time is
that of the stage's loop, looks and checkpoints included, interruptions left out; on several ranks
it is that of rank 0. Budgets of all the sources (`mixture.budgets`) may end a stage before.
"""

from __future__ import annotations

from dataclasses import dataclass

from lucida.core.spec import BudgetSpec, OptimSpec
from lucida.training.optim import schedule, schedule_by_share, warmup_steps
from lucida.training.state import Position


@dataclass(frozen=True, slots=True)
class Horizon:
    """The end of one stage: exactly one of the first three is set; `most` steps are all that its
    sources may give."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    most: int | None = None

    def share(self, position: Position) -> float:
        """How much of the stage is behind `position`: 0 at its beginning, 1 or more at its end."""
        if self.steps is not None:
            return position.step / self.steps
        if self.tokens is not None:
            return position.stage_tokens / self.tokens
        return position.stage_seconds / self.seconds

    def over(self, position: Position) -> bool:
        """Is the stage done?"""
        return self.share(position) >= 1 or (self.most is not None and position.step >= self.most)

    def factor(self, position: Position, spec: OptimSpec) -> float:
        """Factor on the peak learning rates for the next step."""
        if self.steps is not None:
            return schedule(position.step, self.steps, spec)
        return schedule_by_share(min(self.share(position), 1.0), position.step, spec)

    def check(self, spec: OptimSpec) -> None:
        """RecipeError when the warm-up is as long as the stage."""
        if self.steps is not None:
            warmup_steps(self.steps, spec)

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps} steps"
        spent = f"{self.tokens:,} tokens" if self.tokens else f"{self.seconds / 60:g} minutes"
        return spent if self.most is None else f"{spent}, at most {self.most} steps"


def horizon(budget: BudgetSpec, steps: int | None, most: int | None = None) -> Horizon:
    """The end that a budget means; `steps` is what steps or epochs come to, `most` what the sources
    give."""
    if budget.tokens is not None:
        return Horizon(tokens=budget.tokens, most=most)
    if budget.minutes is not None:
        return Horizon(seconds=60 * budget.minutes, most=most)
    return Horizon(steps=steps)
