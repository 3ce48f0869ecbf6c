"""What a training process owes its folder and its terminal: to be alone there, and to stop cleanly."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lucida.core.errors import RunError

LOCK = ".lock"


@contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; RunError when another living process has it.

    The kernel drops the lock when its holder dies, however it dies, so no stale lock can stay.
    It is a POSIX record lock, which data workers do not inherit.
    """
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        if not take(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{folder}: {holder} trains in this folder. Wait for it, stop it, or choose another "
                f"folder with --run"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def take(descriptor: int) -> bool:
    """Try to lock an open file for this process, without waiting."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0x7FFFFFFF, os.SEEK_SET)  # locks are mandatory there: lock no text
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class StopRequest:
    """SIGTERM or Ctrl-C, remembered until the step under way is done.

    `signal` is None until one arrives. A second Ctrl-C does not wait: it raises KeyboardInterrupt,
    and the run goes on later from its last checkpoint.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; give way to the second."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


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
