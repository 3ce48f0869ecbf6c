"""Where the members of tar files stand: read in place, never extracted.

shard.tar ─headers─▶ [(name, begin, size)]      (file, begin, size) ─▶ bytes
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lucida.core.errors import DataError
from lucida.data.sources.remote import Remote

_NUMBERS = re.compile(rb" *([0-7]+)[ \0]+")
_TIMES = re.compile(rb"(?:\d+ [amc]time=\d+(?:\.\d+)?\n)+")


def stream_members(
    stream: BinaryIO, size: int, origin: Path | str
) -> Iterator[tuple[str, int, int]]:
    """Name, begin and size of each regular member of an open file of this size, which is only read
    forward from header to header. The caller may read a member's bytes from it as soon as the
    member is given. Links and devices are passed over: a name is only ever a name here. DataError
    where the file is cut short or no tar file."""
    name, at = "none", stream.tell()
    try:
        if isinstance(stream, io.BufferedReader):  # a local file: one can look ahead in it
            for name, begin, length in plain_members(stream, size):
                yield name, begin, length
                at = begin + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            stream.seek(at)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                name = member.name
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("the file is cut short")
                if member.isreg() and not member.issparse():
                    yield name, member.offset_data, member.size
                tar.members.clear()  # otherwise every header stays in memory
            end = tar.offset
        # The library takes a damaged header for the end; the true end is a block of zeros.
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the file is cut short or damaged")
    except (OSError, tarfile.TarError, ValueError) as error:
        remedy = "download it again; a compressed one has to be unpacked to a plain tar"
        message = f"cannot read the tar file behind the member {name}: {error}"
        raise DataError(message, origin=origin, remedy=remedy) from error


def plain_members(stream: BinaryIO, size: int) -> Iterator[tuple[str, int, int]]:
    """Members from where the stream stands, up to the first thing that is no ordinary file: the
    library takes it from there. Several times as fast as the library, with the checksums.

    A pax header is passed over where it holds nothing but times, which is what Python's own writer
    puts before every member.
    """
    at = stream.tell()
    while True:
        stream.seek(at)
        header = stream.read(tarfile.BLOCKSIZE)
        begin = at + tarfile.BLOCKSIZE
        found = plain_header(header)
        if found is not None and header[156:157] == tarfile.XHDTYPE:
            times = stream.read(found[1]) if found[1] < tarfile.BLOCKSIZE else b""
            if _TIMES.fullmatch(times) is None:
                return
            begin += tarfile.BLOCKSIZE
            stream.seek(begin)
            header = stream.read(tarfile.BLOCKSIZE)
            begin += tarfile.BLOCKSIZE
            found = plain_header(header)
        if found is None or header[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            return
        name, length = found
        if name.endswith("/") or begin + length > size:
            return
        yield name, begin, length
        at = begin + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a header without extensions; None for any other one or a damaged one."""
    if len(header) < tarfile.BLOCKSIZE or header[345] or header[257:262] != b"ustar":
        return None
    numbers = _NUMBERS.fullmatch(header[124:136]), _NUMBERS.fullmatch(header[148:156])
    if None in numbers:
        return None
    length, told = (int(number[1], 8) for number in numbers)
    # The checksum is the sum of the bytes with blanks in its own place. Adler's first half is 1 and
    # that sum modulo 65,521, many times faster than adding them here.
    plain = told + sum(header[148:156]) - 8 * ord(" ")
    if (1 + plain) % 65521 != zlib.adler32(header) & 0xFFFF:
        return None
    return header[: header.index(b"\0")].decode("utf-8", "surrogateescape"), length


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
    header = read_member(file, max(0, begin - tarfile.BLOCKSIZE), tarfile.BLOCKSIZE)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except tarfile.HeaderError as error:
        raise DataError(f"the tar file has changed: {error}", origin=origin) from error
