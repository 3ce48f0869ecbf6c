"""Who looks at a model while it is trained: scores on the way, and text between its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lucida.core.spec import EvaluationSpec, Recipe
from lucida.eval.retention import Retention
from lucida.eval.run import evaluate
from lucida.training.observe import Observer

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

SAMPLES = 500
"""Bootstrap resamples; an interval on the way need not be sharp."""
LIMIT = 64
"""Examples of a task, the first of its fixed order, unless the recipe asks for fewer."""


def observers(recipe: Recipe) -> list[Observer]:
    """Those that a recipe asks for: of its tasks (`StageSpec.evaluate_every`), and of text between
    the stages (`evaluation.retention.each_stage`)."""
    spec = recipe.evaluation
    found: list[Observer] = [Scores(spec)] if spec.tasks else []
    if spec.retention is not None and spec.retention.each_stage:
        found.append(Retention(spec, evaluate))
    return found


class Scores(Observer):
    """Scores of the recipe's tasks, on few examples each."""

    def __init__(self, spec: EvaluationSpec) -> None:
        self.spec = spec
        self.limit = min(LIMIT, spec.limit or LIMIT)

    def look(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        step: int,
        earlier: Sequence[Mapping[str, object]] = (),
    ) -> dict:
        """`{"step", "tasks": {name: {"score", "interval", "n"}}, "seconds"}`."""
        found = evaluate(
            model,
            processor,
            self.spec.tasks,
            self.limit,
            self.spec.max_new_tokens,
            samples=SAMPLES,
            prompts=self.spec.prompts,
            data=self.spec.data,
            fewer=self.spec.visual_tokens,
        )
        tasks = {
            name: {key: task[key] for key in ("score", "interval", "n")}
            for name, task in found["tasks"].items()
        }
        return {"step": step, "tasks": tasks, "seconds": found["seconds"]["evaluate"]}

    def is_higher_better(self, score: str) -> bool:
        from lucida.eval.benchmarks import find_task

        return find_task(self.spec, score).higher_is_better
