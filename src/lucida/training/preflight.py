"""What would be refused later is refused before the first step.

    plans of all stages ─┬─ a few records of every source, read as the stage will, images opened
                         ├─ the blind baseline: recipe, folder, patterns, warm-up, the same records
                         ├─ the text of evaluation.retention
                         └─ room on the disk for a checkpoint and the model

Tasks of the evaluation are looked up by the verbs (`lucida.eval`), which know them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from lucida.core.errors import DataError, LucidaError, RecipeError, RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe, StageSpec
from lucida.data.mixture import Source
from lucida.data.reader import OpenImages, Reader, Unusable
from lucida.data.stage import open_mixtures
from lucida.model.blueprint import skeleton
from lucida.training.blind import blind_recipe
from lucida.training.budget import horizon
from lucida.training.folder import check_folder
from lucida.training.run import Run, check_quantised
from lucida.training.stage import check_mask, plan_stage
from lucida.training.stage_run import StageRun
from lucida.training.words import tell_lacking_words

PROBED = 4
"""Records of a source that are encoded: when all of them are refused, so is the stage."""


def check_ahead(run: Run, stages: Sequence[StageRun]) -> None:
    """LucidaError on every rank for what would stop this run, or its blind baseline, later on."""
    refusal = "the first process refused the run before its first step"
    run.engine.decided_first(lambda: _check(run, stages), refusal)


def _check(run: Run, stages: Sequence[StageRun]) -> None:
    check_text(run.recipe)
    check_disk(run, stages)
    for stage in stages:
        data, seen = stage.feed.loader.data, run.model.vision is not None
        # Pictures are opened, for a damaged one to be found, and nothing of them is computed.
        reader = replace(data.reader, look=OpenImages() if seen else None)
        check_records(stage.spec, data.mixture.sources, reader)
        if stage.spec.validation is not None and stage.feed.held_out is not None:
            check_records(stage.spec, stage.feed.held_out.mixture.sources, reader)
        tell_lacking_words(stage)
    if run.recipe.blind is not None:
        check_blind(run, stages)


def check_records(stage: StageSpec, sources: Mapping[str, Source], reader: Reader) -> None:
    """DataError when none of a source's evenly spread records can be used."""
    for name, source in sources.items():
        found = reader.spread(name, source, PROBED)
        if found and all(isinstance(record, Unusable) for record in found):
            raise DataError(
                f"none of {len(found)} records of source {name} can be used in stage {stage.name}; "
                f"the first of them: {found[0].reason}",
                remedy="`lucida data check RECIPE` looks at all of them",
            ) from found[0].reason


def check_blind(run: Run, stages: Sequence[StageRun]) -> None:
    """Everything about the blind baseline that can be known without training it, or having its
    weights: they are asked for by names and shapes alone."""
    blind = blind_recipe(run.recipe)
    check_quantised(blind)
    folder = run.folder.path / "blind"
    if folder.exists():
        check_folder(RunFolder(folder), blind)
    model = skeleton(blind.model)
    sources = {stage.spec.name: stage.feed.loader.mixture.sources for stage in stages}
    for index, spec in enumerate(map(blind.resolve, blind.stages)):
        origin = f"stage {spec.name} of recipe {blind.name}, the blind baseline"
        plan_stage(model, spec.train, origin, spec.lora)
        check_mask(blind, index, origin, sources[spec.name])
        try:
            horizon(spec.budget, spec.budget.steps).check(spec.optim)
            processor = run.processor.for_stage(spec)
            processor.visual_tokens = 0  # as the processor of a blind model
            encode = partial(processor.encode, loss=spec.loss)
            check_records(spec, sources[spec.name], Reader(encode))
            if spec.mixture.by == "image":
                open_mixtures(spec.mixture, blind.seed + index, encode, spec.validation)
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


def check_disk(run: Run, stages: Sequence[StageRun]) -> None:
    """RunError when not even one checkpoint and the model fit: weights in fp32, and at least one
    moment for each that trains. What is estimated is the least."""
    trained: dict[str, nn.Parameter] = {}
    for stage in stages:
        trained |= {name: parameter for name, (parameter, _) in stage.what.trained.items()}
    adapters = max((stage.what.adapters for stage in stages), default=0)
    checkpoint = 8 * (sum(each.numel() for each in trained.values()) + adapters)
    model = 4 * sum(each.numel() for each in run.model.parameters())
    free = shutil.disk_usage(run.folder.path).free
    if checkpoint + model > free:
        raise RunError(
            "the disk has no room for this run",
            expected=f"at least {format_bytes(checkpoint)} for a checkpoint and "
            f"{format_bytes(model)} for the model",
            given=f"{format_bytes(free)} free",
            origin=run.folder.path,
            remedy="free some space, or train on another disk with --run DIR",
        )


def format_bytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
