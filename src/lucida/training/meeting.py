"""Where the processes of a run meet before it begins, and what must be the same for all of them.

torchrun, SLURM, Ray or `lucida launch` start processes with RANK, WORLD_SIZE, MASTER_ADDR, …
meet            ─▶ a group for sums, and a watch over each other
facts_of_start  ─▶ recipe, versions, device: compared before the model is built
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch import distributed

import lucida
from lucida.core.environment import describe_packages
from lucida.core.errors import RunError
from lucida.core.spec import Recipe
from lucida.training.machine import describe_machine, require_gpu
from lucida.training.precision import choose_device
from lucida.training.watch import Watch

LONGEST_WAIT = timedelta(hours=24)
"""How long a rank waits while another does what takes its time, such as an evaluation: the watch
ends a wait that is none."""

LATER = 2.0
"""Seconds that torch gets beyond its own timeout, whose message says more."""


MET: list[Watch] = []
"""The watch of this process, once it has met the others: a group is joined once, whatever runs (a
blind baseline behind its run) come after."""


def meet(patience: float, folder: Path) -> Watch:
    """Meet the other processes that were started with this one; once for a process. `folder`: of
    the run. RunError when they do not come within `patience` seconds, or the port is taken."""
    if not MET:
        MET.append(_join_group(patience, folder))
    MET[0].begin(patience, folder)
    return MET[0]


def _join_group(patience: float, folder: Path) -> Watch:
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        require_gpu(describe_machine(), local)
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # counts and texts by the one, gradients by the other
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, world = _find_store(patience)
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=LONGEST_WAIT,
        )
    except (ValueError, RuntimeError, TimeoutError) as problem:
        raise explain_meeting(str(problem), place) from problem
    atexit.register(distributed.destroy_process_group)
    watch = Watch(distributed.PrefixStore("watch", store), rank, world, patience, folder)
    atexit.register(watch.stop)  # the last that is registered is called first
    return watch


def _find_store(patience: float) -> tuple[distributed.Store, int, int]:
    """The store where the processes meet, this one's rank and how many they are; TimeoutError when
    that takes much longer than `patience` seconds.

    In a thread of its own: torch waits for ever, whatever its timeout, for the first word of one
    that listens at that port and is no store.
    """
    found: list = []

    def find() -> None:
        try:
            meeting = distributed.rendezvous("env://", timeout=timedelta(seconds=patience))
            found.append(next(iter(meeting)))
        except (ValueError, RuntimeError) as problem:
            found.append(problem)

    thread = threading.Thread(target=find, daemon=True)
    thread.start()
    thread.join(patience + LATER)
    if not found:
        raise TimeoutError(f"no answer within {patience:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def explain_meeting(text: str, place: str) -> RunError:
    """What torch says when processes do not meet, in words."""
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return RunError(
            f"the port where the processes meet is taken: {place}",
            remedy="choose another (`lucida launch --port N`, torchrun's --master-port), or end "
            "the run that has it",
        )
    return RunError(
        f"the processes of this run did not meet at {place}: {text.splitlines()[0]}",
        remedy="look whether all were started, with the same address, and can reach it",
    )


def facts_of_start(recipe: Recipe, packages: Sequence[str] = ()) -> dict[str, str]:
    """What has to be the same on every rank before the model is built: recipe, versions of the
    usual packages and these, the source of this one, and the kind of device."""
    values = flatten(recipe.model_dump(mode="json", exclude={"description"}))
    return {
        **{f"recipe, {place}": value for place, value in values},
        **describe_packages(packages),
        "source of lucida": hash_source(),
        "device": choose_device().type,
    }


def flatten(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Dotted place and text of every value below another; what a list holds goes by its `name`, or
    else by its number."""
    entries: list[tuple[object, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        for number, each in enumerate(value):
            named = isinstance(each, dict) and "name" in each
            entries.append((each["name"] if named else number, each))
    if not entries:
        yield place, str(value)
    for key, each in entries:
        yield from flatten(each, f"{place}.{key}" if place else str(key))


@cache
def hash_source() -> str:
    """Hash of the package's own Python files: two checkouts may have one version number."""
    root = Path(lucida.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def find_difference(everyone: Sequence[Mapping[str, str]]) -> tuple[int, str] | None:
    """The first rank that differs from rank 0, and the name of the first fact in which it does."""
    for rank, facts in enumerate(everyone):
        for name in [*everyone[0], *facts]:
            if facts.get(name) != everyone[0].get(name):
                return rank, name
    return None
