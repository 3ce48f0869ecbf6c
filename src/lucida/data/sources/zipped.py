"""The text inside a zip archive, as MMC4 is published, read at any place without extracting it.

    docs_shard_0_v2.jsonl.zip ─one pass─▶ where its lines begin (remembered, as of any text file)
    first read in a process   ─one pass─▶ the state of the unpacking every few megabytes
    a record                  ─────────▶ unpacked from the state before it: 4 MB at most

A packed text cannot be entered in the middle, so what makes it possible are copies of the unpacking
itself (45 KB each), which live in the process that made them. A process holds those of the last few
archives. Where order mixes very many archives, unpacked ones are faster.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sources.lines import Lines
from lucida.data.sources.scanning import BYTE_ORDER_MARK, CHUNK, NEWLINE, refuse_other_encodings
from lucida.data.sources.sidecar import file_version

APART = 4 << 20
"""Bytes of text between two states."""
LONGEST = 1 << 28
"""Bytes of a line: a longer one is no record but a bomb."""
HARMLESS, MOST_TIMES = 48 << 20, 200
"""Bytes that any archive may unpack to, and how many times its size a larger one may: text packs
to a third or a tenth."""
HELD = 32
"""Archives whose states a process holds."""
PACKED = 1 << 16
"""Packed bytes that are read at a time."""
END_RECORD = 22
"""Bytes of the record that ends an archive, without its comment."""
LONGEST_END = END_RECORD + (1 << 16)
_LOCAL_HEADER = struct.Struct("<4s22xHH")

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, LookupError, OverflowError,
    NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip
"""What the standard library raises for archives that are cut or made up."""
_states: OrderedDict[str, list[tuple[int, int, Any]]] = OrderedDict()


def is_zip(path: Path) -> bool:
    """Whether this is the name of an archive."""
    return path.suffix.lower() == ".zip"


def ending(path: Path) -> str:
    """What the name of a file ends in, of an archive that of the text inside: a.jsonl.zip is
    .jsonl."""
    return Path(path.stem if is_zip(path) else path.name).suffix.lower()


def line_places_of_zip(path: Path) -> np.ndarray:
    """Place of each line of the text that is not blank, as `lines.line_places` has them; all of it
    is unpacked once and its checksum compared. DataError: damaged archives, arrays, bombs."""
    with _opened(path) as (archive, member), archive.open(member) as text:
        _refuse_bombs(member, path)
        start = text.read(PACKED)
        _refuse_unread(start, path)
        found = Lines(len(BYTE_ORDER_MARK) if start.startswith(BYTE_ORDER_MARK) else 0)
        for content in chain([start[found.begin :]], iter(lambda: text.read(CHUNK), b"")):
            chunk = np.frombuffer(content, dtype=np.uint8)
            ends = np.flatnonzero(chunk == NEWLINE)
            found.take(found.end, chunk, ends, ends)
            if found.end - found.begin > LONGEST:
                expected = f"at most {LONGEST:,} bytes"
                origin = f"{path}: byte {found.begin} of the text"
                raise DataError("a line is too long", expected=expected, origin=origin)
        return found.places()


def _refuse_bombs(member: zipfile.ZipInfo, path: Path) -> None:
    if member.file_size > max(HARMLESS, MOST_TIMES * member.compress_size):
        raise DataError(
            "the archive unpacks to more than text does",
            expected=f"at most {MOST_TIMES} times its {member.compress_size:,} bytes",
            given=f"{member.file_size:,} bytes",
            origin=path,
            remedy="unpack it, if it is what you want",
        )


def _refuse_unread(start: bytes, path: Path) -> None:
    refuse_other_encodings(start, path)
    if start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
        remedy = "unpack it: of archives only those with a record in each line are read"
        raise DataError("a JSON array in a zip archive", origin=path, remedy=remedy)


def read_zip(path: Path, begin: int, end: int) -> bytes:
    """The bytes of the text from `begin` to `end`."""
    with _opened(path) as (_, member):
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(_begin(file, member) + begin)
                return _whole(file.read(end - begin), end - begin, path)
        states = _states_of(path, member)
        at, packed, state = states[bisect_right(states, begin, key=lambda each: each[0]) - 1]
        # The state itself is kept as it is for the next reader; the copy costs 45 KB.
        unpacking, pieces = state.copy(), []
        with path.open("rb") as file:
            file.seek(packed)
            while at < end and not unpacking.eof and (content := file.read(PACKED)):
                piece = unpacking.decompress(content)
                pieces.append(piece[max(0, begin - at) : end - at])
                at += len(piece)
    return _whole(b"".join(pieces), end - begin, path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """An archive and the one file in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_joined(archive, path)
            inside = [each for each in archive.infolist() if not each.is_dir()]
            if len(inside) != 1:
                remedy = "unpack it"
                raise DataError(
                    "a zip archive of data holds one text file",
                    expected=1, given=len(inside), origin=path, remedy=remedy,
                )  # fmt: skip
            plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if inside[0].flag_bits & 1 or inside[0].compress_type not in plain:
                raise DataError(
                    "the archive is encrypted or packed in a way that is not read",
                    expected="stored or deflated", origin=path, remedy="unpack it",
                )  # fmt: skip
            yield archive, inside[0]
    except _DAMAGE as error:
        remedy = "it may be cut short; download it again"
        message = f"cannot read the zip archive: {error}"
        raise DataError(message, origin=path, remedy=remedy) from error


def _refuse_joined(archive: zipfile.ZipFile, path: Path) -> None:
    """DataError for bytes before the first member or behind the end: of archives that were joined
    only the last whole one would be read."""
    before = min((each.header_offset for each in archive.infolist()), default=0)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_END))
        tail = file.read()
    behind = len(tail) - tail.rfind(b"PK\x05\x06") - END_RECORD - len(archive.comment)
    if before or behind:
        raise DataError(
            "the zip archive has bytes before its first member or behind its end",
            expected="one archive and nothing else",
            given=f"{before:,} bytes before, {behind:,} behind",
            origin=path,
            remedy="archives that were joined have to be unpacked one by one",
        )


def _begin(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """First byte of a member's content."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("no member where the directory says there is one")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + name + extra


def _states_of(path: Path, member: zipfile.ZipInfo) -> list[tuple[int, int, Any]]:
    """(byte of the text, packed byte of the file, state), every `APART` bytes of text."""
    key = file_version(path)
    if key not in _states:
        _states[key] = _survey(path, member)
        while len(_states) > HELD:
            _states.popitem(last=False)
    _states.move_to_end(key)
    return _states[key]


def _survey(path: Path, member: zipfile.ZipInfo) -> list[tuple[int, int, Any]]:
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        packed = _begin(file, member)
        states, at = [(0, packed, unpacking.copy())], 0
        file.seek(packed)
        end = packed + member.compress_size
        # A state belongs to a packed byte at a read's end, so `packed` and `at` always fit each
        # other.
        while packed < end and (content := file.read(min(PACKED, end - packed))):
            at += len(unpacking.decompress(content))
            packed += len(content)
            if at >= states[-1][0] + APART:
                states.append((at, packed, unpacking.copy()))
    return states


def _whole(content: bytes, size: int, path: Path) -> bytes:
    if len(content) < size:
        message = "the zip archive is cut short"
        raise DataError(message, expected=size, given=len(content), origin=path)
    return content
