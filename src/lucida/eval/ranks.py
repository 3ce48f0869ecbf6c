"""Several processes that share the questions of one evaluation (`torchrun -m -- lucida eval RUN`).

Every process asks its share and writes it to files of its own; the first one reads them all and
scores. So scores are those of one process, and a process that dies loses nothing of the others'.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a process waits for the slowest one."""


def rank() -> int:
    """Number of this process, 0 when it is the only one."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(items: Sequence[T], key: Callable[[T], Hashable]) -> list[T]:
    """This process's part of the items: every so many-th group of consecutive equal keys.

    Worked example, two processes, keys a a b c c: the first takes a a c c, the second b.
    """
    size, own = world(), rank()
    if size == 1:
        return list(items)
    # Whole groups: what asks about one picture shares the work of looking at it.
    mine, group, last = [], -1, object()
    for item in items:
        name = key(item)
        if name != last or name == ():  # text without pictures stands by itself
            group, last = group + 1, name
        if group % size == own:
            mine.append(item)
    return mine


def wait_for_all() -> None:
    """Returns when every process has come here; at once when there is only one."""
    if world() == 1:
        return
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    distributed.barrier()
