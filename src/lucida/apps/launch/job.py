"""What is to be started: `lucida train` on so many processes of so many nodes.

    recipe, changes, folder ─▶ Job ─┬─ here.py      the ranks of this machine
                                    ├─ commands.py  torchrun, a line for each node
                                    ├─ slurm.py     a job that is queued again when it is preempted
                                    └─ on_ray.py    the ranks on the nodes of a Ray cluster

Each rank is a `lucida train` of its own that finds the others by the variables that torchrun sets:
RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from lucida.core.environment import usable_cores
from lucida.core.errors import LucidaError, RecipeError, RunError
from lucida.core.recipe import load_recipe
from lucida.training.folder import folder_of


@dataclass(frozen=True)
class Job:
    """A recipe with changes, the folder of its run, and the nodes and processes on each of them
    that train it. port: of the first node, None for any that is free."""

    recipe: str
    overrides: tuple[str, ...]
    folder: Path
    nodes: int
    processes: int
    port: int | None = None
    accept_changes: bool = False

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.nodes * self.processes

    @property
    def words(self) -> list[str]:
        """What every rank does, as it would be typed behind `lucida`."""
        accepted = ["--accept-changes"] if self.accept_changes else []
        return ["train", self.recipe, *self.overrides, "--run", str(self.folder), *accepted]


def make_job(
    recipe: str,
    overrides: list[str],
    run: Path | None,
    nodes: int,
    processes: int,
    port: int | None = None,
    accept_changes: bool = False,
) -> Job:
    """A job whose recipe and folder are checked here, before anything is queued or started.

    RecipeError for a recipe that cannot be followed or is for one process; RunError for a folder
    that holds another run.
    """
    value = load_recipe(recipe, overrides)
    if value.engine.kind == "single" and nodes * processes > 1:
        raise RecipeError(
            "the recipe is for one process",
            expected="engine.kind auto, ddp, fsdp or deepspeed",
            given=f"engine.kind=single and {nodes * processes} processes",
            remedy="set engine.kind=ddp, or launch it with --nodes 1 --gpus 1",
        )
    folder = folder_of(recipe, value, run, changed=bool(overrides))
    return Job(recipe, tuple(overrides), folder, nodes, processes, port, accept_changes)


def run_rank(job: Job) -> tuple[int, LucidaError | None]:
    """One rank, in this process, whose environment says which: its exit status as `lucida train`
    has it, and the mistake if it was one. What there is to say has been said."""
    from lucida.apps.verbs.runs import train

    sys.argv = ["lucida", *job.words]  # what environment.json tells
    try:
        train(job.recipe, list(job.overrides), job.folder, job.accept_changes)
    except typer.Exit as end:
        # `guarded` raises the exit from what went wrong.
        problem = end.__cause__
        return end.exit_code, problem if isinstance(problem, LucidaError) else None
    return 0, None


def share_cores(processes: int) -> dict[str, str]:
    """Threads for each of the processes of a node, unless the environment says how many."""
    each = str(max(1, usable_cores() // processes))
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": each}


def count_gpus(here: bool) -> int:
    """Of this machine, when the processes are for it. RunError where the number has to be given."""
    found = 0
    if here:
        import torch

        found = torch.cuda.device_count()
    if not found:
        raise RunError(
            "this machine has no GPU that torch can use"
            if here
            else "nobody said how many processes a node has",
            remedy="say how many processes with --gpus N; without GPUs they share the CPU",
        )
    return found
