"""Into how many passes a step has to be cut so that it fits the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from lucida.apps.plan.devices import Device
from lucida.core.errors import RecipeError
from lucida.core.progress import say
from lucida.core.spec import StageSpec

ROOM = 0.95
"""Share of a device's memory that a plan may fill; the rest is the driver's and fragments."""

REMEDIES = {
    "single": "several devices under fsdp",
    "ddp": "fsdp, which divides weights, gradients and moments",
    "fsdp": "more devices",
}


def fits(peak: float, memory: float | None) -> bool | None:
    """Whether so many bytes fit; None where the device's memory is unknown."""
    return None if memory is None else peak < ROOM * memory


def cuts(
    stage: StageSpec,
    memory: dict[str, dict[str, float]],
    device: Device,
    planned: Callable[[StageSpec], dict[str, dict[str, float]]],
) -> dict[str, int | None]:
    """Engine → the `batch.accumulate` under which the stage fits, for each engine that it does not
    fit as it is; None where no number of passes is enough.

    memory: of the stage as it is, by engine and part; `planned` gives that of another one. Tried
    are the stage's own number times powers of two, from the first that may do; the gradient does
    not depend on it.

    Worked example: of 100 GB, 40 stay whatever the batch (weights, gradients, moments) and 60 go
    with it; of a device of 80 GB 80 x 0.95 - 40 = 36 are free for those: two passes.
    """
    found: dict[str, int | None] = {}
    tried: dict[int, dict[str, dict[str, float]] | None] = {}
    for engine, parts in memory.items():
        if fits(parts["peak"], device.memory) in (True, None):
            continue
        found[engine] = None
        moving = parts["activations"] + parts["logits"]
        # What does not go with the batch; the weights at least, as the peak may be of a moment when
        # there are no activations.
        room = ROOM * device.memory - max(parts["peak"] - moving, parts["weights"])
        if room <= 0:
            continue
        passes = stage.batch.accumulate * 2 ** max(1, math.ceil(math.log2(moving / room)))
        while found[engine] is None:
            if passes not in tried:
                tried[passes] = in_passes(stage, passes, planned)
            again = tried[passes]
            if again is None:
                break
            if fits(again[engine]["peak"], device.memory):
                found[engine] = passes
            passes *= 2
    return found


def in_passes(
    stage: StageSpec, passes: int, planned: Callable[[StageSpec], dict[str, dict[str, float]]]
) -> dict[str, dict[str, float]] | None:
    """The memory of the stage in so many passes a step; None where its batch cannot be cut so, or
    a device would get nothing in a pass."""
    batch = stage.batch.model_dump() | {"accumulate": passes}
    say(f"{stage.name} does not fit: looking at it in {passes} passes a step")
    try:
        cut = type(stage.batch).model_validate(batch)
        return planned(stage.model_copy(update={"batch": cut}))
    except (ValidationError, RecipeError):
        return None


def advice(stage: dict[str, Any]) -> list[str]:
    """A line for each engine under which a planned stage does not fit."""
    lines = []
    for engine, passes in stage["fits_with"].items():
        name = f"{stage['name']} under {engine}"
        if passes is not None:
            lines.append(f"{name} fits with stages.{stage['name']}.batch.accumulate={passes}")
            continue
        again = "" if stage["checkpointing"] == "full" else "batch.checkpointing=full, "
        lines.append(f"{name} fits in no number of passes; try {again}{REMEDIES[engine]}, or LoRA")
    return lines
