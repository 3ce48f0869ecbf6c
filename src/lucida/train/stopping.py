"""SIGTERM and Ctrl-C wait for the end of the step, so that what was computed is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lucida.core.errors import LucidaError


class Interrupted(LucidaError):
    """Training was asked to stop; its checkpoint is written and the same command goes on."""


class StopRequest:
    """SIGTERM or Ctrl-C, remembered until the step under way is done.

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
    """Turn SIGTERM and SIGINT into a `StopRequest`; outside the main thread they are left alone."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request.handle) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
