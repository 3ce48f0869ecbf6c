"""Training, top to bottom: `train_alone` is a run, `train_stage` a stage, `step` a step.

    recipe ─▶ train_alone ─▶ build the model ─▶ each stage in order ─▶ save the model
                               measure, allow: text retention between stages (train/between.py)
                               train_stage: what trains, what it reads, then for every step
                                   step:  passes ─▶ loss / supervised tokens of them all ─▶ update
                                   once in a while: metrics, validation, checkpoint, stop

A run that was stopped at any moment goes on from its newest checkpoint and ends with the same
weights, on a CPU bit for bit: what a step does depends on weights, optimizer, random generators and
the step's number only, and all four are in the checkpoint. (A budget of minutes also depends on the
clock, and compiled layers on the compiler.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from lucida.core.progress import Progress, say, table
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder, plain
from lucida.core.spec import Recipe
from lucida.data.sample import Batch
from lucida.model.checkpoint import save
from lucida.train import state
from lucida.train.begin import (
    Plan,
    Set,
    Training,
    Watch,
    begin,
    plan,
    prepare,
    restore_adapters,
    settle,
    sign,
)
from lucida.train.between import Gate, allow, expect_gate, measure
from lucida.train.blind import blind_recipe
from lucida.train.divergence import KEY as DIVERGED
from lucida.train.divergence import Diverged
from lucida.train.engine import choose_engine
from lucida.train.folder import (
    check_folder,
    folder_of,
    forget_lengths,
    raise_diverged,
    tell_finished,
)
from lucida.train.inputs import check_inputs
from lucida.train.muon import Muon
from lucida.train.optim import set_learning_rate
from lucida.train.preflight import check_ahead
from lucida.train.records import (
    close,
    judge,
    record,
    record_left_out,
    source_record,
    step_record,
    tell_left_out,
)
from lucida.train.stage import describe
from lucida.train.state import Position
from lucida.train.step import StepResult, step
from lucida.train.stopping import Interrupted, stop_request
from lucida.train.validate import untouched, validation_loss


def train(
    recipe: Recipe | str | Path,
    folder: str | Path | None = None,
    watch: Watch | None = None,
    gate: Gate | None = None,
    accept: bool = False,
) -> Path:
    """Train a recipe, given as a value, a preset's name or a file, and give the run folder.

    The default folder is `runs/NAME`; a run folder given as the recipe goes on itself. A run that
    stands there goes on; a finished one stays as it is. `watch` is called where stages ask for
    `evaluate_every`; `gate` measures text retention between stages
    (`lucida.eval.retention.gate(recipe)`). `accept`: go on although data or parts have changed.
    """
    place = None if folder is None else Path(folder)
    if not isinstance(recipe, Recipe):
        name, recipe = str(recipe), load_recipe(str(recipe))
        place = folder_of(name, recipe, place)
    return train_run(recipe, place or Path("runs") / recipe.name, "", watch, gate, accept)


def train_run(
    recipe: Recipe,
    folder: Path,
    command: str = "",
    watch: Watch | None = None,
    gate: Gate | None = None,
    accept: bool = False,
) -> Path:
    """Train a recipe in `folder`, and its blind baseline (if it asks for one) in `folder`/blind."""
    train_alone(recipe, folder, command, watch, gate, accept)
    if recipe.blind is not None:
        train_alone(blind_recipe(recipe), folder / "blind", command, watch, accept=accept)
    return folder


def train_alone(
    recipe: Recipe,
    folder: Path,
    command: str = "",
    watch: Watch | None = None,
    gate: Gate | None = None,
    accept: bool = False,
) -> Path:
    """Train every stage of a recipe in `folder` and save the model there; gives the folder.

    What can be refused is refused before the first step, of the blind baseline too. RunError: the
    folder is used by another process or cannot be written, it holds what another recipe or (unless
    `accept`) other data have trained, a checkpoint is damaged, or the gate refused what a stage did
    (after the last one the model is saved all the same). Diverged: a number stopped being finite,
    or the last stage did not learn (its model is saved). Interrupted: SIGTERM or Ctrl-C, after a
    checkpoint.
    """
    run = RunFolder(folder)
    with ExitStack() as held:
        stop = held.enter_context(stop_request())
        engine = choose_engine(recipe.engine)
        if engine.main:
            held.enter_context(run.locked())
            run.prepare()
            check_folder(run, recipe)
        engine.wait()
        if tell_finished(run):
            return run.path
        training = begin(recipe, run, engine, stop)
        training.watch, training.gate = watch, gate
        plans = plan_all(training, command, accept)
        for index, current in enumerate(plans):
            measure(training, plans, index)
            allow(training, index)
            if not done(training.position, index, current):
                train_stage(training, index, current)
        measure(training, plans, len(plans))
        settle(training)
        if engine.main:
            save(training.model, training.processor, run.path)
        engine.wait()
        position = training.position
        say(f"{run.path}: trained {position.total} steps in {position.seconds:.0f} s")
        tell_left_out(training)
        raise_diverged(run)
        allow(training, len(plans))
    return run.path


def plan_all(training: Training, command: str, accept: bool) -> list[Plan]:
    """The plans of all stages, and everything refused that can be known now: a mistake in the last
    one should not cost the first. Then the run's files are begun, or go on."""
    expect_gate(training)
    if accept and training.engine.main:
        forget_lengths(training.run)  # they may be of other data
    training.engine.wait()
    plans = [plan(training, index) for index in range(len(training.recipe.stages))]
    opened = [(each.stage, each.feed.loader.mixture.sources) for each in plans]
    if accepted := check_inputs(training, opened, accept):
        plans = plan_anew(training)
    restore_adapters(training, plans)
    check_ahead(training, plans)
    if training.engine.main:
        sign(training, command, accepted)
        for current in plans:
            for when, counts in current.feed.told.items():
                training.run.dropped.count(current.stage.name, when, counts)
    return plans


def plan_anew(training: Training) -> list[Plan]:
    """Plans for data that have changed: what was worked out from the old ones is forgotten."""
    if training.engine.main:
        forget_lengths(training.run)
    training.engine.wait()
    training.position.window = training.position.window_rows = 0
    return [plan(training, index) for index in range(len(training.recipe.stages))]


def train_stage(training: Training, index: int, current: Plan) -> None:
    """One stage from where the run stands to its last step, with a checkpoint at the end."""
    stage, position, engine = current.stage, training.position, training.engine
    ready = prepare(training, index, current)
    say_plan(current)
    if isinstance(ready.optimizer, Muon):
        say(f"stage {stage.name}: {ready.optimizer.describe()}")
    elif stage.optim.kind == "muon":
        say(f"stage {stage.name}: no matrix of a linear layer trains, AdamW moves everything")
    if stage.evaluate_every is not None and training.watch is None:
        say(f"stage {stage.name}: evaluate_every has no effect here, nobody watches this training")
    begun, spent = time.perf_counter(), position.stage_seconds
    mark = (position.window, position.window_rows)
    with (
        closing(current.feed.batches(position.step, mark)) as batches,
        Progress(
            f"train {stage.name}", current.horizon.steps, "step", done=position.step
        ) as progress,
    ):
        while not current.horizon.over(position):
            if any(engine.total(bool(training.stop))):
                raise interrupted(training, checkpoint(training, current, ready))
            take_step(training, index, current, ready, batches, progress)
            position.stage_seconds = engine.agreed(spent + time.perf_counter() - begun)
            last = current.horizon.over(position)
            if last or due(stage.validate_every, position.step):
                validate(training, current, progress)
            if due(stage.evaluate_every, position.step):
                evaluate(training, current)
            if last or due(stage.checkpoint_every, position.step):
                checkpoint(training, current, ready)
    engine.release(training.model)
    close(training, current)
    judge(training, current)


def take_step(
    training: Training,
    index: int,
    current: Plan,
    ready: Set,
    batches: Iterator[list[Batch]],
    progress: Progress,
) -> None:
    """Read a step's passes, move the weights, and record it."""
    stage, position, engine = current.stage, training.position, training.engine
    begun = time.perf_counter()
    passes = next(batches)
    waited = time.perf_counter() - begun
    lr = set_learning_rate(ready.optimizer, current.horizon.factor(position, stage.optim))
    engine.own_randomness(training.recipe.seed, index, position.step)
    try:
        result = step(
            engine,
            training.model,
            ready.loss_of,
            passes,
            ready.optimizer,
            ready.scaler,
            training.precision,
            stage.optim.clip,
            current.feed.names,
        )
    except Diverged as problem:
        values = {"step": position.step + 1, "total_step": position.total + 1}
        record(training, stage, values | {DIVERGED: str(problem)})
        raise
    seconds = time.perf_counter() - begun
    count(position, result, seconds)
    values = step_record(position, result, lr, seconds, waited)
    record(training, stage, values | source_record(stage, result))
    shown = {"loss": result.loss}
    if current.horizon.steps is None:
        shown["done"] = f"{current.horizon.share(position):.0%}"
    progress.advance(**shown)


def done(position: Position, index: int, current: Plan) -> bool:
    """Is stage number `index` behind this position?"""
    return index < position.stage or (index == position.stage and current.horizon.over(position))


def validate(training: Training, current: Plan, progress: Progress) -> None:
    """Record the loss on the held-out samples, when there are any."""
    if batches := current.feed.validation():
        loss = validation_loss(training.model, batches, training.precision, training.engine)
        record(training, current.stage, {"validation_loss": loss})
        progress.advance(0, validation="no token" if loss is None else loss)


def evaluate(training: Training, current: Plan) -> None:
    """Let the watcher ask the model, on rank 0, and record what it found; see `untouched`."""
    if training.watch is not None:
        with training.engine.whole(training.model):
            found = ask(training, current) if training.engine.main else None
        if found:
            record(training, current.stage, {"evaluation": plain(found)})
    training.engine.wait()


def ask(training: Training, current: Plan) -> Mapping[str, float] | None:
    """What the watcher finds."""
    with untouched(training.model), training.precision.autocast():
        return training.watch(training.model, current.processor, training.position.total)


def due(every: int | None, step: int) -> bool:
    """Is it time for what happens every so many steps?"""
    return every is not None and step % every == 0


def count(position: Position, result: StepResult, seconds: float) -> None:
    """Move the run's counters on by one step."""
    position.step += 1
    position.total += 1
    position.samples += result.samples
    position.tokens += result.tokens
    position.stage_tokens += result.tokens
    position.seconds += seconds


def say_plan(current: Plan) -> None:
    """Tell what the stage trains and reads."""
    trained, every = current.what.counts
    table(
        f"stage {current.stage.name}: {current.horizon}, {trained:,} of {every:,} parameters train",
        ["pattern", "learning rate", "tensors", "parameters"],
        describe(current.what),
    )
    if (most := current.feed.most) is not None:
        say(f"stage {current.stage.name}: budgets of its sources end it after {most} steps at most")
    if current.feed.held_out is None:
        say("no validation: the sources are too small to hold samples out")


def checkpoint(training: Training, current: Plan, ready: Set) -> Path:
    """Save all that a resumption needs; rank 0 writes."""
    record_left_out(training, current)
    position = training.position
    position.window, position.window_rows = current.feed.loader.bookmark(position.step)
    if not training.engine.main and not training.engine.shards:
        return state.checkpoint_path(training.run.path, training.position)
    return state.save_checkpoint(
        training.run.path,
        training.position,
        training.setting,
        training.model,
        training.touched,
        ready.optimizer,
        ready.scaler,
        current.stage.lora,
        training.engine.main,
    )


def interrupted(training: Training, path: Path) -> Interrupted:
    """The message of a clean stop."""
    return Interrupted(
        f"stopped by {training.stop} at step {training.position.total}; "
        f"everything up to there is in {path}",
        remedy="the same command goes on from it",
    )
