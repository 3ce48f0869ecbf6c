"""What would be refused later is refused before the first step.

    plans of all stages ─┬─ a few records of every source, encoded as the stage will
                         ├─ the blind baseline: recipe, folder, patterns, warm-up, the same records
                         ├─ the text of evaluation.retention
                         └─ room on the disk for a checkpoint and the model

Tasks of the evaluation are looked up by the verbs (`lucida.eval`), which know them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path

from torch import nn

from lucida.core.errors import DataError, LucidaError, RecipeError, RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe, StageSpec
from lucida.data.mixture import Source
from lucida.data.sample import Tokens
from lucida.data.stage import mixtures
from lucida.model.configs import skeleton
from lucida.train.begin import Plan, Training, check_mask, check_quantised, with_template
from lucida.train.blind import blind_recipe
from lucida.train.budget import horizon
from lucida.train.folder import check_folder
from lucida.train.stage import plan_stage

PROBED = 4
"""Records of a source that are encoded: when all of them are refused, so is the stage."""

Encode = Callable[..., Tokens]


def check_ahead(training: Training, plans: Sequence[Plan]) -> None:
    """LucidaError on every rank for what would stop this run, or its blind baseline, later on."""
    problem = None
    if training.engine.main:
        try:
            _check(training, plans)
        except LucidaError as refused:
            problem = refused
    if any(training.engine.total(problem is not None)):
        raise problem or RunError("the first process refused the run before its first step")


def _check(training: Training, plans: Sequence[Plan]) -> None:
    recipe = training.recipe
    check_text(recipe)
    check_disk(training, plans)
    for plan in plans:
        check_records(plan.stage, plan.feed.loader.mixture.sources, plan.processor.encode)
    if recipe.blind is not None:
        check_blind(training, plans)


def check_records(stage: StageSpec, sources: Mapping[str, Source], encode: Encode) -> None:
    """DataError when none of a source's first and evenly spread records can be used."""
    for name, source in sources.items():
        many = min(PROBED, len(source))
        refused: list[DataError] = []
        for place in range(many):
            try:
                encode(source[place * len(source) // many], loss=stage.loss, counts=Counter())
            except DataError as problem:
                refused.append(problem)
        if many and len(refused) == many:
            raise DataError(
                f"none of {many} records of source {name} can be used in stage {stage.name}; the "
                f"first of them: {refused[0]}",
                remedy="`lucida data check RECIPE` looks at all of them",
            ) from refused[0]


def check_blind(training: Training, plans: Sequence[Plan]) -> None:
    """Everything about the blind baseline that can be known without training it, or having its
    weights: they are asked for by names and shapes alone."""
    blind = blind_recipe(training.recipe)
    check_quantised(blind)
    folder = training.run.path / "blind"
    if folder.exists():
        check_folder(RunFolder(folder), blind)
    model = skeleton(blind.model)
    by_name = {plan.stage.name: plan for plan in plans}
    for index, stage in enumerate(blind.stages):
        origin = f"stage {stage.name} of recipe {blind.name}, the blind baseline"
        plan_stage(model, stage.train, origin, stage.lora)
        check_mask(stage, blind.model.attention_mask, origin)
        try:
            horizon(stage.budget, stage.budget.steps).check(stage.optim)
            processor = with_template(training.processor, stage)
            processor = copy(processor) if processor is training.processor else processor
            processor.visual_tokens = 0
            encode = partial(processor.encode, loss=stage.loss)
            sources = by_name[stage.name].feed.loader.mixture.sources
            check_records(stage, sources, processor.encode)
            if stage.mixture.by == "image":
                mixtures(stage.mixture, blind.seed + index, encode)
        except LucidaError as problem:
            remedy = "change the recipe, or train without it: blind=null"
            raise RecipeError(str(problem), origin=origin, remedy=remedy) from problem


def check_text(recipe: Recipe) -> None:
    """RunError when the text that retention is measured on cannot be read or holds nothing."""
    retention = recipe.evaluation.retention
    if retention is None or retention.file is None:
        return
    try:
        with Path(retention.file).open(encoding="utf-8") as file:
            begin = file.read(1 << 16)
    except (OSError, ValueError) as problem:
        raise RunError(
            f"the text of evaluation.retention cannot be read: {problem}",
            origin=retention.file,
            remedy="give the path of a UTF-8 text file",
        ) from problem
    if not begin.strip():
        raise RunError("the text of evaluation.retention is empty", origin=retention.file)


def check_disk(training: Training, plans: Sequence[Plan]) -> None:
    """RunError when not even one checkpoint and the model fit: weights in fp32, and at least one
    moment for each that trains. What is estimated is the least."""
    trained: dict[str, nn.Parameter] = {}
    for plan in plans:
        trained |= {name: parameter for name, (parameter, _) in plan.what.trained.items()}
    adapters = max((plan.what.adapters for plan in plans), default=0)
    checkpoint = 8 * (sum(each.numel() for each in trained.values()) + adapters)
    model = 4 * sum(each.numel() for each in training.model.parameters())
    free = shutil.disk_usage(training.run.path).free
    if checkpoint + model > free:
        raise RunError(
            "the disk has no room for this run",
            expected=f"at least {told(checkpoint)} for a checkpoint and {told(model)} for the "
            "model",
            given=f"{told(free)} free",
            origin=training.run.path,
            remedy="free some space, or train on another disk with --run DIR",
        )


def told(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
