"""Writing so that a crash never leaves half a file looking whole.

Everything is written beside its final place, flushed to the disk and then renamed, which the
operating system does in one step. Full disks and folders without permission become a `RunError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lucida.core.errors import LucidaError, RunError, shorten

ASIDE = ".unfinished-"
"""Part of the name of whatever is being written; such leftovers of a crash may be deleted."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
# Other words for a full disk: safetensors is Rust, which writes the system's number into its text.
_FULL_WORDS = ("no space left on device", "os error 28", "file too large", "quota exceeded")


def take_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object that JSON's `object_pairs_hook` is given. ValueError for a key that stands twice,
    whose first value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shorten(twice)} stands twice in one object")
    return found


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns disk trouble inside the block into a `RunError` that names `path` and the remedy.

    Libraries that write weights wrap the system's error in their own, so their text is read too.
    """
    try:
        yield
    except OSError as problem:
        raise _explain_problem(problem, Path(path)) from problem
    except LucidaError:
        raise
    except Exception as problem:
        if any(words in str(problem).casefold() for words in _FULL_WORDS):
            raise _disk_full(Path(path)) from problem
        raise


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to `path`, entirely or not at all."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    aside = _beside(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                # Before the renaming: else a power cut may leave the new name over an empty file.
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty folder to fill; it takes the name `path` once the block ends well.

    A folder that already stands at `path` is replaced. An exception in the block deletes what was
    written and leaves the old folder as it was.
    """
    path = Path(path)
    aside = _beside(path)
    with disk_errors(path):
        aside.mkdir(parents=True)
        try:
            yield aside
            _sync_tree(aside)
            _swap(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def link_or_copy(source: str, target: str) -> None:
    """A file under another name, as a `copy_function` of shutil: tensors, into which nobody writes
    once they are there, are linked where the disk can."""
    Path(target).unlink(missing_ok=True)
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


def remove_unfinished(folder: str | os.PathLike[str]) -> list[Path]:
    """Deletes what crashed writers left directly in `folder`, and puts a folder back whose
    replacement was cut short. Call it only while no one else writes there."""
    removed = []
    for aside in sorted(Path(folder).glob(f".*{ASIDE}*")):
        final = aside.with_name(aside.name[1:].partition(ASIDE)[0])
        with disk_errors(aside):
            if aside.name.endswith(".old") and not final.exists():
                aside.replace(final)
                continue
            if aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink(missing_ok=True)
        removed.append(aside)
    return removed


def check_free(path: Path) -> None:
    """RunError where something stands that a new folder would replace."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            "something stands there already", origin=path, remedy="give a folder that is new"
        )


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates the folder and proves that it can be written, so that a run fails now, not hours
    later at its first checkpoint."""
    path = Path(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe{ASIDE}{secrets.token_hex(4)}"
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    return path


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ASIDE}{os.getpid()}-{secrets.token_hex(4)}")


def _swap(aside: Path, path: Path) -> None:
    # A folder cannot be renamed over one that is not empty. Between the two renames `path` is
    # missing for an instant; `remove_unfinished` repairs that should the process die right there.
    if path.exists():
        old = aside.with_name(aside.name + ".old")
        path.replace(old)
        aside.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.replace(path)


def _sync_tree(folder: Path) -> None:
    # Windows flushes only what was opened for writing.
    mode = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(parent) / name, mode)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to flush it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain_problem(problem: OSError, path: Path) -> RunError:
    if problem.errno in _FULL:
        return _disk_full(path)
    place = problem.filename or path
    if problem.errno in _REFUSED:
        return RunError(
            f"cannot write: {problem.strerror}",
            origin=place,
            remedy="choose a folder that you may write to (for a run: --run DIR)",
        )
    if problem.errno in (errno.ENOTDIR, errno.EEXIST):
        return RunError(
            "cannot make a folder here: a file of this name is in the way",
            origin=place,
            remedy="remove that file or choose another folder (for a run: --run DIR)",
        )
    return RunError(f"cannot read or write: {problem.strerror or problem}", origin=place)


def _disk_full(path: Path) -> RunError:
    return RunError(
        "the disk is full; what stood there before is intact",
        origin=path,
        remedy="free some space or use another disk (for a run: --run DIR), then start again: "
        "training continues from the last checkpoint",
    )


def make_writable(output: str) -> str:
    """The output as text that can be written down: halves of a character, which an endpoint's JSON
    may hold, are joined or replaced.

    Worked example: "a\\ud83d\\ude00" is "a" and one emoji; "a\\ud83d" is "a\ufffd".
    """
    try:
        output.encode()
    except UnicodeEncodeError:
        return output.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return output
