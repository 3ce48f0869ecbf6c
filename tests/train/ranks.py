"""Processes that train together, as under torchrun."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tiny_training import logits, watching

from forking import start
from lucida.core.spec import Recipe


def on_ranks(
    recipe: Recipe,
    folder: Path,
    world: int = 2,
    die_at: int = -1,
    expected: int = 0,
    seconds: float = 900,
) -> str:
    """Train under a launcher of our own, which sets what torchrun sets; what rank 0 said.

    `die_at`: all ranks are gone, without a word, in front of the step after so many. `expected`:
    their exit status. `seconds`: how long they may take; who has not ended then is killed. It finds
    what hangs and times nothing: where others use the machine, ranks have a small share of it.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the launcher's, as under torchrun
        "WORLD_SIZE": str(world),
    }
    told = [folder.parent / f"{folder.name}-rank{rank}.txt" for rank in range(world)]
    for file in told:
        file.unlink(missing_ok=True)
    ranks = [
        start(
            told[rank], train, recipe.model_dump_json(), folder, die_at, told[rank],
            environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]  # fmt: skip
    end = time.monotonic() + seconds
    for rank in ranks:
        rank.join(timeout=max(0.0, end - time.monotonic()))
    late = [rank for rank in ranks if rank.is_alive()]
    for rank in late:
        rank.kill()
        rank.join()
    said = [file.read_text() for file in told if file.exists()]
    assert not late, "\n".join([f"{len(late)} ranks had not ended after {seconds} s", *said])
    assert [rank.exitcode for rank in ranks] == [expected] * world, "\n".join(said)
    return said[0]


def train(recipe: str, folder: Path, die_at: int, told: Path) -> None:
    """One rank; what each step read goes into a file beside `told`."""
    from lucida.training import loop
    from lucida.training.stage_run import StageRun
    from lucida.training.step import Stepper

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
    loop.train_run(Recipe.model_validate_json(recipe), folder, observers=watching(logits))


def train_alone(recipe: str, folder: Path) -> None:
    """The whole training, in a process that can be killed."""
    from lucida.training.loop import train_run

    train_run(Recipe.model_validate_json(recipe), folder)
