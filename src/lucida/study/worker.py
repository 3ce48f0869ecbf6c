"""One run of a study in a process of its own: train, evaluate, write down how it ended."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from lucida.core.environment import describe
from lucida.core.errors import LucidaError
from lucida.core.files import atomic_write
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder

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
    from lucida.training.divergence import Diverged
    from lucida.training.loop import train_run
    from lucida.training.stopping import Interrupted

    started = time.monotonic()
    outcome: dict[str, object] = {"state": "done"}
    try:
        command = f"lucida train {recipe_file} --run {folder}"
        train_run(recipe, folder, command, observers(recipe))
        evaluate_run(folder)
        if (why := run.diverged) is not None:
            outcome = {"state": "diverged", "why": why}
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


def find_place() -> dict[str, object]:
    """Versions of all packages and the CPU: where the same recipe gives the same run."""
    here = describe("")
    return {"cpu": here["cpu"]} | here["packages"]


if __name__ == "__main__":
    work(*map(Path, sys.argv[1:3]))
