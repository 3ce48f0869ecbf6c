"""What is measured before the first stage and after every one, and whether the run may go on.

    measure ─▶ stage 1 ─▶ measure, allowed? ─▶ stage 2 ─▶ measure ─▶ save the model ─▶ allowed?

A run that was stopped neither measures a second time nor forgets what was refused: the numbers
stand in metrics.jsonl under `retention`, one record for each boundary that was reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.runs import plain
from lucida.train.validate import untouched

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel
    from lucida.train.begin import Plan, Training

KEY = "retention"
"""Under what name measurements stand in metrics.jsonl."""


class Gate(Protocol):
    """Measures a model at the boundaries of its stages."""

    def measure(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        earlier: Sequence[Mapping[str, object]],
    ) -> Mapping[str, object]:
        """What is found now, given what was found at the boundaries before, as JSON values."""
        ...

    def require(self, found: Mapping[str, object], origin: object) -> None:
        """RunError where what was found forbids to go on."""
        ...


def expect_gate(training: Training) -> None:
    """RunError when the recipe asks for a gate and nobody gave one: it would not be kept."""
    retention = training.recipe.evaluation.retention
    if training.gate is None and retention is not None and retention.each_stage:
        raise RunError(
            "the recipe requires text retention after each stage, and nobody measures it here",
            origin=f"evaluation.retention of recipe {training.recipe.name}",
            remedy="train with `lucida train`, or give `gate=lucida.eval.retention.gate(recipe)`",
        )


def measure(training: Training, plans: Sequence[Plan], reached: int) -> None:
    """Record what stands before stage number `reached` (their count: after the last one), unless a
    run that was stopped has recorded it already. The training does not notice."""
    if training.gate is None:
        return
    run, position, engine = training.run, training.position, training.engine
    behind = plans[max(0, reached - 1)]
    if engine.main and len(earlier := found(training)) <= reached:
        if len(earlier) < reached or not at_boundary(training, plans, reached):
            raise RunError(
                f"what was measured before stage {behind.stage.name} is no longer known",
                expected=f"{reached} records of `{KEY}` at step {position.total}",
                given=len(earlier),
                origin=run.metrics.path,
                remedy="train in another folder with --run DIR",
            )
        with untouched(training.model), training.precision.autocast():
            values = training.gate.measure(training.model, behind.processor, earlier)
        place = {
            "stage": behind.stage.name,
            "step": position.step,
            "total_step": position.total,
        }
        run.metrics.append(place | {KEY: plain(dict(values))})
        if said := values.get("said"):
            say(f"{'after' if reached else 'before'} stage {behind.stage.name}: {said}")
    engine.wait()


def allow(training: Training, reached: int) -> None:
    """RunError on every rank when the measurement before stage number `reached` forbids it."""
    if training.gate is None:
        return
    problem = None
    if training.engine.main:
        try:
            training.gate.require(found(training)[reached], training.run.path)
        except RunError as refused:
            problem = refused
    if any(training.engine.total(problem is not None)):
        raise problem or RunError("the first process stopped the run between two stages")


def found(training: Training) -> list[Mapping[str, object]]:
    """What was measured at the boundaries so far, in order."""
    records = training.run.metrics.read()
    return [record[KEY] for record in records if KEY in record]


def at_boundary(training: Training, plans: Sequence[Plan], reached: int) -> bool:
    """Whether the weights are what they are between stage `reached` and the one before."""
    position = training.position
    if reached == 0:
        return position.total == 0
    return position.stage == reached - 1 and plans[reached - 1].horizon.over(position)
