"""Where records stand: worked out once for each version of a file, kept with the user's caches.

    (what, path, size, times) ─▶ key ─▶ CACHE/records/KEY.npy, mapped into memory

A mapped array costs a worker process nothing but the pages that it touches. Where the folder cannot
be written the array is held in memory instead, which is slower and never wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from lucida.core.progress import say

RULES = 3
"""Counts up when the same files come to be read in another way, so that nothing old is met."""

SMALLEST = 8 << 20
"""Bytes of files below which nothing is kept: looking through them again costs less than a file."""


class Elsewhere(Protocol):
    """A file that is not local: what names its content, and its size in bytes."""

    @property
    def identity(self) -> str: ...

    @property
    def size(self) -> int: ...


def file_version(path: Path) -> str:
    """What names a local file as it is now. A file that takes its place has another time of change
    (ctime), even where size and modification time are made equal."""
    found = path.stat()
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


def cache_folder() -> Path:
    """Where what can be computed again is kept, records and features alike: `$LUCIDA_CACHE`, or
    `lucida` below `$XDG_CACHE_HOME` or `~/.cache`. Empty variables are none."""
    own = os.environ.get("LUCIDA_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lucida"


def writable_cache(folder: Path) -> Path:
    """The same folder, made, where it can be written; else one of this process, which is said.

    For what is too large for memory. A home that cannot be written is usual in containers.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _own_cache(folder, error.strerror)


@cache
def _own_cache(folder: Path, why: str) -> Path:
    own = Path(tempfile.mkdtemp(prefix="lucida-cache-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    say(
        f"note: the cache {folder} cannot be written ({why}); what it would keep goes to {own} "
        "while this process lives, and the next makes it again: LUCIDA_CACHE names another folder"
    )
    return own


class Sidecar:
    """An array that follows from files; `array` is mapped from its file where it has one. What
    follows from files elsewhere is always kept, and made by one process at a time. `make` may
    give, beside the array, how much it left out by reason: these `notes` are kept with it.

    A pickled one (a worker process that is spawned) carries the path instead of the array.
    """

    def __init__(
        self,
        what: str,
        files: Iterable[Path | Elsewhere],
        make: Callable[[], np.ndarray | tuple[np.ndarray, Mapping[str, int]]],
    ) -> None:
        # No file is opened for the key: a stat says whether this very file was looked through
        # before.
        identities, sizes, remote = [f"{RULES} {what}"], 0, False
        for file in files:
            if isinstance(file, Path):
                identities.append(file_version(file))
                sizes += file.stat().st_size
            else:
                identities.append(file.identity)
                remote = True
        key = hashlib.blake2b("\n".join(identities).encode(), digest_size=16).hexdigest()
        self._file = cache_folder() / "records" / f"{key}.npy"
        self.notes: dict[str, int] = {}
        self._array = self._kept()
        if self._array is not None:
            return
        with self._alone() if remote else contextlib.nullcontext():
            self._array = self._kept() if remote else None
            if self._array is None:
                made = make()
                self._array, notes = made if isinstance(made, tuple) else (made, {})
                self.notes = dict(notes)
                if remote or sizes >= SMALLEST:
                    self._keep()

    @property
    def array(self) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self._file, mmap_mode="r")
        return self._array

    def __getstate__(self) -> dict[str, object]:
        mapped = isinstance(self._array, np.memmap)
        return self.__dict__ | {"_array": None if mapped else self._array}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While another process makes the same array, this one waits for it."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self._file}.lock")
            lock.acquire()
        except OSError:  # nothing can be kept here, so there is nothing to wait for
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _kept(self) -> np.ndarray | None:
        try:
            if not self._file.exists():
                return None
            if (beside := self._file.with_suffix(".json")).exists():
                self.notes = json.loads(beside.read_text(encoding="utf-8"))
            return np.load(self._file, mmap_mode="r")
        except (OSError, ValueError, EOFError):  # cut short: it is made again
            return None

    def _keep(self) -> None:
        aside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self.notes:  # before the array, whose name says that all is there
                aside.write_text(json.dumps(self.notes), encoding="utf-8")
                aside.replace(self._file.with_suffix(".json"))
            with aside.open("wb") as file:
                np.save(file, self._array)
            aside.replace(self._file)
            self._array = np.load(self._file, mmap_mode="r")
        except OSError:  # a full disk or a home that cannot be written: memory serves as well
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
