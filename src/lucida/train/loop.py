"""Training, top to bottom: `train_run` is a run, `train_stage` a stage, `step` an optimizer step.

    recipe ─▶ train_run ─▶ build the model ─▶ each stage in order ─▶ save the model
                               train_stage: what trains, what it reads, then for every step
                                   step:  passes ─▶ loss / supervised tokens of the step ─▶ AdamW
                                   once in a while: metrics, validation, checkpoint, stop

A run that was stopped at any moment goes on from its newest checkpoint and ends with the same
weights, on a CPU bit for bit: what a step does depends on weights, optimizer, random generators and
the step's number only, and all four are in the checkpoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lucida.core.errors import RunError
from lucida.core.progress import Progress, say, table
from lucida.core.recipe import diff_recipes, load_recipe, recipe_hash
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe, StageSpec
from lucida.data.sample import Batch
from lucida.model.checkpoint import build, save
from lucida.train import state
from lucida.train.diagnose import first_bad_module
from lucida.train.feed import Feed, stage_feed
from lucida.train.objective import supervised_loss
from lucida.train.optim import adamw, schedule, set_learning_rate, warmup_steps
from lucida.train.precision import Precision, choose_device, choose_precision
from lucida.train.stage import StagePlan, apply_plan, describe, plan_stage
from lucida.train.state import Position, Setting, checkpoints
from lucida.train.stopping import Interrupted, StopRequest, stop_request
from lucida.train.validate import validation_loss


@dataclass(slots=True)
class Training:
    """A run under way: the only thing that the functions below share.

    `touched` names the parameters that any stage so far has trained. `saved` is the checkpoint that
    this process continues from, until its stage has taken it over.
    """

    recipe: Recipe
    run: RunFolder
    model: nn.Module
    processor: object
    precision: Precision
    setting: Setting
    stop: StopRequest
    position: Position
    touched: set[str]
    saved: Path | None


@dataclass(slots=True)
class StageTools:
    """What a stage trains with."""

    plan: StagePlan
    feed: Feed
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler


def train(recipe: Recipe | str | Path, folder: str | Path | None = None) -> Path:
    """Train a recipe, given as a value, a preset's name or a file, and give the run folder.

    The default folder is `runs/NAME`. A run that stands there goes on; a finished one is left alone.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe))
    return train_run(recipe, Path("runs") / recipe.name if folder is None else Path(folder))


def train_run(recipe: Recipe, folder: Path, command: str = "") -> Path:
    """Train every stage of a recipe in `folder` and save the model there; gives the folder.

    RunError: the folder is used by another process or cannot be written, it holds a run of another
    recipe, or a number stopped being finite. Interrupted: SIGTERM or Ctrl-C, after a checkpoint.
    """
    run = RunFolder(folder)
    with run.locked(), stop_request() as stop:
        run.prepare()
        claim(run, recipe)
        if (run.path / "config.json").exists():  # written last of all
            say(f"{run.path}: already trained; nothing to do")
            return run.path
        training = begin(recipe, run, command, stop)
        origins = [f"stage {stage.name} of recipe {recipe.name}" for stage in recipe.stages]
        plans = [
            plan_stage(training.model, stage.train, origin)
            for stage, origin in zip(recipe.stages, origins, strict=True)
        ]  # all of them now: a mistake in the last stage should not cost the first
        for index, stage in enumerate(recipe.stages):
            if index >= training.position.stage:
                train_stage(training, index, stage, plans[index])
        save(training.model, training.processor, run.path)
        say(f"{run.path}: trained {training.position.total} steps, {training.position.seconds:.0f} s")
    return run.path


def claim(run: RunFolder, recipe: Recipe) -> None:
    """Make the folder this recipe's, or refuse: it belongs to another recipe or to no run at all."""
    if run.exists:
        if recipe_hash(run.recipe) != recipe_hash(recipe):
            changes = "\n  ".join(diff_recipes(run.recipe, recipe))
            raise RunError(
                f"this run was begun with another recipe:\n  {changes}\n",
                origin=run.path,
                remedy="train in another folder with --run DIR, or take the changes back",
            )
        return
    if (run.path / "config.json").exists():
        raise RunError(
            "there is a model in this folder that is not from a run; training would overwrite it",
            origin=run.path,
            remedy="choose another folder with --run DIR",
        )
    run.write_recipe(recipe)


def begin(recipe: Recipe, run: RunFolder, command: str, stop: StopRequest) -> Training:
    """Build the model, or take the run up where its newest checkpoint left it."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = choose_device()
    precision = choose_precision(recipe.precision, device)
    setting = Setting(precision.name, str(device), torch.get_num_threads(), torch.__version__)
    say(f"precision: {precision}")
    seed_everything(recipe.seed)
    model, processor = build(recipe.model)
    position, touched, saved = Position(), set(), None
    if whole := checkpoints(run.path):
        saved = whole[-1]
        position, before, stored = state.read_state(saved)
        touched = state.load_weights(saved, stored, model)
        say(f"going on from step {position.total} of {run.path}")
        if before != setting:
            say(f"note: begun with {before}, now {setting}; the last bits of the weights may differ")
    run.metrics.keep(lambda record: record["total_step"] <= position.total)
    run.environment(command, precision=str(precision), threads=setting.threads, device=str(device))
    model.to(device)
    return Training(
        recipe, run, model, processor, precision, setting, stop, position, touched, saved
    )


def seed_everything(seed: int) -> None:
    """Set Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's code draws from it
    torch.manual_seed(seed)


def train_stage(training: Training, index: int, plan: StagePlan, feed: Feed) -> None:
    """One stage from where the run stands to its last step, with a checkpoint at the end."""
    stage, position, metrics = training.recipe.stages[index], training.position, training.run.metrics
    optimizer, scaler = prepare(training, index, plan)
    say_plan(training, stage, plan, feed)
    batches = feed.batches(position.step)
    with Progress(f"train {stage.name}", feed.steps, "step", done=position.step) as progress:
        while position.step < feed.steps:
            if training.stop:
                raise interrupted(training, checkpoint(training, optimizer, scaler))
            begun = time.perf_counter()
            passes = next(batches)
            waited = time.perf_counter() - begun
            lr = set_learning_rate(optimizer, schedule(position.step, feed.steps, stage.optim))
            result = step(
                training.model, passes, optimizer, scaler, training.precision, stage.optim.clip
            )
            seconds = time.perf_counter() - begun
            count(position, result, seconds)
            metrics.append(step_record(stage, position, result, lr, seconds, waited))
            progress.advance(loss=result.loss)

            last = position.step == feed.steps
            if last or due(stage.validate_every, position.step):
                loss = validation_loss(training.model, feed.held_out(), training.precision)
                metrics.append(place(stage, position) | {"validation_loss": loss})
                progress.advance(0, validation=loss)
            if last or due(stage.checkpoint_every, position.step):
                checkpoint(training, optimizer, scaler)


def prepare(
    training: Training, index: int, plan: StagePlan
) -> tuple[torch.optim.AdamW, torch.amp.GradScaler]:
    """Freeze, make the optimizer, and restore it when the newest checkpoint is of this stage."""
    position, spec = training.position, training.recipe.stages[index].optim
    apply_plan(training.model, plan)
    training.touched |= set(plan.trained)
    optimizer, scaler = adamw(plan, spec), training.precision.scaler()
    if position.stage < index:
        position.stage, position.step = index, 0
    if position.step == 0:
        # Every stage has its own seed, so that it does not matter how many numbers the last one drew.
        seed_everything(training.recipe.seed + 1000 * (index + 1))
    elif training.saved is not None:
        load_moments(training.saved, optimizer, scaler)
    training.saved = None
    return optimizer, scaler


def due(every: int | None, step: int) -> bool:
    """Is it time for what happens every so many steps?"""
    return every is not None and step % every == 0


def count(position: Position, result: StepResult, seconds: float) -> None:
    """Move the run's counters on by one step."""
    position.step += 1
    position.total += 1
    position.samples += result.samples
    position.tokens += result.tokens
    position.seconds += seconds


def place(stage: StageSpec, position: Position) -> dict:
    """Where in the run a record of metrics.jsonl belongs; `step` counts within the stage."""
    return {"stage": stage.name, "step": position.step, "total_step": position.total}


def step_record(
    stage: StageSpec,
    position: Position,
    result: StepResult,
    lr: float,
    seconds: float,
    waited: float,
) -> dict:
    """The line of metrics.jsonl for one step; rates are of this step alone."""
    return place(stage, position) | {
        "loss": result.loss,
        "lr": lr,
        "grad_norm": result.grad_norm,
        "skipped": result.skipped,
        "samples": position.samples,
        "tokens": position.tokens,
        "supervised": result.supervised,
        "tokens_per_second": result.tokens / seconds,
        "samples_per_second": result.samples / seconds,
        "data_wait": waited / seconds,
        "seconds": position.seconds,
    }


def say_plan(training: Training, stage: StageSpec, plan: StagePlan, feed: Feed) -> None:
    """Tell what the stage trains and reads."""
    trained, every = plan.counts
    table(
        f"stage {stage.name}: {feed.steps} steps, {trained:,} of {every:,} parameters train",
        ["pattern", "learning rate", "tensors", "parameters"],
        describe(plan),
    )
    for line in feed.notes:
        say(line)


def checkpoint(
    training: Training, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler
) -> Path:
    """Save all that a resumption needs."""
    return save_checkpoint(
        training.run.path,
        training.position,
        training.setting,
        training.model,
        training.touched,
        optimizer,
        scaler,
    )


def interrupted(training: Training, path: Path) -> Interrupted:
    """The message of a clean stop."""
    return Interrupted(
        f"stopped by {training.stop.signal.name} at step {training.position.total}; "
        f"everything up to there is in {path}",
        remedy="the same command goes on from it",
    )
