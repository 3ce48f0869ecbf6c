"""The ranks of one machine, started and watched here.

a signal        goes on to every rank once: they finish the step and write a checkpoint
a rank fails    the others are asked to end, and killed when they do not: none is left waiting
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lucida.apps.command import STOPPED
from lucida.apps.launch.job import Job, share_cores
from lucida.core.errors import RunError

GRACE = 15.0
"""Seconds that the others have for ending once a rank has failed."""


def run_here(job: Job) -> int:
    """Start every rank of the job on this machine and wait for all; the exit status of the first
    one that failed, or 0. RunError when the port is taken, or a rank was killed."""
    port = find_port(job.port)
    common = os.environ | share_cores(job.world)
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {
        "LUCIDA_LAUNCHER": "local",
        "WORLD_SIZE": str(job.world),
        "LOCAL_WORLD_SIZE": str(job.world),
    }
    ranks = []
    with forward_signals(ranks) as asked:
        try:
            for rank in range(job.world):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                words = [sys.executable, "-m", "lucida", *job.words]
                # A session of its own: Ctrl-C comes here alone, and once to each of them.
                started = subprocess.Popen(words, env=common | own, start_new_session=True)
                ranks.append(started)
            first = wait_for_ranks(ranks)
        finally:
            end_ranks(ranks)
    if first is None:
        return 0
    status = ranks[first].returncode
    if status < 0 and not asked:
        raise RunError(
            f"rank {first} was killed by {signal.Signals(-status).name}, the others were ended",
            origin=job.folder,
            remedy="SIGKILL often means that memory ran out; the same command goes on from the "
            "last checkpoint",
        )
    # As shells count: 128 and the number of the signal.
    return status if status > 0 else 128 - status


def find_port(wanted: int | None) -> int:
    """A free port of this machine; RunError when the one that is wanted is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted or 0))
        except OSError as problem:
            raise RunError(
                f"port {wanted} of this machine cannot be used: {problem.strerror}",
                remedy="name another with --port, or none: a free one is found",
            ) from problem
        return probe.getsockname()[1]


@contextmanager
def forward_signals(ranks: list[subprocess.Popen]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go on to every rank that runs; gives those that came."""
    asked: list[int] = []

    def forward(number: int, frame: object) -> None:
        asked.append(number)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, forward) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def wait_for_ranks(ranks: list[subprocess.Popen]) -> int | None:
    """Wait until one has failed, or all have ended: the number of the first that did not end well.

    One that was stopped by a signal has not failed: another may still write the checkpoint.
    """
    while True:
        states = [rank.poll() for rank in ranks]
        failed = [n for n, state in enumerate(states) if state not in (None, 0, STOPPED)]
        if None not in states:
            failed += [n for n, state in enumerate(states) if state == STOPPED]
        if failed or None not in states:
            return failed[0] if failed else None
        time.sleep(0.1)


def end_ranks(ranks: list[subprocess.Popen]) -> None:
    """Every rank, with the processes that it has started, is gone when this returns."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(rank.poll() is None for rank in ranks):
        time.sleep(0.1)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()
