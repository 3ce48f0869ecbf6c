"""Records of JSON, JSONL and plain line files by number, read when they are asked for.

    Records(files)[n] ─▶ (text of record n, "file.json: record n (line m)")

The files are looked through once for where records begin (`scanning`), which is remembered
(`sidecar`); memory holds 24 bytes a record, mapped, and none of the text.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sources.lines import line_places, refuse_returns, row_places
from lucida.data.sources.scanning import (
    BYTE_ORDER_MARK,
    array_places,
    refuse_more,
    refuse_other_encodings,
)
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.values import json_value
from lucida.data.sources.zipped import is_zip, line_places_of_zip, read_zip

JUNK = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that systems leave in folders; they are ignored."""
LONGEST_ENDING = 12
_SPACE = re.compile(r"[ \t\r\n]*")


def files_of(pattern: str | Path, endings: tuple[str, ...] = ()) -> list[Path]:
    """The files that a path, a folder or a pattern means, in the order of their names.

    DataError when there is none. A path that exists is never taken as a pattern.
    """
    path = Path(pattern)
    if path.is_dir() and endings:
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in endings)
    elif path.exists() or not glob.has_magic(str(path)):
        found = [path]
    else:
        found = _matching(path)
    if not found:
        remedy = "check `path` of the source"
        raise DataError("no file is meant by this path", origin=pattern, remedy=remedy)
    return found


def unread_files(path: str | Path, endings: tuple[str, ...]) -> dict[str, int]:
    """How many files of a folder `files_of` passes over, by ending; of no folder none."""
    if not Path(path).is_dir():
        return {}
    names = (file for _, _, files in os.walk(path) for file in files if file not in JUNK)
    found = Counter(Path(name).suffix.lower() for name in names)
    return {not_read(ending): many for ending, many in found.items() if ending not in endings}


def not_read(ending: str) -> str:
    """How files of an ending that no reader takes are told."""
    return f"files that are not read ({ending[:LONGEST_ENDING] or 'no ending'})"


def _matching(pattern: Path) -> list[Path]:
    """Files that a pattern means; the search begins in the folder before its first sign."""
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    rest = pattern.parts[len(fixed) :]
    return sorted(path for path in Path(*fixed).glob(str(Path(*rest))) if path.is_file())


class Records:
    """Texts of records in one file or several.

    `lines` takes every line as a record; with a `delimiter` records are the rows of a CSV;
    otherwise a file that begins with `[` is a JSON array. Lines may stand in a zip archive
    (`zipped`). DataError: a file that cannot be read, an array that is broken (with record and
    line), files without records.
    """

    def __init__(
        self, files: list[Path], lines: bool = False, delimiter: str | None = None
    ) -> None:
        self.files = files
        self._places = [_places(file, lines, delimiter) for file in files]
        sizes = [len(each.array) for each in self._places]
        self._first = [0, *np.cumsum(sizes).tolist()]
        if not self._first[-1]:
            raise DataError("the data file has no records", origin=files[0])

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> tuple[str, str]:
        """Text and origin of a record. DataError when it is not UTF-8."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._first, index) - 1
        file, own = self.files[number], index - self._first[number]
        begin, end, line = self._places[number].array[own].tolist()
        origin = f"{file}: record {own} (line {line})"
        try:
            if is_zip(file):
                content = read_zip(file, begin, end)
            else:
                with file.open("rb") as stream:
                    stream.seek(begin)
                    content = stream.read(end - begin)
        except OSError as error:
            message = f"cannot read the data file: {error.strerror or error}"
            raise DataError(message, origin=origin) from error
        try:
            return content.decode("utf-8"), origin
        except UnicodeDecodeError as error:
            remedy = "convert the file to UTF-8"
            raise DataError(f"not UTF-8: {error}", origin=origin, remedy=remedy) from error

    def value(self, index: int) -> tuple[Any, str]:
        """JSON value and origin of a record. DataError when it is broken."""
        text, origin = self[index]
        remedy = "a file without a leading [ holds one record in each line; correct this one"
        return json_value(text, origin, remedy), origin

    def file_of(self, index: int) -> int:
        """Number of the file that a record stands in."""
        return bisect_right(self._first, index) - 1

    @property
    def starts(self) -> list[int]:
        """Number of the first record of each file that has any."""
        return sorted({first for first in self._first[:-1] if first < len(self)})


def _places(path: Path, lines: bool, delimiter: str | None) -> Sidecar:
    try:
        if is_zip(path):
            if delimiter is not None:
                raise DataError("a zipped CSV is not read", origin=path, remedy="unpack it")
            return Sidecar("zip", [path], lambda: line_places_of_zip(path))
        with path.open("rb") as file:
            start = file.read(1 << 16)
        refuse_other_encodings(start, path)
        start = start.removeprefix(BYTE_ORDER_MARK)
        if delimiter is not None:
            what = f"rows {delimiter!r}"
            return Sidecar(what, [path], lambda: refuse_returns(row_places(path, delimiter), path))
        if lines or not start.lstrip(b" \t\r\n").startswith(b"["):
            return Sidecar("lines", [path], lambda: refuse_returns(line_places(path), path))
        return Sidecar("array", [path], lambda: _array(path))
    except OSError as error:
        message = f"cannot read the data file: {error.strerror or error}"
        remedy = "check `path` of the source"
        raise DataError(message, origin=path, remedy=remedy) from error


def _array(path: Path) -> np.ndarray:
    try:
        places = array_places(path)
        return array_places_slowly(path) if places is None else places
    except UnicodeDecodeError as error:
        remedy = "convert the file to UTF-8"
        raise DataError(f"not UTF-8: {error}", origin=path, remedy=remedy) from error


def array_places_slowly(path: Path) -> np.ndarray:
    """Places of an array's values as a JSON parser finds them, with the whole text in memory.

    For arrays that `array_places` does not follow: DataError names the record and line that is
    broken; an array of other values than objects has places as well.
    """
    text = path.read_bytes().decode("utf-8")
    decoder, places = json.JSONDecoder(), []
    at = text.index("[") + 1
    passed, line = len(text[:at].encode()), 1 + text.count("\n", 0, at)
    last = at
    while True:
        at = _SPACE.match(text, at).end()
        if text[at : at + 1] == "]" and not places:
            break
        try:
            _, end = decoder.raw_decode(text, at)
            follows = _SPACE.match(text, end).end()
            if text[follows : follows + 1] not in (",", "]"):
                raise json.JSONDecodeError("expected , or ]", text, follows)
        except (ValueError, RecursionError) as error:
            message = f"broken JSON: {error}"
            remedy = "the file may be cut short; download it again or correct this line"
            origin = f"{path}: record {len(places)}"
            raise DataError(message, origin=origin, remedy=remedy) from error
        # Places are bytes, `at` and `end` are characters: what lies between is encoded to be
        # counted.
        passed += len(text[last:at].encode())
        line += text.count("\n", last, at)
        length = len(text[at:end].encode())
        places.append((passed, passed + length, line))
        passed, line, last = passed + length, line + text.count("\n", at, end), end
        if text[follows] == "]":
            at = follows
            break
        at = follows + 1
    passed += len(text[last:at].encode())
    refuse_more(path, passed + len("]"))
    return np.array(places, dtype=np.int64).reshape(-1, 3)
