"""What a run folder must be before training begins in it.

empty, or a run of this recipe          ─▶ begin, or go on
another recipe, nothing trained by it   ─▶ its records go, begin anew
another recipe, anything trained by it  ─▶ RunError, and so for a model of no run

A run folder that is given as the recipe is the run itself: it goes on, or is finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.files import disk_errors
from lucida.core.progress import say
from lucida.core.recipe import diff_recipes
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.core.start import KEPT
from lucida.training.blind import blind_recipe
from lucida.training.divergence import REMEDY, Diverged


def check_folder(run: RunFolder, recipe: Recipe) -> None:
    """Refuse a folder that holds a run of another recipe, or a model of no run.

    A run that failed before its first checkpoint has trained nothing: what it recorded is removed,
    and this is said, so that a recipe that did not work can be corrected in its place.
    """
    if run.exists:
        if run.recipe.engine != recipe.engine:
            changed = diff_recipes(
                run.recipe, run.recipe.model_copy(update={"engine": recipe.engine})
            )
            say(f"note: {', '.join(changed)}; the last bits of the weights may differ")
        if changes := diff_recipes(bearing(run.recipe, recipe), recipe):
            told = "\n  ".join(changes)
            if next(find_trained(run), None) is None:
                say(f"{run.path}: begun anew, nothing had been trained with:\n  {told}")
                forget(run)
                return
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


def folder_of(name: str, recipe: Recipe, wanted: Path | None, changed: bool = False) -> Path:
    """Where the recipe of this name, preset, file or run folder is trained: in the folder `wanted`,
    or a run in itself, or else in `runs/NAME`. A folder with a recipe in which nothing was begun
    (`lucida new`) is no run: its recipe.yaml stays as it was written.

    RunError for a run with other values (`changed`) and no folder for them.
    """
    path = Path(name).expanduser()
    run = path.is_dir() and RunFolder(path).begun
    if not run:
        return wanted or Path("runs") / recipe.name
    if wanted is not None and wanted.resolve() != path.resolve():
        say(f"{wanted}: the recipe of {path} is trained from its beginning")
        return wanted
    if changed:
        raise RunError(
            "this is a run; with changes to its recipe it would be another one",
            origin=path,
            remedy="name another folder with --run DIR (there it is trained from its beginning), "
            "leave the changes out, and the run goes on, or go on from its model with a recipe of "
            f"other stages (model.from={path})",
        )
    if not (path / "config.json").exists():
        say(f"{path} is a run: it goes on with its own recipe, from its newest checkpoint")
    return path


def finished(run: RunFolder, recipe: Recipe) -> bool:
    """Whether this recipe and its blind baseline are trained here already, as far as the files
    say; changes nothing."""
    done = run.exists and (run.path / "config.json").exists()
    if not done or diff_recipes(bearing(run.recipe, recipe), recipe):
        return False
    blind = RunFolder(run.path / "blind")
    return recipe.blind is None or finished(blind, blind_recipe(recipe))


def tell_finished(run: RunFolder) -> bool:
    """Say so when the run is trained already; Diverged when it was, without learning."""
    if not (run.path / "config.json").exists():  # written last of all
        return False
    say(
        f"{run.path}: already trained; nothing to do (a recipe with `model: {{from: {run.path}}}` "
        "and stages of its own goes on from it)"
    )
    raise_diverged(run)
    return True


def raise_diverged(run: RunFolder) -> None:
    """Diverged when the last stage of a run that has been saved did not learn."""
    if why := run.diverged:
        raise Diverged(
            f"training diverged: {why}",
            origin=run.path,
            remedy=f"{REMEDY}; the model is saved and can be evaluated all the same",
        )


def find_trained(run: RunFolder) -> Iterator[Path]:
    """What stands in a run folder that training, or what came after it, has made: checkpoints,
    whole or not, weights, scores, a blind baseline."""
    if run.checkpoints.is_dir():
        yield from run.checkpoints.iterdir()
    yield from run.path.glob("*.safetensors")
    made = (run.path / name for name in ("config.json", "adapter", "blind", KEPT))
    yield from (each for each in (*made, run.results_file, run.report_file) if each.exists())


def forget(run: RunFolder) -> None:
    """Remove what a run records before it has trained anything; the recipe last, so that a crash in
    between leaves a folder that is asked again."""
    forget_lengths(run)
    records = (run.metrics.path, run.dropped.path, run.environment_file, run.path / "inputs.json")
    with disk_errors(run.path):
        for each in (*records, run.recipe_file):
            each.unlink(missing_ok=True)


def forget_lengths(run: RunFolder) -> None:
    """Remove the lengths of records: they are measured anew."""
    with disk_errors(run.path):
        for each in run.path.glob("lengths-*.npz"):
            each.unlink(missing_ok=True)


def bearing(before: Recipe, now: Recipe) -> Recipe:
    """The recipe `before`, on the engine of `now`, and bearing with unusable records as that does.

    An engine changes nothing but last bits. A run that unusable records stopped may go on with
    another `max_dropped`, or skip from now on: which records come when stays the same. From `skip`
    back to `error` is another run.
    """
    wanted = {stage.name: stage.mixture for stage in now.stages}
    stages = []
    for stage in before.stages:
        policy = wanted.get(stage.name, stage.mixture)
        skip = "skip" in (policy.on_error, stage.mixture.on_error)
        update = {"max_dropped": policy.max_dropped, "on_error": "skip" if skip else "error"}
        mixture = stage.mixture.model_copy(update=update)
        stages.append(stage.model_copy(update={"mixture": mixture}))
    return before.model_copy(update={"stages": stages, "engine": now.engine})
