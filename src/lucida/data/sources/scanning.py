"""Where the records of a JSON array begin and end, found without holding the file.

    bytes ─chunks─▶ quotes, brackets, line ends ─numpy─▶ places [records, 3]: begin, end, line

A place is in bytes from the start of the file; lines count from 1. Memory is one chunk and the
places. `array_places` understands what it needs of JSON (strings, brackets) and nothing else: it
gives None where a file is not an array of objects, and the caller reads that file slowly to say
what is wrong with it. `lines` does the same for lines and for rows of tables.
"""

from __future__ import annotations

import codecs
import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucida.core.errors import DataError, shorten

CHUNK = 1 << 20
"""Bytes looked at together: they and what is derived from them stay in the processor's cache."""
LONGEST_RUN = 1 << 20
"""Backslashes or quotes in a row that are followed."""
THREADS = min(4, os.cpu_count() or 1)
NEWLINE, QUOTE, BACKSLASH = 10, 34, 92
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

BRACKETS = b"[]{}"
_STEP = np.zeros(256, dtype=np.int64)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_BETWEEN = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_OPENING = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*")
_CLOSING = re.compile(rb"[ \t\r\n]*\]")
_ROOM = threading.local()
"""Memory of each thread for its masks, used again and again."""
_ALIKE = 16
"""Longest text between two records that is compared in one go with its neighbours."""


def array_places(path: Path) -> np.ndarray | None:
    """Place of each object of a JSON array; None where the file is anything else.

    Strings are not checked, so a broken record shows when it is read. DataError where anything but
    space stands behind the array, UnicodeDecodeError when the file is not UTF-8.
    """
    return _ArrayScan(path).places()


def refuse_more(path: Path, end: int) -> None:
    """DataError unless nothing but space stands from here to the end of the file."""
    with path.open("rb") as file:
        file.seek(end)
        while content := file.read(CHUNK):
            if rest := content.strip(b" \t\r\n"):
                at = file.tell() - len(content) + content.index(rest[:1])
                raise DataError(
                    f"the JSON array ends at byte {end}, and the file goes on behind it",
                    given=shorten(rest[:60].decode("utf-8", "replace")),
                    origin=f"{path}: byte {at}",
                    remedy="files that were joined become one array, or one record in each line "
                    "without any brackets around; records that are lists stand in an array",
                )


class _ArrayScan:
    """State between the chunks of an array."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside, self.depth, self.line = 0, 0, 1
        self.begins: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.lines: list[np.ndarray] = []
        self.last = -1  # the byte behind the last complete record
        self.open = -1  # where a record that is not complete began
        self.ended = False

    def places(self) -> np.ndarray | None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        start = start_of(self.path)
        with self.path.open("rb") as file:
            for look in _looks(self.path, start):
                text = look.chunk.base
                if not text.isascii() or decoder.getstate()[0]:
                    decoder.decode(text)
                if not self._take(look, file):
                    return None
                if self.ended:
                    break
            else:
                decoder.decode(b"", final=True)
        if not self.ended or not self.begins:
            return None
        begin, end = np.concatenate(self.begins), np.concatenate(self.ends)
        if not len(begin) or len(begin) != len(end):
            return None
        return np.stack([begin, end, np.concatenate(self.lines)], axis=1).astype(np.int64)

    def _take(self, look: _Look, file) -> bool:
        """Adds the records of a chunk; False when this is no array of objects."""
        offset, chunk, newlines = look.offset, look.chunk, look.newlines
        # A chunk is looked at as if it began outside of a string, by any thread, before anybody
        # knows. If the chunk before ended inside of one, inside and outside are the other way round
        # in all of it.
        inside = ~look.inside if self.inside else look.inside
        # The bits behind the end of the chunk repeat the last one.
        self.inside = int(inside[-1] >> np.uint64(63))
        marks = _places_of(look.brackets & ~inside)
        where, step = marks, _STEP[chunk[marks]]
        # 0 outside of the array, 1 between its records, 2 in a record, more in what a record holds.
        depth = self.depth + np.cumsum(step)
        closed = np.flatnonzero(depth == 0)
        if len(closed):
            self.ended = True
            refuse_more(self.path, int(marks[closed[0]]) + offset + 1)
            where, step, depth = where[: closed[0]], step[: closed[0]], depth[: closed[0]]
        begin = where[(depth == 2) & (step > 0)]
        end = where[(depth == 1) & (step < 0)] + 1
        lines = np.searchsorted(newlines, begin) + self.line
        self.line += len(newlines)
        self.depth = int(depth[-1]) if len(depth) else self.depth
        begin, end = begin + offset, end + offset
        if not self._only_commas_between(begin, end, chunk, offset, file):
            return False
        self.begins.append(begin)
        self.ends.append(end)
        self.lines.append(lines)
        if not self.ended:
            return True
        behind = int(marks[closed[0]]) + offset + 1
        return _CLOSING.fullmatch(_read(file, self.last, behind)) is not None

    def _only_commas_between(
        self, begin: np.ndarray, end: np.ndarray, chunk: np.ndarray, offset: int, file
    ) -> bool:
        """Whether nothing but a comma stands between records, and nothing before the first."""
        if not len(begin):
            if len(end):
                self.last, self.open = int(end[-1]), -1
            return True
        # What stands before each begin: the end of the record before it.
        before = np.concatenate([[self.last], end])
        if self.open >= 0:  # the record that is open ends in this chunk, before the first begin
            before = before[1:]
        before = before[: len(begin)]
        if len(before) != len(begin):
            return False
        first = self.last < 0 and self.open < 0
        self.open = int(begin[-1]) if len(end) == 0 or end[-1] < begin[-1] else -1
        self.last = int(end[-1]) if len(end) else self.last
        if first:
            opening = _read(file, start_of(self.path), int(begin[0]))
            if _OPENING.fullmatch(opening) is None:
                return False
            before, begin = before[1:], begin[1:]
        # Nearly all gaps are alike (",\n  "): of each length one is read, and the others are
        # compared with it as arrays; odd ones, and those that begin in an earlier chunk, are read
        # one by one.
        known: set[int] = set()
        slow = (before < offset) | (begin - before > _ALIKE)
        for length in np.unique((begin - before)[~slow]).tolist():
            chosen = before[~slow & (begin - before == length)] - offset
            rows = chunk[chosen[:, None] + np.arange(length)]
            known.update(chosen[(rows != rows[0]).any(axis=1)].tolist())
            known.add(int(chosen[0]))
        odd = slow | np.isin(before - offset, list(known))
        return all(
            _BETWEEN.fullmatch(_read(file, int(before[n]), int(begin[n])))
            for n in np.flatnonzero(odd)
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """What a chunk shows by itself. inside, brackets: a bit for each byte; `inside` holds if the
    chunk does not begin in a string, and its opposite if it does."""

    offset: int
    chunk: np.ndarray
    inside: np.ndarray
    brackets: np.ndarray
    newlines: np.ndarray


def _looks(path: Path, start: int) -> Iterator[_Look]:
    """A look at every chunk, in order; threads look ahead (numpy leaves them the processors)."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[_Look]] = deque()
        try:
            for offset, chunk in chunks(path, start):
                waiting.append(pool.submit(_look, offset, chunk))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _look(offset: int, chunk: np.ndarray) -> _Look:
    masks = getattr(_ROOM, "masks", None)
    if masks is None or masks.shape[1] < len(chunk):
        masks = _ROOM.masks = np.empty((2, len(chunk)), dtype=bool)
    mask, other = masks[0, : len(chunk)], masks[1, : len(chunk)]
    newlines = np.flatnonzero(np.equal(chunk, NEWLINE, out=mask))
    np.equal(chunk, QUOTE, out=mask)
    np.equal(chunk, BACKSLASH, out=other)
    other[:-1] &= mask[1:]
    behind = 1 + np.flatnonzero(other[:-1])
    mask[behind[_find_escaped(chunk, behind)]] = False
    inside = running_parity(_bits(mask))
    np.equal(chunk, BRACKETS[0], out=mask)
    for bracket in BRACKETS[1:]:
        mask |= np.equal(chunk, bracket, out=other)
    return _Look(offset, chunk, inside, _bits(mask), newlines)


def _places_of(words: np.ndarray) -> np.ndarray:
    """Numbers of the bits that are set."""
    # Most words have no bit, so only the others are unpacked. ones >> 6 is the word, ones & 63 the
    # bit.
    full = np.flatnonzero(words)
    ones = np.unpackbits(words[full].view(np.uint8), bitorder="little").view(bool).nonzero()[0]
    return (full[ones >> 6] << 6) + (ones & 63)


def _bits(mask: np.ndarray) -> np.ndarray:
    """A mask as 64-bit words, the first place lowest; what is left of the last one is 0."""
    words = np.zeros(-(-len(mask) // 64), dtype="<u8")
    packed = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def running_parity(words: np.ndarray) -> np.ndarray:
    """For each bit, whether the bits up to it are odd in number.

    Over the quotes of a text: which bytes are inside a string, 64 at a time. Worked example: the
    word ...0010010 gives ...0001110.

    Reference: Langdale & Lemire, Parsing Gigabytes of JSON per Second, 2019, arXiv 1902.08318,
    section 3.1.1.
    """
    parity = words.copy()
    # A prefix XOR: after shifts of 1, 2, … 32 bit k is the parity of bits 0 to k of its word; then
    # each word is turned over whose predecessors are odd together.
    for shift in (1, 2, 4, 8, 16, 32):
        parity ^= parity << np.uint64(shift)
    odd = np.bitwise_xor.accumulate(np.append(np.uint64(0), parity >> np.uint64(63)))[:-1]
    return parity ^ (np.uint64(0) - odd)


def _find_escaped(chunk: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """Which quotes stand behind an odd number of backslashes (chunks never end in one)."""
    odd = np.zeros(len(quotes), dtype=bool)
    # Goes back sign by sign from all quotes at once; `run` are those that have met only
    # backslashes.
    run, far = np.arange(len(quotes)), 1
    while len(run):
        back = quotes[run] - far
        run = run[(back >= 0) & (chunk[np.maximum(back, 0)] == BACKSLASH)]
        odd[run] ^= True
        far += 1
    return odd


def refuse_other_encodings(start: bytes, path: object) -> None:
    """Names what is no text, or text in another encoding, before it fails record by record. `start`
    has the file's own first bytes: behind a mark of UTF-8 nothing is in doubt."""
    if start.startswith(BYTE_ORDER_MARK):
        return
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")):
        remedy = "unpack it first"
        raise DataError("the data file is compressed", origin=path, remedy=remedy)
    if start.startswith(b"version https://git-lfs"):
        remedy = "run `git lfs pull` in its repository"
        raise DataError("this is a Git LFS pointer, not data", origin=path, remedy=remedy)
    # Without a mark, one of the first two letters of ASCII in UTF-16 or UTF-32 has a zero byte.
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        remedy = "convert the file to UTF-8"
        raise DataError("not UTF-8 (UTF-16 or UTF-32)", origin=path, remedy=remedy)


def start_of(path: Path) -> int:
    """Where the text of a file begins: behind its byte order mark, if it has one."""
    with path.open("rb") as file:
        return 3 if file.read(3) == BYTE_ORDER_MARK else 0


def _read(file, begin: int, end: int) -> bytes:
    file.seek(max(0, begin))
    return file.read(end - max(0, begin))


def chunks(path: Path, start: int, whole: bytes = b"\\") -> Iterator[tuple[int, np.ndarray]]:
    """(offset, bytes) of pieces of a file; none but the last ends in the sign `whole`. DataError
    for a run of that sign that no text has."""
    with path.open("rb") as file:
        file.seek(start)
        offset, rest = start, b""
        while more := file.read(CHUNK):
            content = rest + more
            # A backslash at a chunk's end would part from the quote that it escapes, a quote from
            # its double.
            body = content.rstrip(whole)
            rest = content[len(body) :]
            if len(rest) > LONGEST_RUN:
                message = f"more than {LONGEST_RUN:,} signs {whole.decode()} in a row"
                raise DataError(message, origin=f"{path}: byte {offset + len(body)}")
            if body:
                yield offset, np.frombuffer(body, dtype=np.uint8)
                offset += len(body)
        if rest:
            yield offset, np.frombuffer(rest, dtype=np.uint8)
