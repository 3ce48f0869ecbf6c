"""Tar shards as tables: what samples they hold, where, and the numbers that filters go by.

    path, braces or address ─▶ shards ─one pass each, once─▶ table [samples, 6 + numbers]

A local shard is read from header to header. A shard elsewhere is streamed once from its start; what
was found is kept with the user's caches, shard by shard, so that a pass that was stopped goes on
with the shards that it had not finished. Among several processes each begins with its own shards,
and takes what the others found where they share the caches.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock

from lucida.core.errors import DataError, shorten, suggestion
from lucida.core.files import disk_errors, make_folder
from lucida.core.progress import Progress
from lucida.data.sample import ImageSource
from lucida.data.sources.pictures import ENDINGS, bytes_source
from lucida.data.sources.records import files_of
from lucida.data.sources.remote import Remote, expand_braces, is_remote
from lucida.data.sources.sidecar import Sidecar, file_version
from lucida.data.sources.tarindex import read_member, stream_members
from lucida.data.sources.values import json_value, rating_in

Shard = Path | Remote
IMAGE, TEXT, JSON, NUMBERS = 0, 2, 4, 6
"""Columns of a table: begin and size of each member (-1: none), then the numbers asked for."""
BROKEN, TWICE = -2.0, -3.0
"""In place of where a picture begins: this is no sample, but what could not be read; or a sample
that has two pictures, texts or records, of which nobody says what belongs together."""
TWO_DOTS = "members whose names have two dots"
LONGEST_ENDING = 12
KINDS = dict.fromkeys((ending[1:] for ending in ENDINGS), IMAGE) | {"txt": TEXT, "json": JSON}
TARS = ".tar"
AT_ONCE = 8
"""Shards elsewhere that are looked through side by side."""


def open_shards(path: str | Path, keep: str | Path | None = None) -> list[Shard]:
    """The shards that a path, folder, pattern or address means; braces count or list names.

    With `keep`, shards elsewhere are copied into that folder and read there from then on; a copy
    that broke off goes on. RunError: an address that cannot be reached.
    """
    pattern = str(path)
    if not is_remote(pattern):
        names = [pattern] if Path(pattern).exists() else expand_braces(pattern)
        return [file for name in names for file in files_of(name, (TARS,))]
    addresses = expand_braces(pattern)
    found = _all(addresses, Remote, "ask for shards")
    if keep is None:
        return found
    folder = make_folder(Path(keep))
    return _all(found, lambda remote: copy_shard(remote, folder), "copy shards")


def name_of(shard: Shard) -> str:
    """What a shard is called in messages."""
    return shard.name if isinstance(shard, Remote) else str(shard)


@contextmanager
def open_shard(shard: Shard) -> Iterator[tuple[BinaryIO, int]]:
    """A shard to look through, and its size in bytes."""
    if isinstance(shard, Remote):
        with shard.open() as stream:
            yield stream, shard.size
    else:
        with shard.open("rb") as stream:
            yield stream, shard.stat().st_size


def picture_in(shard: Shard, begin: int, size: int, origin: str) -> ImageSource:
    """A picture that is a member of a shard, read when it is needed."""
    version = shard.identity if isinstance(shard, Remote) else file_version(shard)
    content = partial(read_member, shard, begin, size)
    return bytes_source(content, origin, f"{version}|{begin}|{size}")


def copy_shard(remote: Remote, folder: Path) -> Path:
    """The copy of a file elsewhere in a folder; made, or carried on, where it is not whole."""
    digest = hashlib.blake2b(remote.identity.encode(), digest_size=4).hexdigest()
    name = PurePosixPath(urlsplit(remote.name).path)
    target = folder / f"{name.stem}-{digest}{name.suffix}"
    with disk_errors(target), FileLock(f"{target}.lock"):
        if target.exists():
            return target
        part = target.with_name(f"{target.name}.part")
        with part.open("ab") as file:
            for piece in remote.stream(file.tell()):
                file.write(piece)
        part.replace(target)
    return target


class Table:
    """What a shard holds: rows, float64 [samples, 6 + numbers], and how many members are not used,
    by reason."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.notes: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._found: list[list[float]] = []
        self._broken: set[int] = set()
        self._twice: set[int] = set()

    def add(self, name: str, begin: int, length: int) -> tuple[int, int] | None:
        """Puts a member into its row; gives row and column, None for one that is not used."""
        key, ending = key_of(name)
        column = KINDS.get(ending)
        if column is None:
            self.notes[explain_unused(ending)] += 1
            return None
        number = self._numbers.setdefault(key, len(self._found))
        if number == len(self._found):
            self._found.append([-1.0] * NUMBERS + [np.nan] * len(self.names))
        # `begin` is the place of a member's bytes, so it is never negative once one was met.
        row = self._found[number]
        if row[column] >= 0:
            self._twice.add(number)
        row[column : column + 2] = float(begin), float(length)
        return number, column

    def rate(self, number: int, content: bytes, origin: str, skip: bool) -> None:
        """Takes the numbers of a sample from its JSON member."""
        try:
            found = numbers_of(content, self.names, f"{origin}: sample {number}")
            self._found[number][NUMBERS:] = found
        except DataError:
            if not skip:
                raise
            self._broken.add(number)

    def end(self) -> None:
        """Adds a row for what cannot be read of the shard."""
        self._broken.add(len(self._found))
        self._found.append([-1.0] * (NUMBERS + len(self.names)))

    def rows(self, origin: str, skip: bool) -> np.ndarray:
        """The table. DataError: a sample without numbers, unless `skip`."""
        rows = np.array(self._found).reshape(-1, NUMBERS + len(self.names))
        without = set(np.flatnonzero(rows[:, JSON] < 0).tolist() if self.names else [])
        if (lacking := without - self._twice) and not skip:
            message = "a sample without json member"
            raise DataError(message, origin=f"{origin}: sample {min(lacking)}")
        for numbers, mark in ((self._broken | without, BROKEN), (self._twice, TWICE)):
            for number in numbers:
                # Such a size and infinite numbers pass every filter, so that the row is met, and
                # tells its error.
                rows[number, IMAGE], rows[number, IMAGE + 1] = mark, 2**62
                rows[number, NUMBERS:] = np.inf
        return rows


def key_of(name: str) -> tuple[str, str]:
    """What members of one sample have in common, and the rest of a name, in small letters.

    WebDataset's rule: a key ends at the first dot behind the last slash. Worked example:
    `a/kite.seg.png` is `a/kite` and `seg.png`.
    """
    folder, _, last = name.removeprefix("./").rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}/{stem}", ending.lower()


def explain_unused(ending: str) -> str:
    """The reason why a member with this ending is not used."""
    first, dot, _ = ending.rpartition(".")
    last = ending[len(first) + len(dot) :][:LONGEST_ENDING]
    if dot and last in KINDS:
        return f"{TWO_DOTS} (*.*.{last}): a key ends at the first dot, so rename them"
    return f"members that are not read (.{last})" if last else "members without an ending"


def table_of(
    shard: Shard, names: Sequence[str] = (), skip: bool = False
) -> tuple[np.ndarray, dict[str, int]]:
    """Places of a shard's samples and their numbers, float64 [samples, 6 + numbers], and how many
    members are not used, by reason.

    Members of one key (`key_of`) are a sample, wherever they stand. DataError: a shard that is cut
    short; a sample without one of the numbers in its JSON member. With `skip` such a sample, and
    the rest of such a shard, is a `BROKEN` row, which passes every filter; so does, in any case, a
    `TWICE` row, which is a sample with two members of one kind.
    """
    origin = name_of(shard)
    table = Table(names)
    try:
        with open_shard(shard) as (stream, size):
            for name, begin, length in stream_members(stream, size, origin, table.notes):
                place = table.add(name, begin, length)
                if names and place is not None and place[1] == JSON:
                    stream.seek(begin)
                    table.rate(place[0], stream.read(length), origin, skip)
    except OSError as error:
        raise DataError(f"cannot read the shard: {error}", origin=origin) from error
    except DataError:
        if not skip:
            raise
        table.end()
    return table.rows(origin, skip), dict(table.notes)


def tables_of(
    shards: Sequence[Shard], names: Sequence[str] = (), skip: bool = False
) -> list[tuple[np.ndarray, dict[str, int]]]:
    """What `table_of` gives for every shard, in their order."""
    if not isinstance(shards[0], Remote):
        return [table_of(shard, names, skip) for shard in shards]
    what = f"shard {list(names)}{' skip' if skip else ''}"

    def kept(shard: Remote) -> tuple[np.ndarray, dict[str, int]]:
        found = Sidecar(what, [shard], lambda: table_of(shard, names, skip))
        return found.array, found.notes

    return _all(shards, kept, "look through shards")


def _all(things: Sequence[Any], work: Callable[[Any], Any], label: str) -> list[Any]:
    """What comes of each, several at once; every process begins with its own share."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # Of 2 ranks rank 1 begins with things 1, 3, 5, … and goes on with 0, 2, 4, …, which by then
    # rank 0 has found and kept, where they share the caches.
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
    record = json_value(content, origin)
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
        if isinstance(value, str):
            raise DataError(f"`{key}` is no number", given=shorten(value), origin=origin)
        total += rating_in(value, key, origin)
    return float("-inf") if math.isnan(total) else total
