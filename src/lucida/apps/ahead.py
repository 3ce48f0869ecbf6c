"""What of a recipe's evaluation would be refused after, or in the middle of, its training.

tasks, evaluation.retention.task ─▶ known?        evaluate_every ─▶ are the tasks' files there?
"""

from __future__ import annotations

from lucida.core.errors import LucidaError, RecipeError
from lucida.core.spec import Recipe


def check_evaluation(recipe: Recipe) -> None:
    """RecipeError for a task that there is not; DataError where a stage evaluates on its way and
    the files of a task are missing."""
    from lucida.eval.benchmarks import benchmark
    from lucida.eval.slim import LIMIT

    spec = recipe.evaluation
    names = {f"evaluation.tasks, {name}": name for name in spec.tasks}
    if spec.retention is not None and spec.retention.task is not None:
        names["evaluation.retention.task"] = spec.retention.task
    loaded = {}
    for place, name in names.items():
        try:
            loaded[place] = benchmark(name, spec.prompts, spec.data)
        except LucidaError as problem:
            raise RecipeError(f"{place}: {problem}", origin=f"recipe {recipe.name}") from problem
    on_the_way = any(stage.evaluate_every is not None for stage in recipe.stages)
    each_stage = spec.retention is not None and spec.retention.each_stage
    for place, task in loaded.items():
        if each_stage if place == "evaluation.retention.task" else on_the_way:
            task.examples(min(LIMIT, spec.limit or LIMIT))
