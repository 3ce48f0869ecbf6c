"""Rows of tables by number: CSV, TSV, JSON and JSONL, parquet and Arrow.

    rows_of("x.csv")[n] ─▶ ({"image": "a.jpg", "text": "A kite."}, "x.csv: record n (line m)")

A text file is looked through once for where its rows begin. Arrow files are mapped, so any row
costs itself. Parquet can only be read by row group: the last few groups are held.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lucida.core.errors import DataError, suggestion
from lucida.data.sources.conversation import shortened
from lucida.data.sources.records import Records, files_of

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (".parquet", ".arrow")
GROUPS_HELD = 4
ARROW, BROKEN = -1, -2
"""In place of a row group: a whole Arrow file, a file that cannot be read."""


class Rows(Protocol):
    """Rows of files, in the order of their names."""

    files: list[Path]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]: ...

    def column(self, name: str) -> Iterator[Any]: ...


def rows_of(path: str | Path, columns: list[str] | None = None) -> Rows:
    """The rows of a file, folder or pattern; by the ending of its first file."""
    files = files_of(path, TABLES)
    endings = {file.suffix.lower() for file in files}
    if len(endings) > 1:
        given = ", ".join(sorted(endings))
        raise DataError("files of several formats in one source", given=given, origin=path)
    return TableRows(files) if endings <= set(TABLES) else TextRows(files, columns)


def require(package: str) -> Any:
    """A package of the extra `data`."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        remedy = "pip install 'lucida[data]'"
        raise DataError(f"this source needs {package}: {error}", remedy=remedy) from error


class TextRows:
    """Rows of CSV (quotes, also over line ends), TSV (a quote is text), JSON or JSONL.

    `columns` are the names in a CSV or TSV without a header line; with one, each file has its own,
    in any order, and `columns` become those of the first. DataError: a row with more or
    fewer fields than columns, broken quotes or JSON, a JSON value that is no object.
    """

    def __init__(self, files: list[Path], columns: list[str] | None = None) -> None:
        self.files = files
        self.delimiter = DELIMITERS.get(files[0].suffix.lower())
        table = self.delimiter is not None
        self.records = Records(files, lines=table, quoted=self.delimiter == ",")
        self.columns = columns
        self._headers: list[int] = []
        self._named: list[list[str]] = []
        if table and columns is None:
            self._headers = list(self.records.starts)
            self._named = [self._fields(header)[0] for header in self._headers]
            self.columns = self._named[0]

    def __len__(self) -> int:
        return len(self.records) - len(self._headers)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = index
        for header in self._headers:
            place += header <= place
        if self.delimiter is None:
            record, origin = self.records.value(place)
            if not isinstance(record, dict):
                expected, given = "an object", shortened(record)
                raise DataError("bad record", expected=expected, given=given, origin=origin)
            return record, origin
        fields, origin = self._fields(place)
        columns = self.columns
        if self._named:
            columns = self._named[bisect_right(self._headers, place) - 1]
        if len(fields) != len(columns):
            raise DataError(
                "another number of fields than columns",
                expected=f"{len(columns)} ({', '.join(columns)})",
                given=len(fields),
                origin=origin,
                remedy="quote texts that hold the delimiter or a line end",
            )
        return dict(zip(columns, fields, strict=True)), origin

    def column(self, name: str) -> Iterator[Any]:
        """One field of every row. DataError: a row without it."""
        for index in range(len(self)):
            record, origin = self[index]
            yield field_of(record, name, origin)

    def _fields(self, place: int) -> tuple[list[str], str]:
        text, origin = self.records[place]
        text = text.removesuffix("\r")
        if self.delimiter == "\t":
            return text.split("\t"), origin
        try:
            rows = list(csv.reader(text.splitlines(keepends=True), strict=True))
        except csv.Error as error:
            remedy = "a quote inside a quoted field is written twice"
            raise DataError(f"broken CSV: {error}", origin=origin, remedy=remedy) from error
        return rows[0] if rows else [], origin


def field_of(record: dict[str, Any], name: str, origin: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise DataError(f"no field `{name}`", origin=origin, remedy=suggestion(name, record))
    return record[name]


class TableRows:
    """Rows of parquet and Arrow files. DataError: files that cannot be read. With `skip` such a
    file has one row, which raises the error, and in its columns infinity."""

    def __init__(self, files: list[Path], skip: bool = False) -> None:
        require("pyarrow.parquet")
        self.files, self.skip = files, skip
        self._groups: list[tuple[int, int]] = []  # file and row group; or `ARROW`, `BROKEN`
        sizes: list[int] = []
        for number, file in enumerate(files):
            sizes += self._survey(number, file)
        self._first = [0, *np.cumsum(sizes).tolist()]
        self._reset()

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._first, index) - 1
        number, inner = self._groups[group]
        place = index - self._first[group]
        within = f"row {place}" if inner < 0 else f"row {place} of row group {inner}"
        origin = f"{self.files[number]}: {within}"
        return self._row(group, place, origin), origin

    def file_of(self, index: int) -> int:
        """Number of the file that a row stands in."""
        return self._groups[bisect_right(self._first, index) - 1][0]

    def columns(self, names: list[str]) -> Iterator[tuple[Path, int, dict[str, list[Any]]]]:
        """Of each file: its number of rows, and those of the columns that it has."""
        import pyarrow as pa

        for number, file in enumerate(self.files):
            groups = [group for group, each in enumerate(self._groups) if each[0] == number]
            rows = sum(self._first[group + 1] - self._first[group] for group in groups)
            if groups and self._groups[groups[0]][1] == BROKEN:
                yield file, rows, {name: [float("inf")] for name in names}
                continue
            try:
                if file.suffix == ".arrow":
                    table = _arrow(file)
                    there = [name for name in names if name in table.column_names]
                else:
                    opened = require("pyarrow.parquet").ParquetFile(file)
                    there = [name for name in names if name in opened.schema_arrow.names]
                    table = opened.read(columns=there) if there else None
                yield file, rows, {name: table.column(name).to_pylist() for name in there}
            except (OSError, ValueError, pa.ArrowException) as error:
                raise _unreadable(error, str(file)) from error

    def column(self, name: str) -> Iterator[Any]:
        """One cell of every row. DataError: a file without that column."""
        for file, _, columns in self.columns([name]):
            if name not in columns:
                raise DataError(f"no column `{name}`", origin=file)
            yield from columns[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_owner": None}

    def _reset(self) -> None:
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._owner = os.getpid()

    def _row(self, group: int, place: int, origin: str) -> dict[str, Any]:
        """A row as Python values; open files are never shared with a forked process."""
        if self._owner != os.getpid():
            self._reset()
        import pyarrow as pa

        try:
            if group not in self._held:
                self._held[group] = self._table(group)
                while len(self._held) > GROUPS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group].slice(place, 1).to_pylist()[0]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(error, origin) from error

    def _table(self, group: int) -> Any:
        number, inner = self._groups[group]
        file = self.files[number]
        if inner == BROKEN:
            _sizes(file)  # says once more what is wrong
            raise ValueError("it could not be read when it was opened")
        if inner == ARROW:
            return _arrow(file)
        return require("pyarrow.parquet").ParquetFile(file).read_row_group(inner)

    def _survey(self, number: int, file: Path) -> list[int]:
        """Rows of each group of a file."""
        import pyarrow as pa

        try:
            sizes = _sizes(file)
            arrow = file.suffix == ".arrow"
            self._groups += [(number, ARROW if arrow else group) for group in range(len(sizes))]
            return sizes
        except (OSError, ValueError, pa.ArrowException) as error:
            if self.skip:
                self._groups.append((number, BROKEN))
                return [1]
            raise _unreadable(error, str(file)) from error


def _sizes(file: Path) -> list[int]:
    """Rows of each row group; of an Arrow file all of them."""
    if file.suffix == ".arrow":
        return [_arrow(file).num_rows]
    metadata = require("pyarrow.parquet").ParquetFile(file).metadata
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


def _arrow(file: Path) -> Any:
    """A mapped Arrow file, in the format with a footer or as the stream that `datasets` writes."""
    import pyarrow as pa

    mapped = pa.memory_map(str(file))
    try:
        return pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped).read_all()


def _unreadable(error: Exception, origin: str) -> DataError:
    remedy = "it may be cut short; download or export it again"
    return DataError(f"cannot read the table: {error}", origin=origin, remedy=remedy)
