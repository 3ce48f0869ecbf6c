"""SIGTERM, Ctrl-C and SLURM's SIGUSR2 wait for the end of the step: what was computed is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lucida.core.errors import LucidaError

STOPPING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR2")
    if hasattr(signal, name)  # Windows has no SIGUSR2
]
"""Ctrl-C; what `kill`, SLURM and torchrun send; what SLURM is asked to send (`--signal=USR2@300`)
before a job's time is over or its nodes are taken away."""


class Interrupted(LucidaError):
    """Training was asked to stop; its checkpoint is written and the same command goes on.

    signal: the one that this process got, None when another rank got it.
    """

    signal: signal.Signals | None = None


class StopRequest:
    """SIGTERM, SIGUSR2 or Ctrl-C, remembered until the step under way is done.

    False until a signal arrives. A second one does not wait: it raises KeyboardInterrupt, and the
    run goes on later from its last checkpoint.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.owner = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    def __str__(self) -> str:
        return "another rank" if self.signal is None else self.signal.name

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; give way to the second."""
        if os.getpid() != self.owner:  # a data worker, which inherited this handler
            if number == signal.SIGTERM:
                os._exit(0)
            return  # Ctrl-C reaches the whole group; the trainer decides when workers end
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if os.environ.get("RANK", "0") == "0":
            # os.write, because print may be under way in the code that the signal broke into.
            told = f"\n{self.signal.name}: finishing this step, then a checkpoint\n"
            os.write(2, told.encode())


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the signals that ask to stop into a `StopRequest`; outside the main thread they are left
    alone."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = STOPPING
    before = [signal.signal(number, request.handle) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
