"""Where the members of tar files stand: read in place, never extracted.

shard.tar ─headers─▶ [(name, begin, size)]      (file, begin, size) ─▶ bytes

The headers are read here and not by Python's `tarfile`, which takes a hole in a file for its end
and follows sizes below zero back to where it came from, for ever (CVE-2025-8194).

Reference: IEEE Std 1003.1-2017, pax Interchange Format; GNU tar manual, Basic Tar Format.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lucida.core.errors import DataError
from lucida.data.sources.remote import Remote

BLOCK = 512
ZEROS = bytes(BLOCK)
LARGEST_HEADER = 1 << 20
"""Bytes of an extended header; those of real files have a few hundred."""
LONGEST_END = 1 << 20
"""Zeros behind the last member: tar pads to 10 KB, and a file that was allocated and never filled
has more of them."""
FILES = (b"0", b"\0", b"7")
PASSED_OVER = {
    b"1": "hard links", b"2": "symbolic links", b"3": "devices", b"4": "devices", b"6": "pipes",
    b"S": "sparse files",
}  # fmt: skip
FOLDER = b"5"
_LONG_NAME, _LONG_LINK, _OWN, _EVERY = b"L", b"K", (b"x", b"X"), b"g"


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header says; `size` counts the bytes that stand behind it."""

    name: str
    kind: bytes
    size: int


def stream_members(
    stream: BinaryIO, size: int, origin: Path | str, passed: Counter[str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """Name, begin and size of each regular member of an open file of this size, which is only read
    forward from header to header. The caller may read a member's bytes from it as soon as the
    member is given. Links, devices and sparse files are passed over, which `passed` counts: a name
    is only ever a name here. DataError where the file is cut short, has a hole or is no tar file.
    """
    name, at = "none", stream.tell()
    own: dict[str, str] = {}
    every: dict[str, str] = {}
    try:
        while (header := _header_at(stream, at)) is not None:
            begin = at + BLOCK
            if header.kind in (_LONG_NAME, _LONG_LINK, *_OWN, _EVERY):
                content = _read_extended(stream, begin, header, size)
                if header.kind == _LONG_NAME:
                    own["path"] = _text(content.split(b"\0", 1)[0])
                elif header.kind != _LONG_LINK:
                    (every if header.kind == _EVERY else own).update(_records(content))
                at = begin + _blocks(header.size)
                continue
            # What holds for one member goes before what a global header says of all.
            told = every | own
            own = {}
            name = told["path"].rstrip("/") if "path" in told else header.name
            there = _size(told.get("size"), header)
            folder = header.kind == FOLDER or (header.kind == b"\0" and header.name.endswith("/"))
            # No body stands behind them. POSIX has them say zero; some writers give the size of the
            # file that a link leads to.
            linked = header.kind in (b"1", b"2", b"3", b"4", b"6") or folder
            if not linked and there > size - begin:
                raise ValueError("the file is cut short")
            # A sparse file in pax form looks like a plain one, and its body begins with a map of
            # its holes.
            if told and any(key.startswith("GNU.sparse.") for key in told):
                header = _Header(name, b"S", there)
            if header.kind in FILES and not folder:
                yield name, begin, there
            elif not folder and passed is not None:
                passed[PASSED_OVER.get(header.kind, "members of an unknown type")] += 1
            at = begin + (0 if linked else _blocks(there))
            if header.kind == b"S":
                at += _sparse_map(stream, begin - BLOCK)
        if own:
            raise ValueError("the file ends behind an extended header")
        _check_end(stream, at, size)
    except (OSError, ValueError) as error:
        remedy = "download it again; a compressed one has to be unpacked to a plain tar"
        message = f"cannot read the tar file behind the member {name}: {error}"
        raise DataError(message, origin=origin, remedy=remedy) from error


def _header_at(stream: BinaryIO, at: int) -> _Header | None:
    """The header that stands here, None for a block of zeros. ValueError: damage, or the end."""
    stream.seek(at)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError("the file is cut short")
    return None if block == ZEROS else _parse_header(block)


def _parse_header(block: bytes) -> _Header:
    told = _number(block[148:156])
    # The checksum is the sum of the bytes with blanks in its own place. Adler's first half is 1 and
    # that sum modulo 65,521, many times faster than adding them here.
    plain = told + sum(block[148:156]) - 8 * ord(" ")
    if (1 + plain) % 65521 != zlib.adler32(block) & 0xFFFF and told != _signed_sum(block):
        raise ValueError("a damaged header")
    name, kind = block[:100].split(b"\0", 1)[0], block[156:157]
    if block[345] and kind != b"S":  # GNU's sparse files keep their map there
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return _Header(_text(name), kind, _number(block[124:136]))


def _number(field: bytes) -> int:
    """A number as octal digits or, behind a byte of 128 or 255, as its own bits."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise ValueError(f"a damaged header: {digits!r} is no number") from None


def _signed_sum(block: bytes) -> int:
    """What some old writers take for the checksum: bytes above 127 count below zero."""
    around = block[:148] + block[156:]
    return 8 * ord(" ") + sum(byte - 256 if byte > 127 else byte for byte in around)


def _size(told: str | None, header: _Header) -> int:
    """Bytes of a member; an extended header knows better. ValueError: no size."""
    size = header.size if told is None else int(told)
    if size < 0:
        raise ValueError(f"a member of {size} bytes")
    return size


def _read_extended(stream: BinaryIO, begin: int, header: _Header, size: int) -> bytes:
    if not 0 <= header.size <= min(LARGEST_HEADER, size - begin):
        raise ValueError(f"an extended header of {header.size} bytes")
    stream.seek(begin)
    content = stream.read(header.size)
    if len(content) < header.size:
        raise ValueError("the file is cut short")
    return content


def _records(content: bytes) -> dict[str, str]:
    """Keys and values of a pax header: `LENGTH KEY=VALUE` and a line feed, one after the other."""
    found, at = {}, 0
    while at < len(content) and content[at] != 0:
        # The length counts itself, and stands within 20 bytes: a value may be long.
        digits, blank, _ = content[at : at + 20].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = content[at + len(digits) + 1 : at + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n") or at + length > len(content):
            raise ValueError("a damaged extended header")
        found[_text(key)] = _text(value)
        at += length
    return found


def _sparse_map(stream: BinaryIO, at: int) -> int:
    """Bytes of the blocks behind a header that go on with the map of an old sparse file."""
    stream.seek(at)
    block, more = stream.read(BLOCK), 0
    goes_on = block[156:157] == b"S" and block[482] != 0
    while goes_on:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise ValueError("the file is cut short")
        goes_on, more = block[504] != 0, more + BLOCK
    return more


def _check_end(stream: BinaryIO, at: int, size: int) -> None:
    """ValueError unless two blocks of zeros and nothing but zeros stand here to the end."""
    if size - at > LONGEST_END:
        raise ValueError(
            f"{size - at:,} bytes stand behind a block of zeros: a hole, or archives that were "
            "joined, or a file that was allocated and never filled"
        )
    stream.seek(at)
    rest = stream.read(size - at)
    if len(rest) < 2 * BLOCK:
        raise ValueError("the file is cut short: two blocks of zeros end a tar file")
    if rest.strip(b"\0"):
        raise ValueError("a hole of zeros, or archives that were joined")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def read_member(file: Path | Remote, begin: int, size: int) -> bytes:
    """The bytes of a member. DataError when the file has changed or is gone."""
    if isinstance(file, Remote):
        return file.read(begin, size)
    try:
        with file.open("rb") as stream:
            stream.seek(begin)
            content = stream.read(size)
    except OSError as error:
        message = f"cannot read the tar file: {error.strerror or error}"
        raise DataError(message, origin=file) from error
    if len(content) < size:
        raise DataError("the tar file is cut short", expected=size, given=len(content), origin=file)
    return content


def member_name(file: Path | Remote, begin: int, origin: str) -> str:
    """The name of the member whose bytes begin here, from the header before them.

    A name of more than 100 characters may come shortened; img2dataset's have nine.
    """
    header = read_member(file, max(0, begin - BLOCK), BLOCK)
    try:
        return _parse_header(header).name
    except ValueError as error:
        raise DataError(f"the tar file has changed: {error}", origin=origin) from error
