"""One run of a study in a process of its own: train, evaluate, write down how it ended."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path

from lucida.core.collector import rest_while_importing
from lucida.core.environment import describe
from lucida.core.errors import LucidaError
from lucida.core.files import atomic_write, link_or_copy
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder, read_json
from lucida.core.spec import Recipe
from lucida.study.keys import key_of_training

OUTCOME = "outcome.json"
"""How a run ended, in its folder; without it the run is to do."""


def work(recipe_file: Path, folder: Path) -> None:
    """Train and evaluate the recipe in `folder`, and write outcome.json there.

    What Lucida refuses is an outcome, `failed`; a signal, a full disk or a bug leaves none, so that
    the run is taken up again.
    """
    recipe, run = load_recipe(recipe_file), RunFolder(folder)  # before seconds of imports
    from lucida.eval.during_training import observers
    from lucida.eval.run import evaluate_run
    from lucida.study.shared_stages import take_stages, watch_stages
    from lucida.training.divergence import Diverged
    from lucida.training.loop import train_run
    from lucida.training.stopping import Interrupted

    started = time.monotonic()
    outcome: dict[str, object] = {"state": "done"}
    try:
        trained = find_trained(recipe, folder)
        if trained is None:
            command = f"lucida train {recipe_file} --run {folder}"
            place, others = find_place(), sorted(recipe_file.parent.glob("*.yaml"))
            take_stages(folder, recipe, place)
            watching = [*observers(recipe), *watch_stages(folder, recipe, others, place)]
            train_run(recipe, folder, command, watching)
        else:
            take_trained(trained, folder, recipe)
            outcome["trained"] = trained.name
        evaluate_run(folder)
        if (why := run.diverged) is not None:
            outcome |= {"state": "diverged", "why": why}
    except Interrupted:
        raise
    except LucidaError as problem:
        if isinstance(problem.__cause__, OSError):  # the disk's or the machine's, not the arm's
            raise
        state = "diverged" if isinstance(problem, Diverged) else "failed"
        outcome = {"state": state, "why": str(problem)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1e6 if sys.platform == "darwin" else 1e3)
    outcome |= {"seconds": time.monotonic() - started, "memory_mb": megabytes}
    outcome |= {"place": find_place()}
    atomic_write(folder / OUTCOME, json.dumps(outcome, indent=2) + "\n")


def find_trained(recipe: Recipe, folder: Path) -> Path | None:
    """The run beside `folder` that has trained the same model and has come to its end, None where
    there is none, or where the training in `folder` itself has begun."""
    if (folder / "checkpoints").exists():
        return None
    wanted = key_of_training(recipe)
    for file in sorted(folder.parent.glob(f"*/{OUTCOME}")):
        other = file.parent
        # Runs that were taken over from another study have no model, and failed ones neither.
        if other == folder or not (other / "config.json").is_file():
            continue
        if read_json(file)["state"] in ("done", "diverged") and (
            key_of_training(RunFolder(other).recipe) == wanted
        ):
            return other
    return None


def take_trained(trained: Path, folder: Path, recipe: Recipe) -> None:
    """The model of another run and what its training wrote down, with this recipe: a run folder as
    training leaves it."""
    own = {OUTCOME, "predictions", "checkpoints", "results.json", "report.html", "worker.log"}

    def leave_out(place: str, names: list[str]) -> list[str]:
        return [name for name in names if name in own]

    shutil.copytree(
        trained, folder, ignore=leave_out, copy_function=link_or_copy, dirs_exist_ok=True
    )
    RunFolder(folder).write_recipe(recipe)


def find_place() -> dict[str, object]:
    """Versions of all packages and the CPU: where the same recipe gives the same run."""
    here = describe("")
    return {"cpu": here["cpu"]} | here["packages"]


if __name__ == "__main__":
    rest_while_importing()
    work(*map(Path, sys.argv[1:3]))
