"""What one pass of one device holds, from the stage's batch and the lengths of its samples.

batch.samples    so many samples over ranks and passes, each of its own length
batch.tokens     so many rows of a fixed capacity; as many samples as fill them
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucida.apps.plan.lengths import Lengths, root
from lucida.core.spec import Recipe, StageSpec
from lucida.data.order import capacity, check_rows, rows_of_step

if TYPE_CHECKING:
    from lucida.apps.plan.step import Shape
    from lucida.training.stage import StagePlan


@dataclass(frozen=True, slots=True)
class Filling:
    """samples: of one pass of one device, on average; positions: of it, padding included; rows:
    that it is laid into; step_samples: of a whole step, over passes and devices."""

    samples: float
    positions: float
    rows: int
    step_samples: float


def fill_step(stage: StageSpec, found: Lengths, count: int) -> Filling:
    """How a step is cut among `count` devices. RecipeError when some would get nothing.

    Worked example: 16,384 tokens in rows of 4,096, two passes, two devices: one row in each pass.
    Samples of 1,000 tokens that fill rows to 97% are 3.97 of it.
    """
    batch = stage.batch
    check_rows(batch, count)
    room = capacity(batch)
    if room is None:
        samples = math.ceil(batch.samples / (batch.accumulate * count))
        rows = 1 if batch.pack else samples
        return Filling(samples, samples * found.length, rows, batch.samples)
    rows = math.ceil(rows_of_step(batch) / (batch.accumulate * count))
    held = rows * room * found.fill
    # Without a fixed row nothing is padded: the row ends with its last sample.
    positions = held if batch.row is None else float(rows * room)
    step = rows_of_step(batch) * room * found.fill / found.length
    return Filling(held / found.length, positions, rows, step)


def shape_of(
    recipe: Recipe,
    stage: StageSpec,
    what: StagePlan,
    found: Lengths,
    filled: Filling,
    sides: tuple[float, ...],
) -> Shape:
    """The pass as the planner runs it: samples of equal length side by side."""
    from lucida.apps.plan.step import Shape

    rows = max(1, round(filled.samples))
    length = max(2, round(filled.positions / rows))
    views = round(filled.samples * found.views)
    frozen = not what.touches("vision")
    cached = frozen and stage.batch.cache_features
    supervised = round(filled.samples * found.supervised)
    return Shape(
        rows=rows,
        length=length,
        attended=root(found.square * filled.samples / rows),
        views=max(views, 1) if found.views else 0,
        sides=sides,
        supervised=max(1, min(rows * length, supervised)),
        features_cached=bool(views) and cached,
        together=min(rows, filled.rows),
    )


def steps_of(stage: StageSpec, found: Lengths, filled: Filling, seconds: float) -> int | None:
    """Optimizer steps of the stage, None where they cannot be known."""
    budget = stage.budget
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        if found.records is None:
            return None
        return max(1, math.ceil(budget.epochs * found.records / filled.step_samples))
    if budget.tokens is not None:
        return max(1, math.ceil(budget.tokens / (filled.step_samples * found.length)))
    return max(1, round(budget.minutes * 60 / seconds))
