"""What of a recipe's evaluation can be done here: looked up before its training, proposed after it.

tasks, evaluation.retention ─▶ known? files there? ─┬─ before: check_evaluation refuses
                                                    └─ after: following says what to type
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lucida.apps.answering import ELSEWHERE
from lucida.core.errors import LucidaError, RecipeError, RunError

if TYPE_CHECKING:
    from lucida.core.spec import EvaluationSpec, Recipe
    from lucida.eval.benchmark import Benchmark


def check_evaluation(recipe: Recipe, asked: bool = False) -> None:
    """Refuses a recipe whose evaluation would fail after, or in the middle of, its training.

    RecipeError for a task that there is not; DataError where a stage evaluates on its way and the
    files of a task are missing. With `asked` the evaluation is the last step of what was asked for:
    RunError where no task is named, or one of them could not be asked.
    """
    from lucida.eval.during_training import LIMIT

    spec, origin = recipe.evaluation, f"recipe {recipe.name}"
    if asked and not spec.tasks:
        raise RunError(
            "the recipe names no task to show and measure",
            origin=f"{origin}: evaluation.tasks",
            remedy="name some (`lucida benchmarks` lists them), or `lucida train` it",
        )
    on_the_way = any(stage.evaluate_every is not None for stage in recipe.stages)
    places = [(f"evaluation.tasks, {name}", name, asked, on_the_way) for name in spec.names]
    kept = spec.retention
    if kept is not None and kept.task is not None:
        places.append(("evaluation.retention.task", kept.task, False, kept.each_stage))
    for place, name, afterwards, soon in places:
        try:
            task = load_task(spec, name)
        except LucidaError as problem:
            raise RecipeError(f"{place}: {problem}", origin=origin) from problem
        if spec.own(name) is not None:
            task.examples()  # every record is looked at: what is wrong is told before the training
        if afterwards and (problem := files_problem(task)) is not None:
            message = f"{name} cannot be asked after the training: {problem}"
            raise RunError(message, origin=f"{origin}: evaluation.tasks")
        if soon:
            # The questions of the first look at this task, whose files would else be missed hours
            # later.
            task.examples(min(LIMIT, spec.limit or LIMIT))


def load_task(spec: EvaluationSpec, name: str) -> Benchmark:
    """A task as an evaluation asks it. LucidaError when it is unknown."""
    from lucida.eval.benchmarks import find_task

    return find_task(spec, name)


def files_problem(task: Benchmark) -> LucidaError | None:
    """What of a task's published files is not there, or that nobody said where they are."""
    from lucida.eval.benchmarks.published import PublishedBenchmark

    try:
        lacking = task.missing(train=False) if isinstance(task, PublishedBenchmark) else []
    except LucidaError as problem:
        return problem
    if not lacking:
        return None
    return RunError(
        f"{len(lacking)} of its published files are not there",
        origin=task.root / lacking[0].path,
        remedy=f"`lucida benchmarks {task.name}` says where to get them",
    )


def task_problems(spec: EvaluationSpec, names: list[str]) -> dict[str, str]:
    """Why tasks cannot be asked here, by name: unknown, or published files that are not there."""
    problems = {}
    for name in dict.fromkeys(names):
        try:
            problem = files_problem(load_task(spec, name))
        except LucidaError as unknown:
            problem = unknown
        if problem is not None:
            problems[name] = str(problem)
    return problems


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
    problems = task_problems(spec, spec.names)
    ready = [name for name in spec.names if name not in problems]
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
    odd = text == "diff" or text.startswith(("-", *ELSEWHERE))
    return f"./{text}" if odd else text
