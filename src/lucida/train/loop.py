"""Training, top to bottom: `train_alone` is a run, `train_stage` a stage, `step` a step.

    recipe ─▶ train_alone ─▶ build the model ─▶ each stage in order ─▶ save the model
                               train_stage: what trains, what it reads, then for every step
                                   step:  passes ─▶ loss / supervised tokens of the step ─▶ AdamW
                                   once in a while: metrics, validation, checkpoint, stop

A run that was stopped at any moment goes on from its newest checkpoint and ends with the same
weights, on a CPU bit for bit: what a step does depends on weights, optimizer, random generators and
the step's number only, and all four are in the checkpoint.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lucida.core.errors import RunError
from lucida.core.progress import Progress, say, table
from lucida.core.recipe import diff_recipes, load_recipe
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe, StageSpec
from lucida.model.checkpoint import build, save
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.train import state
from lucida.train.blind import blind_recipe
from lucida.train.feed import Feed, stage_feed
from lucida.train.kernels import quicken
from lucida.train.optim import adamw, schedule, set_learning_rate, warmup_steps
from lucida.train.precision import Precision, choose_device, choose_precision
from lucida.train.stage import StagePlan, apply_plan, describe, plan_stage
from lucida.train.state import Position, Setting, checkpoints
from lucida.train.step import StepResult, step
from lucida.train.stopping import Interrupted, StopRequest, stop_request
from lucida.train.validate import validation_loss


@dataclass(slots=True)
class Training:
    """A run under way: the only thing that the functions below share.

    `touched` names the parameters that any stage so far has trained. `saved` is the checkpoint that
    this process continues from, None when it began the run.
    """

    recipe: Recipe
    run: RunFolder
    model: LucidaModel
    processor: LucidaProcessor
    precision: Precision
    setting: Setting
    stop: StopRequest
    position: Position
    touched: set[str]
    saved: Path | None


def train(recipe: Recipe | str | Path, folder: str | Path | None = None) -> Path:
    """Train a recipe, given as a value, a preset's name or a file, and give the run folder.

    The default folder is `runs/NAME`. A run that stands there goes on; a finished one stays as it
    is.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe))
    return train_run(recipe, Path("runs") / recipe.name if folder is None else Path(folder))


def train_run(recipe: Recipe, folder: Path, command: str = "") -> Path:
    """Train a recipe in `folder`, and its blind baseline (if it asks for one) in `folder`/blind."""
    train_alone(recipe, folder, command)
    if recipe.blind is not None:
        train_alone(blind_recipe(recipe), folder / "blind", command)
    return folder


def train_alone(recipe: Recipe, folder: Path, command: str = "") -> Path:
    """Train every stage of a recipe in `folder` and save the model there; gives the folder.

    RunError: the folder is used by another process or cannot be written, it holds a run of another
    recipe, or a number stopped being finite. Interrupted: SIGTERM or Ctrl-C, after a checkpoint.
    """
    run = RunFolder(folder)
    with run.locked(), stop_request() as stop:
        run.prepare()
        check_folder(run, recipe)
        if (run.path / "config.json").exists():  # written last of all
            say(f"{run.path}: already trained; nothing to do")
            return run.path
        training = begin(recipe, run, stop)
        # All stages are planned now: a mistake in the last one should not cost the first.
        planned = [plan(training, index) for index in range(len(recipe.stages))]
        sign(training, command)
        for index, (what, feed) in enumerate(planned):
            if not done(training.position, index, feed.steps):
                train_stage(training, index, what, feed)
        save(training.model, training.processor, run.path)
        position = training.position
        say(f"{run.path}: trained {position.total} steps in {position.seconds:.0f} s")
    return run.path


def check_folder(run: RunFolder, recipe: Recipe) -> None:
    """Refuse a folder that holds a run of another recipe, or a model of no run."""
    if run.exists:
        if changes := diff_recipes(run.recipe, recipe):
            told = "\n  ".join(changes)
            raise RunError(
                f"this run was begun with another recipe:\n  {told}\n",
                origin=run.path,
                remedy="train in another folder with --run DIR, or take the changes back",
            )
    elif (run.path / "config.json").exists():
        raise RunError(
            "there is a model in this folder that is not from a run; training would overwrite it",
            origin=run.path,
            remedy="choose another folder with --run DIR",
        )


def begin(recipe: Recipe, run: RunFolder, stop: StopRequest) -> Training:
    """Build the model, or take the run up where its newest checkpoint left it."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = choose_device()
    precision = choose_precision(recipe.precision, device)
    setting = Setting(precision.name, str(device), torch.get_num_threads(), torch.__version__)
    say(f"precision: {precision}")
    seed_everything(recipe.seed)
    model, processor = build(recipe.model)
    if device.type == "cpu":
        quicken(model.language)
    position, touched, saved = Position(), set(), None
    if whole := checkpoints(run.path):
        saved = whole[-1]
        position, before, stored = state.read_state(saved)
        touched = state.load_weights(saved, stored, model)
        say(f"going on from step {position.total} of {run.path}")
        if changes := before.differences(setting):
            say(f"note: {changes}; the last bits of the weights may differ")
    model.to(device)
    return Training(
        recipe, run, model, processor, precision, setting, stop, position, touched, saved
    )


def sign(training: Training, command: str) -> None:
    """Write recipe and environment, and forget what was recorded after the newest checkpoint."""
    run, position = training.run, training.position
    if not run.exists:
        run.write_recipe(training.recipe)
    run.metrics.keep(lambda record: record["total_step"] <= position.total)
    run.environment(
        command,
        precision=str(training.precision),
        device=training.setting.device,
        threads=training.setting.threads,
    )


def seed_everything(seed: int) -> None:
    """Set Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's code draws from it
    torch.manual_seed(seed)


def train_stage(training: Training, index: int, what: StagePlan, feed: Feed) -> None:
    """One stage from where the run stands to its last step, with a checkpoint at the end."""
    stage, position = training.recipe.stages[index], training.position
    optimizer, scaler = prepare(training, index, what)
    say_plan(stage, what, feed)
    with (
        closing(feed.batches(position.step)) as batches,
        Progress(f"train {stage.name}", feed.steps, "step", done=position.step) as progress,
    ):
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
            record = step_record(stage, position, result, lr, seconds, waited)
            training.run.metrics.append(record)
            progress.advance(loss=result.loss)

            last = position.step == feed.steps
            if last or due(stage.validate_every, position.step):
                validate(training, stage, feed, progress)
            if last or due(stage.checkpoint_every, position.step):
                checkpoint(training, optimizer, scaler)
    for line in feed.losses():
        say(f"stage {stage.name}, {line}")


def prepare(
    training: Training, index: int, what: StagePlan
) -> tuple[torch.optim.AdamW, torch.amp.GradScaler]:
    """Freeze, make the optimizer, and restore it when the newest checkpoint is of this stage."""
    position, spec = training.position, training.recipe.stages[index].optim
    apply_plan(training.model, what)
    training.touched |= set(what.trained)
    optimizer, scaler = adamw(what, spec), training.precision.scaler()
    if position.stage < index:
        position.stage, position.step = index, 0
    if position.step == 0:
        # Its own seed: how many numbers the stage before drew does not matter.
        seed_everything(training.recipe.seed + 1000 * (index + 1))
    else:
        state.load_moments(training.saved, optimizer, scaler)
    return optimizer, scaler


def plan(training: Training, index: int) -> tuple[StagePlan, Feed]:
    """What stage number `index` trains and reads, checked without changing anything."""
    recipe = training.recipe
    stage = recipe.stages[index]
    what = plan_stage(training.model, stage.train, f"stage {stage.name} of recipe {recipe.name}")
    feed = stage_feed(
        recipe,
        index,
        what,
        training.model,
        training.processor,
        training.precision,
        training.run.dropped.path,
    )
    warmup_steps(feed.steps, stage.optim)
    return what, feed


def done(position: Position, index: int, steps: int) -> bool:
    """Is stage number `index` of so many steps behind this position?"""
    return index < position.stage or (index == position.stage and position.step >= steps)


def validate(training: Training, stage: StageSpec, feed: Feed, progress: Progress) -> None:
    """Record the loss on the held-out samples, when there are any."""
    if batches := feed.validation():
        loss = validation_loss(training.model, batches, training.precision)
        training.run.metrics.append(place(stage, training.position) | {"validation_loss": loss})
        progress.advance(0, validation=loss)


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


def say_plan(stage: StageSpec, what: StagePlan, feed: Feed) -> None:
    """Tell what the stage trains and reads."""
    trained, every = what.counts
    table(
        f"stage {stage.name}: {feed.steps} steps, {trained:,} of {every:,} parameters train",
        ["pattern", "learning rate", "tensors", "parameters"],
        describe(what),
    )
    if feed.held_out is None:
        say("no validation: the sources are too small to hold samples out")


def checkpoint(
    training: Training, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler
) -> Path:
    """Save all that a resumption needs."""
    return state.save_checkpoint(
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
