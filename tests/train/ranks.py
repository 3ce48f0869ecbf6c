"""Processes that train together, as under torchrun, without importing torch anew for each.

A server imports once and forks every rank; it has trained nothing itself, so that autograd can be
used on the other side of the fork.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from tiny_training import logits, watching

from lucida.core.errors import LucidaError
from lucida.core.spec import Recipe
from lucida.data.transport import keep_addresses_short

keep_addresses_short()
SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ["lucida.training.loop", "lucida.training.sharding", "peft"]
SERVER.set_forkserver_preload(PRELOADED + ["deepspeed"] * (find_spec("deepspeed") is not None))


def on_ranks(
    recipe: Recipe,
    folder: Path,
    world: int = 2,
    die_at: int = -1,
    expected: int = 0,
    seconds: float = 240,
) -> str:
    """Train under a launcher of our own, which sets what torchrun sets; what rank 0 said.

    `die_at`: all ranks are gone, without a word, in front of the step after so many. `expected`:
    their exit status. `seconds`: how long each may take.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = dict(os.environ) | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the launcher's, as under torchrun
        "WORLD_SIZE": str(world),
    }
    told = [folder.parent / f"{folder.name}-rank{rank}.txt" for rank in range(world)]
    ranks = [
        SERVER.Process(
            target=train,
            args=(
                common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                recipe.model_dump_json(),
                folder,
                die_at,
                told[rank],
            ),
        )
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=seconds)
    said = [file.read_text() for file in told]
    assert [rank.exitcode for rank in ranks] == [expected] * world, "\n".join(said)
    return said[0]


def train(environment: dict[str, str], recipe: str, folder: Path, die_at: int, told: Path) -> None:
    """One rank; what it says goes into the file `told`, and what each step read beside it."""
    from lucida.training import loop
    from lucida.training.stage_run import StageRun
    from lucida.training.step import Stepper

    os.environ.update(environment)
    with told.open("w") as file:
        os.dup2(file.fileno(), 2)
    true_step, place = StageRun.step, [0]

    def step(stage):
        if stage.run.position.total == die_at:
            os._exit(9)
        place[0] = stage.run.position.total
        true_step(stage)

    true_move = Stepper.step
    read = told.with_name(told.name.replace("-rank", "-read")).with_suffix(".jsonl")
    read.unlink(missing_ok=True)

    def move(stepper, micro_batches):
        origins = [origin for batch in micro_batches for origin in batch.origins]
        with read.open("a") as file:
            file.write(json.dumps([place[0], origins]) + "\n")
        return true_move(stepper, micro_batches)

    StageRun.step, Stepper.step = step, move
    try:
        loop.train_run(Recipe.model_validate_json(recipe), folder, observers=watching(logits))
    except LucidaError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without


def exit_like_python(code: int) -> None:
    """End a process of multiprocessing with what Python does at its end."""
    atexit._run_exitfuncs()
    sys.exit(code)
