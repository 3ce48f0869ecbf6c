"""Scores of a model while it is being trained, for `StageSpec.evaluate_every`.

`train.loop` calls a watcher within `train.validate.untouched`, so that looking leaves no trace in
the training; this file makes the watcher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lucida.core.spec import EvaluationSpec
from lucida.train.validate import untouched

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel
    from lucida.train.begin import Watch

SAMPLES = 500
"""Bootstrap resamples; an interval on the way need not be sharp."""
LIMIT = 64
"""Examples of a task, the first of its fixed order, unless the recipe asks for fewer."""


def watcher(spec: EvaluationSpec) -> Watch | None:
    """What scores the recipe's tasks on few examples each; None when it has no task."""
    if not spec.tasks:
        return None
    limit = min(LIMIT, spec.limit or LIMIT)

    def watch(model: LucidaModel, processor: LucidaProcessor, step: int) -> dict:
        return evaluate_slim(
            model, processor, spec.tasks, limit, step, spec.max_new_tokens, spec.prompts, spec.data
        )

    return watch


def evaluate_slim(
    model: LucidaModel,
    processor: LucidaProcessor,
    tasks: Iterable[str],
    limit: int,
    step: int,
    max_new_tokens: int = 32,
    prompts: str | None = None,
    data: str | None = None,
) -> dict:
    """`{"step", "tasks": {name: {"score", "interval", "n"}}, "seconds"}` on the first `limit`
    examples of each task."""
    from lucida.eval.run import evaluate

    with untouched(model):
        found = evaluate(
            model,
            processor,
            tasks,
            limit,
            max_new_tokens,
            samples=SAMPLES,
            prompts=prompts,
            data=data,
        )
    tasks = {
        name: {key: task[key] for key in ("score", "interval", "n")}
        for name, task in found["tasks"].items()
    }
    return {"step": step, "tasks": tasks, "seconds": found["seconds"]["evaluate"]}
