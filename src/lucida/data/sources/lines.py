"""Where the lines of a text and the rows of a CSV begin and end, found without holding the text.

    bytes ─chunks─▶ line ends, quotes ─numpy─▶ places [records, 3]: begin, end, line

A line ends at a line feed and nowhere else: U+2028 and its like, form feeds and lone carriage
returns are text. (`refuse_returns`: a file that has no line feed but carriage returns within is no
single line.) A row ends where Python's csv module ends it: a quote that begins a field opens
it, and a line feed inside such quotes is text; any other quote is a sign like others. `fields_of`
reads what lies between by the same module, so the two cannot disagree.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sources.scanning import NEWLINE, QUOTE, chunks, start_of

SPACE = b" \t\r\n\v\f"
SHORT = 64
"""Bytes of a line that is looked at for being blank: a longer one is a record."""
LONGEST_FIELD = 2**31 - 1
"""Signs of a field of a CSV: pictures in base64 are long."""


def line_places(path: Path) -> np.ndarray:
    """Place of each line that is not blank.

    Worked example: the file "a\\n\\nbc" has the places [[0, 1, 1], [3, 5, 3]].
    """
    found = Lines(start_of(path))
    for offset, chunk in chunks(path, start_of(path)):
        ends = np.flatnonzero(chunk == NEWLINE)
        found.take(offset, chunk, ends, ends)
    return found.places()


def row_places(path: Path, delimiter: str) -> np.ndarray:
    """Place of each row of a CSV that is not empty; the line is the one that it begins in.

    Worked example: 'a,"b\\nc"\\n5",d' has the places [[0, 7, 1], [8, 12, 3]].
    """
    found, quotes = Lines(start_of(path), blank=b"\r\n"), _Quotes(delimiter)
    for offset, chunk in chunks(path, start_of(path), whole=b'"'):
        newlines = np.flatnonzero(chunk == NEWLINE)
        found.take(offset, chunk, newlines, quotes.outside(chunk, newlines))
    return found.places()


def refuse_returns(places: np.ndarray, path: Path) -> np.ndarray:
    """The places, as they are. DataError where the file would be one line, because its lines end in
    carriage returns alone."""
    if len(places) != 1 or places[0, 1] < path.stat().st_size:
        return places
    returns, last = 0, False
    for _, chunk in chunks(path, int(places[0, 0])):
        text = chunk.tobytes()
        if b"\n" in text:
            return places
        returns, last = returns + text.count(b"\r"), text.endswith(b"\r")
    if returns > last:
        raise DataError(
            "the lines end in carriage returns alone",
            expected="line feeds, with or without carriage returns before them",
            given=f"{returns:,} carriage returns and no line feed",
            origin=path,
            remedy="save the text with the line ends of Unix or Windows",
        )
    return places


def fields_of(row: str, delimiter: str, origin: str) -> list[str]:
    """The fields of a row. DataError: text behind a closing quote, a quote that nothing closes, a
    carriage return that neither quotes enclose nor a line feed follows."""
    csv.field_size_limit(LONGEST_FIELD)
    try:
        rows = list(csv.reader([row], delimiter=delimiter, strict=True))
    except csv.Error as error:
        lines = row.count("\n")
        spans = f" (with the {lines:,} lines behind it, which it takes in)" if lines else ""
        remedy = "close the quote; one inside a quoted field is written twice"
        raise DataError(f"broken CSV: {error}{spans}", origin=origin, remedy=remedy) from error
    return rows[0] if rows else []


class Lines:
    """Places of lines, collected as their bytes come; 24 bytes each, and none of the text.

    Those that hold nothing but `blank` signs are passed over.
    """

    def __init__(self, start: int = 0, blank: bytes = SPACE) -> None:
        self.begin = self.end = start
        """Where the line that is open began; where the bytes that came end."""
        self._filled, self._line, self._passed = False, 1, 0
        self._found: list[np.ndarray] = []
        self._blank = blank
        self._fills = np.ones(256, dtype=bool)
        self._fills[list(blank)] = False

    def take(self, offset: int, chunk: np.ndarray, newlines: np.ndarray, ends: np.ndarray) -> None:
        """Bytes that stand at `offset`; of their newlines, those that end a line (places in the
        chunk, both)."""
        self.end = offset + len(chunk)
        if not len(ends):
            self._filled = self._filled or bool(chunk.tobytes().strip(self._blank))
            self._passed += len(newlines)
            return
        begins = np.concatenate([[self.begin], ends[:-1] + offset + 1])
        # Newlines inside quotes count as lines of the file, though they end no row.
        later = self._passed + 1 + np.searchsorted(newlines, ends, side="right")
        lines = np.concatenate([[self._line], later[:-1]])
        places = np.stack([begins, ends + offset, lines], axis=1).astype(np.int64)
        if (short := places[:, 1] - places[:, 0] < SHORT).any():
            # How many signs that are not blank stand before each place: of every line by one
            # subtraction. The first line may have begun in an earlier chunk, which `_filled`
            # remembers.
            filled = np.concatenate([[0], np.cumsum(self._fills[chunk], dtype=np.int32)])
            many = filled[ends] - filled[np.concatenate([[0], ends[:-1]])]
            many[0] += self._filled
            places = places[~short | (many > 0)]
        self._found.append(places)
        rest = int(ends[-1]) + 1
        self.begin, self._line = offset + rest, int(later[-1])
        self._filled = bool(chunk[rest:].tobytes().strip(self._blank))
        self._passed += len(newlines)

    def places(self) -> np.ndarray:
        """Begin, end and number of every line, int64 [lines, 3]; the last may lack its end."""
        if self.begin < self.end and (self._filled or self.end - self.begin >= SHORT):
            self._found.append(np.array([[self.begin, self.end, self._line]]))
        return np.concatenate([np.zeros((0, 3), np.int64), *self._found])


class _Quotes:
    """Which newlines stand outside of quoted fields, chunk after chunk (none ends in a quote)."""

    def __init__(self, delimiter: str) -> None:
        self._openers = np.zeros(256, dtype=bool)
        self._openers[[ord(delimiter), NEWLINE]] = True
        self._closers = self._openers.copy()
        self._closers[ord("\r")] = True
        self._inside, self._last = 0, NEWLINE

    def outside(self, chunk: np.ndarray, newlines: np.ndarray) -> np.ndarray:
        quotes = np.flatnonzero(chunk == QUOTE)
        if len(quotes):
            before = np.where(quotes > 0, chunk[quotes - 1], self._last)
            after = chunk[np.minimum(quotes + 1, len(chunk) - 1)]
            after = np.where(quotes + 1 < len(chunk), after, NEWLINE)
            # All at once if every quote is where a well-formed file has one; a loop over them only
            # if not.
            opens = (np.arange(len(quotes)) + self._inside) % 2 == 0
            # In a well-formed file quotes open and close in turn, and a doubled one does both.
            fits = np.where(opens, self._openers[before], self._closers[after])
            fits |= np.where(opens, before, after) == QUOTE
            if not fits.all():
                quotes = self._turns(quotes, before, after)
        inside = (np.searchsorted(quotes, newlines) + self._inside) % 2 == 1
        self._inside = (self._inside + len(quotes)) % 2
        self._last = int(chunk[-1])
        return newlines[~inside]

    def _turns(self, quotes: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Those that open or close a field, told one by one: the others are signs like others."""
        inside, pair, found = bool(self._inside), -1, []
        opens = self._openers[before].tolist()
        doubled = (after == QUOTE).tolist()
        for place, opener, double in zip(quotes.tolist(), opens, doubled, strict=True):
            # The second half of a doubled quote, which was dealt with.
            if place == pair:
                continue
            if inside and double:
                pair = place + 1
            elif inside or opener:
                found.append(place)
                inside = not inside
        return np.array(found, dtype=np.int64)
