"""Tar shards as tables: what samples they hold, where, and the numbers that filters go by.

    path, braces or address ─▶ shards ─one pass each, once─▶ table [samples, 6 + numbers]

A local shard is read from header to header. A shard elsewhere is streamed once from its start; what
was found is kept with the user's caches, shard by shard, so that a pass that was stopped goes on
with the shards that it had not finished. Among several processes each begins with its own shards,
and takes what the others found where they share the caches.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock

from lucida.core.errors import DataError, suggestion
from lucida.core.files import disk_errors, make_folder
from lucida.core.progress import Progress
from lucida.data.sample import ImageSource
from lucida.data.sources.pictures import ENDINGS, bytes_source
from lucida.data.sources.records import files_of
from lucida.data.sources.remote import Remote, expanded, is_remote
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tarindex import read_member, stream_members

Shard = Path | Remote
IMAGE, TEXT, JSON, NUMBERS = 0, 2, 4, 6
"""Columns of a table: begin and size of each member (-1: none), then the numbers asked for."""
BROKEN = -2.0
"""In place of where a picture begins: this is no sample, but what could not be read."""
KINDS = dict.fromkeys((ending[1:] for ending in ENDINGS), IMAGE) | {"txt": TEXT, "json": JSON}
AT_ONCE = 8
"""Shards elsewhere that are looked through side by side."""


def open_shards(path: str | Path, keep: str | Path | None = None) -> list[Shard]:
    """The shards that a path, folder, pattern or address means; braces count or list names.

    With `keep`, shards elsewhere are copied into that folder and read there from then on; a copy
    that broke off goes on. RunError: an address that cannot be reached.
    """
    pattern = str(path)
    if not is_remote(pattern):
        names = [pattern] if Path(pattern).exists() else expanded(pattern)
        return [file for name in names for file in files_of(name, (".tar",))]
    addresses = expanded(pattern)
    found = _all(addresses, Remote, "ask for shards")
    if keep is None:
        return found
    folder = make_folder(Path(keep))
    return _all(found, lambda remote: copied(remote, folder), "copy shards")


def name_of(shard: Shard) -> str:
    """What a shard is called in messages."""
    return shard.name if isinstance(shard, Remote) else str(shard)


@contextmanager
def opened(shard: Shard) -> Iterator[tuple[BinaryIO, int]]:
    """A shard to look through, and its size in bytes."""
    if isinstance(shard, Remote):
        with shard.open() as stream:
            yield stream, shard.size
    else:
        with shard.open("rb") as stream:
            yield stream, shard.stat().st_size


def picture_in(shard: Shard, begin: int, size: int, origin: str) -> ImageSource:
    """A picture that is a member of a shard, read when it is needed."""
    if isinstance(shard, Remote):
        version = shard.identity
    else:
        version = f"{shard.resolve()}|{shard.stat().st_mtime_ns}"
    content = partial(read_member, shard, begin, size)
    return bytes_source(content, origin, f"{version}|{begin}|{size}")


def copied(remote: Remote, folder: Path) -> Path:
    """The copy of a file elsewhere in a folder; made, or carried on, where it is not whole."""
    digest = hashlib.blake2b(remote.identity.encode(), digest_size=4).hexdigest()
    name = PurePosixPath(urlsplit(remote.name).path)
    target = folder / f"{name.stem}-{digest}{name.suffix}"
    with disk_errors(target), FileLock(f"{target}.lock"):
        if target.exists():
            return target
        part = target.with_name(f"{target.name}.part")
        with part.open("ab") as file:
            for piece in remote.stream(file.tell(), alone=True):
                file.write(piece)
        part.replace(target)
    return target


def table_of(shard: Shard, names: Sequence[str] = (), skip: bool = False) -> np.ndarray:
    """Places of a shard's samples and their numbers, float64 [samples, 6 + numbers].

    Members of one name up to the first dot behind the last slash are a sample. DataError: a shard
    that is cut short; a sample without one of the numbers in its JSON member. With `skip` such a
    sample, and the rest of such a shard, is a `BROKEN` row, which passes every filter.
    """
    origin = name_of(shard)
    numbers: dict[str, int] = {}
    found: list[list[float]] = []
    broken: list[int] = []
    try:
        with opened(shard) as (stream, size):
            for name, begin, length in stream_members(stream, size, origin):
                folder, _, last = name.rpartition("/")
                stem, _, ending = last.partition(".")
                column = KINDS.get(ending.lower())
                if column is None:
                    continue
                number = numbers.setdefault(f"{folder}/{stem}", len(found))
                if number == len(found):
                    found.append([-1.0] * NUMBERS + [np.nan] * len(names))
                row = found[number]
                row[column : column + 2] = float(begin), float(length)
                if names and column == JSON:
                    stream.seek(begin)
                    try:
                        row[NUMBERS:] = numbers_of(
                            stream.read(length), names, f"{origin}: sample {number}"
                        )
                    except DataError:
                        if not skip:
                            raise
                        broken.append(number)
    except OSError as error:
        raise DataError(f"cannot read the shard: {error}", origin=origin) from error
    except DataError:
        if not skip:
            raise
        broken.append(len(found))
        found.append([-1.0] * (NUMBERS + len(names)))
    rows = np.array(found).reshape(-1, NUMBERS + len(names))
    without = np.flatnonzero(rows[:, JSON] < 0) if names else []
    if len(without) and not skip:
        message = "a sample without json member"
        raise DataError(message, origin=f"{origin}: sample {without[0]}")
    for number in {*broken, *without}:
        rows[number, IMAGE], rows[number, IMAGE + 1], rows[number, NUMBERS:] = BROKEN, 2**62, np.inf
    return rows


def tables_of(
    shards: Sequence[Shard], names: Sequence[str] = (), skip: bool = False
) -> list[np.ndarray]:
    """The table of every shard, in their order. `skip` as in `table_of`."""
    if not isinstance(shards[0], Remote):
        return [table_of(shard, names, skip) for shard in shards]
    what = f"shard {list(names)}{' skip' if skip else ''}"

    def kept(shard: Remote) -> np.ndarray:
        return Sidecar(what, [shard], lambda: table_of(shard, names, skip)).array

    return _all(shards, kept, "look through shards")


def _all(things: Sequence[Any], work: Callable[[Any], Any], label: str) -> list[Any]:
    """What comes of each, several at once; every process begins with its own share."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    order = sorted(range(len(things)), key=lambda number: (number % world - rank) % world)
    done: list[Any] = [None] * len(things)
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(label, len(things), "shard") as progress,
    ):
        try:
            for number, found in zip(
                order, pool.map(work, [things[number] for number in order]), strict=True
            ):
                done[number] = found
                progress.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def json_record(content: bytes, origin: str) -> dict[str, Any]:
    """The JSON member of a sample."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON: {error}", origin=origin) from error
    if not isinstance(record, dict):
        raise DataError("bad json member", expected="an object", origin=origin)
    return record


def numbers_of(content: bytes, names: Sequence[str], origin: str) -> list[float]:
    """Numbers of a JSON member."""
    record = json_record(content, origin)
    return [number_of(record, name, origin) for name in names]


def number_of(record: dict[str, Any], name: str, origin: str) -> float:
    """A number of the JSON member, or the sum `a+b` of two; null is below everything."""
    total = 0.0
    for key in name.split("+"):
        if key not in record:
            raise DataError(f"no number `{key}`", origin=origin, remedy=suggestion(key, record))
        value = record[key]
        if value is None:
            return float("-inf")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"`{key}` is no number", given=repr(value)[:80], origin=origin)
        total += value
    return float("-inf") if math.isnan(total) else total
