"""What to type after a training: a command that works with what the run and this machine have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import LucidaError, RunError

if TYPE_CHECKING:
    from lucida.core.spec import EvaluationSpec, Recipe


def following(recipe: Recipe, folder: Path) -> tuple[list[str], list[str]]:
    """The words behind `lucida` that come next for a trained run, and remarks about them.

    `lucida eval` where all the recipe's tasks can be asked; with `--task` where only some of them
    can, or where it names none and trained on tasks of the miniature world; else `lucida chat`.
    """
    run = _argument(folder)
    spec = recipe.evaluation
    measure = ["eval", run]
    if (problem := _retention_problem(spec)) is not None:
        return ["chat", run], [f"`lucida eval` cannot measure the text kept: {problem}"]
    problems = task_problems(spec, spec.tasks)
    ready = [name for name in spec.tasks if name not in problems]
    remarks = [f"{name} cannot be asked yet: {why}" for name, why in problems.items()]
    if ready:
        return measure + (["--task", ",".join(ready)] if problems else []), remarks
    if trained := _trained_tasks(recipe):
        named = "names no task" if not spec.tasks else "names none that can be asked"
        remarks.append(f"the recipe {named}; these are of its own training")
        return [*measure, "--task", ",".join(trained)], remarks
    if not spec.tasks:
        remarks.append("the recipe names no task to evaluate; `lucida benchmarks` lists them")
    return ["chat", run], remarks


def task_problems(spec: EvaluationSpec, names: list[str]) -> dict[str, str]:
    """Why tasks cannot be asked here, by name: unknown, or published files that are not there."""
    from lucida.eval.benchmarks import benchmark
    from lucida.eval.benchmarks.published import PublishedBenchmark

    problems = {}
    for name in dict.fromkeys(names):
        try:
            task = benchmark(name, spec.prompts, spec.data)
            if isinstance(task, PublishedBenchmark) and (lacking := task.missing(train=False)):
                raise RunError(
                    f"{len(lacking)} of its published files are not there",
                    origin=task.root / lacking[0].path,
                    remedy=f"`lucida benchmarks {name}` says where to get them",
                )
        except LucidaError as problem:
            problems[name] = str(problem)
    return problems


def require_tasks(recipe: Recipe) -> None:
    """RunError before a training whose evaluation could not be made: it would be the last step of
    what was asked for, and fail."""
    spec = recipe.evaluation
    if not spec.tasks:
        raise RunError(
            "the recipe names no task to show and measure",
            origin=f"recipe {recipe.name}: evaluation.tasks",
            remedy="name some (`lucida benchmarks` lists them), or `lucida train` it",
        )
    for name, why in task_problems(spec, spec.tasks).items():
        raise RunError(
            f"{name} cannot be asked after the training: {why}",
            origin=f"recipe {recipe.name}: evaluation.tasks",
        )


def _retention_problem(spec: EvaluationSpec) -> str | None:
    """Why what training cost in text cannot be measured here."""
    if spec.retention is None:
        return None
    if spec.retention.file is not None:
        there = Path(spec.retention.file).is_file()
        return None if there else f"{spec.retention.file} is not there"
    return task_problems(spec, [spec.retention.task]).get(spec.retention.task)


def _trained_tasks(recipe: Recipe) -> list[str]:
    """The tasks of the miniature world that the last stage with any has trained."""
    from lucida.eval.benchmarks import BENCHMARKS

    for stage in reversed(recipe.stages):
        tasks = [
            task
            for source in stage.mixture.sources.values()
            if source.kind == "world"
            for task in source.tasks
            if task in BENCHMARKS
        ]
        if tasks:
            return list(dict.fromkeys(tasks))
    return []


def _argument(folder: Path) -> str:
    """The folder as the command line takes it for one: not for an option, an address or `diff`."""
    text = str(folder)
    odd = text == "diff" or text.startswith(("-", "hf:", "http://", "https://"))
    return f"./{text}" if odd else text
