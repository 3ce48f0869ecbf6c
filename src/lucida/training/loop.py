"""Training, top to bottom: `train_alone` is a run, `train_stage` a stage, `Stepper.step` a step.

    recipe ─▶ train_alone ─▶ build the model ─▶ plan every stage ─▶ each in order ─▶ save the model
                               between two stages: observers look, and may forbid to go on
                               train_stage: what trains, what it reads, then for every step
                                   step:  micro-batches ─▶ loss / supervised tokens ─▶ update
                                   once in a while: validation, observers, checkpoint, stop

A run that was stopped at any moment goes on from its newest checkpoint and ends with the same
weights, on a CPU bit for bit: what a step does depends on weights, optimizer, random generators and
the step's number only, and all four are in the checkpoint. (A budget of minutes also depends on the
clock, and compiled layers on the compiler.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder, plain
from lucida.core.spec import Recipe
from lucida.model.checkpoint import save
from lucida.training.blind import blind_recipe
from lucida.training.engine import explain_memory
from lucida.training.folder import (
    check_folder,
    folder_of,
    forget_lengths,
    raise_diverged,
    tell_finished,
)
from lucida.training.inputs import check_inputs
from lucida.training.meeting import facts_of_start
from lucida.training.observe import Observer
from lucida.training.preflight import check_ahead
from lucida.training.records import tell_left_out
from lucida.training.run import Run, build_run, choose_engine
from lucida.training.stage_run import StageRun, plan_stage_run, restore_adapters
from lucida.training.stopping import Interrupted, stop_request


def train(
    recipe: Recipe | str | Path,
    folder: str | Path | None = None,
    observers: Sequence[Observer] = (),
    accept: bool = False,
) -> Path:
    """Train a recipe, given as a value, a preset's name or a file, and give the run folder.

    The default folder is `runs/NAME`; a run folder given as the recipe goes on itself. A run that
    stands there goes on; a finished one stays as it is. `observers` look at the model on the way;
    those that the recipe asks for are `lucida.eval.during_training.observers(recipe)`. `accept`:
    go on although data or parts have changed.
    """
    place = None if folder is None else Path(folder)
    if not isinstance(recipe, Recipe):
        name, recipe = str(recipe), load_recipe(str(recipe))
        place = folder_of(name, recipe, place)
    return train_run(recipe, place or Path("runs") / recipe.name, "", observers, accept)


def train_run(
    recipe: Recipe,
    folder: Path,
    command: str = "",
    observers: Sequence[Observer] = (),
    accept: bool = False,
) -> Path:
    """Train a recipe in `folder`, and its blind baseline (if it asks for one) in `folder`/blind;
    nobody looks at that one between its stages."""
    train_alone(recipe, folder, command, observers, accept)
    if recipe.blind is not None:
        others = [each for each in observers if not each.between_stages]
        say(f"{folder / 'blind'}: the blind baseline, the same without pictures")
        train_alone(blind_recipe(recipe), folder / "blind", command, others, accept)
    return folder


def train_alone(
    recipe: Recipe,
    folder: Path,
    command: str = "",
    observers: Sequence[Observer] = (),
    accept: bool = False,
) -> Path:
    """Train every stage of a recipe in `folder` and save the model there; gives the folder.

    What can be refused is refused before the first step, of the blind baseline too. RunError: the
    folder is used by another process or cannot be written, it holds what another recipe or (unless
    `accept`) other data have trained, a checkpoint is damaged, or an observer forbids to go on
    (after the last stage the model is saved all the same). Diverged: a number stopped being finite,
    or the last stage did not learn (its model is saved). Interrupted: SIGTERM or Ctrl-C, after a
    checkpoint.
    """
    files = RunFolder(folder)
    with ExitStack() as held:
        stop = held.enter_context(stop_request())
        engine = choose_engine(recipe.engine, folder)
        held.enter_context(engine.together())
        held.enter_context(explain_memory(engine))
        # Ranks that differ would not make the same sums, and wait for each other instead of saying
        # why.
        engine.require_same(facts_of_start(recipe, engine.packages), SAME_START)
        engine.decided_first(lambda: engine.check(recipe), "the first process refused the recipe")

        def is_finished() -> bool:
            held.enter_context(files.locked())  # by rank 0 alone, until the run ends
            files.prepare()
            check_folder(files, recipe)
            return tell_finished(files)

        if engine.decided_first(is_finished, "the first process refused the folder"):
            return files.path
        run = build_run(recipe, files, engine, stop, observers)
        stages = plan_all(run, command, accept)
        for stage in stages:
            look_between(run, stages, stage.index)
            require_allowed(run, stage.index)
            if not stage.over:
                train_stage(stage)
        look_between(run, stages, len(stages))
        run.finish()
        if engine.main:
            save(run.model, run.processor, files.path)
        engine.wait()
        say(f"{files.path}: trained {run.position.total} steps in {run.position.seconds:.0f} s")
        if engine.main:
            tell_left_out(files, recipe.stages)
        # Behind `save`: what did not learn can be evaluated all the same, but is no success.
        raise_diverged(files)
        require_allowed(run, len(stages))
    return files.path


SAME_START = "all processes need the same recipe, packages and kind of device"


def train_stage(stage: StageRun) -> None:
    """One stage from where the run stands to its last step, with a checkpoint at the end."""
    run, spec, position = stage.run, stage.spec, stage.run.position
    with stage.open():
        while not stage.over:
            if run.must_stop():
                path = stage.checkpoint()
                run.engine.wait()  # whoever started the ranks may end all once one is gone
                raise make_interruption(run, path)
            stage.step()
            scores = {}
            if stage.over or due(spec.validate_every, position.step):
                scores |= stage.validate()
            if due(spec.evaluate_every, position.step):
                scores |= stage.observe()
            # Before the checkpoint: what a stage ends with is what its last checkpoint holds.
            stage.look_back(scores)
            if stage.over or due(spec.checkpoint_every, position.step):
                stage.checkpoint()
    stage.close()


def due(every: int | None, step: int) -> bool:
    """Is it time for what happens every so many steps?"""
    return every is not None and step % every == 0


def make_interruption(run: Run, path: Path) -> Interrupted:
    """The message of a clean stop, which the first rank says."""
    stopped = Interrupted(
        f"stopped by {run.stop} at step {run.position.total}; everything up to there is in {path}",
        remedy="the same command goes on from it",
    )
    stopped.told, stopped.signal = not run.engine.main, run.stop.signal
    return stopped


def plan_all(run: Run, command: str, accept: bool) -> list[StageRun]:
    """All stages planned, and everything refused that can be known now: a mistake in the last one
    should not cost the first. Then the run's files are begun, or go on."""
    check_observers(run)
    if accept:  # lengths of records may be of other data
        forget_known_lengths(run)
    stages = [plan_stage_run(run, index) for index in range(len(run.recipe.stages))]
    opened = [(stage.spec, stage.feed.sources) for stage in stages]
    # Rows and their order follow from the lengths of records. Other data have others, so what was
    # planned with the old ones, and the bookmark among them, mean nothing any more.
    if accepted := check_inputs(run, opened, accept):
        forget_known_lengths(run)
        run.position.window = run.position.window_rows = 0
        stages = [plan_stage_run(run, index) for index in range(len(run.recipe.stages))]
    restore_adapters(run, stages)
    check_ahead(run, stages)
    if run.engine.main:
        run.write_header(command, accepted)
        for stage in stages:
            for when, counts in stage.feed.told.items():
                run.folder.dropped.count(stage.spec.name, when, counts)
    return stages


def forget_known_lengths(run: Run) -> None:
    """Remove the lengths of records on rank 0, before any rank measures them anew."""
    if run.engine.main:
        forget_lengths(run.folder)
    run.engine.wait()


def check_observers(run: Run) -> None:
    """RunError when the recipe asks for a look between its stages and nobody is there to take it:
    what it forbids would not be kept."""
    retention = run.recipe.evaluation.retention
    expected = retention is not None and retention.each_stage
    if expected and not any(each.between_stages for each in run.observers):
        raise RunError(
            "the recipe requires text retention after each stage, and nobody measures it here",
            origin=f"evaluation.retention of recipe {run.recipe.name}",
            remedy="train with `lucida train`, or give "
            "`observers=lucida.eval.during_training.observers(recipe)`",
        )


def look_between(run: Run, stages: Sequence[StageRun], reached: int) -> None:
    """Let observers look before stage number `reached` (their count: after the last one), unless a
    run that was stopped has recorded it already: a run has one record for each such moment."""
    # Records of an observer are one for each moment (before stage 0, behind stage 0, behind stage
    # 1, ...), so their number tells which moments a stopped run has behind it.
    behind = stages[max(0, reached - 1)]
    for observer in run.observers if run.engine.main else ():
        if (
            not observer.between_stages
            or len(earlier := read_found_between(run, observer)) > reached
        ):
            continue
        if len(earlier) < reached or not stands_between(run, stages, reached):
            raise RunError(
                f"what was measured before stage {behind.spec.name} is no longer known",
                expected=f"{reached} records of `{observer.name}` at step {run.position.total}",
                given=len(earlier),
                origin=run.folder.metrics.path,
                remedy="train in another folder with --run DIR",
            )
        found = behind.look(observer, run.model, earlier) or {}
        behind.record({observer.name: plain(dict(found))})
        if said := found.get("said"):
            say(f"{'after' if reached else 'before'} stage {behind.spec.name}: {said}")
    run.engine.wait()


def require_allowed(run: Run, reached: int) -> None:
    """RunError on every rank when what an observer found before stage number `reached` forbids to
    go on."""
    for observer in run.observers:
        if observer.between_stages:

            def require(observer: Observer = observer) -> None:
                observer.require(read_found_between(run, observer)[reached], run.folder.path)

            run.engine.decided_first(require, "the first process stopped the run between stages")


def read_found_between(run: Run, observer: Observer) -> list[Mapping[str, object]]:
    """What an observer has found between stages so far, in order."""
    records = run.folder.metrics.read()
    return [record[observer.name] for record in records if observer.name in record]


def stands_between(run: Run, stages: Sequence[StageRun], reached: int) -> bool:
    """Whether the weights are what they are between stage number `reached` and the one before."""
    if reached == 0:
        return run.position.total == 0
    before = stages[reached - 1]
    return run.position.stage == before.index and before.over
