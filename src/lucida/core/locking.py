"""One writer at a time: a folder that belongs to this process as long as it lives."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.files import disk_errors, make_folder

LOCK = ".lock"


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; RunError when another living process holds it.

    The system drops the lock when its holder dies, however it dies, so none can be left behind.
    Data workers do not inherit it.
    """
    make_folder(folder)
    with (
        disk_errors(folder),
        (folder / LOCK).open("a+", encoding="utf-8", errors="replace") as file,
    ):
        if not _take(file.fileno()):
            file.seek(0)
            raise RunError(
                f"{file.read().strip() or 'another process'} is writing this run",
                origin=folder,
                remedy="wait for it, stop it, or choose another folder with --run DIR",
            )
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield


def _take(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0x7FFFFFFF, os.SEEK_SET)  # beyond the text, which stays readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # Not flock: this lock is the process's own, and a data worker that outlives its parent
            # has none. In return, closing any other descriptor of the file gives it up: nothing
            # else may open it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
