"""Rows of parquet and Arrow files by number.

Arrow files are mapped, so any row costs itself. Parquet can only be read by row group: the last few
groups are held.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lucida.core.errors import DataError, LucidaError, shorten

TABLES = (".parquet", ".arrow")
GROUPS_HELD = 4
ARROW, BROKEN = -1, -2
"""In place of a row group: a whole Arrow file, a file that cannot be read."""


def require(package: str) -> Any:
    """A package of the extra `data`."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        remedy = "pip install 'lucida[data]'"
        raise DataError(f"this source needs {package}: {error}", remedy=remedy) from error


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
        for number, file in enumerate(self.files):
            groups = [group for group, each in enumerate(self._groups) if each[0] == number]
            rows = sum(self._first[group + 1] - self._first[group] for group in groups)
            if groups and self._groups[groups[0]][1] == BROKEN:
                yield file, rows, {name: [float("inf")] for name in names}
                continue
            with reading(str(file)):
                found = _columns(file, names)
            yield file, rows, found

    def column(self, name: str) -> Iterator[Any]:
        """One cell of every row. DataError: a file without that column."""
        for file, _, columns in self.columns([name]):
            if name not in columns:
                raise DataError(f"no column `{name}`", origin=file)
            yield from columns[name]

    def write(self, numbers: Sequence[int], path: Path) -> Path:
        """Writes some rows, in their order here, as a parquet file; gives its path."""
        parquet, path = require("pyarrow.parquet"), path.with_suffix(".parquet")
        chosen = np.sort(np.asarray(numbers, dtype=np.int64))
        writer = None
        for group, first in enumerate(self._first[:-1]):
            here = chosen[(first <= chosen) & (chosen < self._first[group + 1])] - first
            if not len(here):
                continue
            with reading(str(self.files[self._groups[group][0]])):
                table = self._table(group).take(here)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            with reading(str(path)):
                writer.write_table(table)
        if writer is not None:
            writer.close()
        return path

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_owner": None}

    def _reset(self) -> None:
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._owner = os.getpid()

    def _row(self, group: int, place: int, origin: str) -> dict[str, Any]:
        """A row as Python values; open files are never shared with a forked process."""
        # A fork inherits open files, whose one position parent and child would move under each
        # other.
        if self._owner != os.getpid():
            self._reset()
        with reading(origin):
            if group not in self._held:
                self._held[group] = self._table(group)
                while len(self._held) > GROUPS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group].slice(place, 1).to_pylist()[0]

    def _table(self, group: int) -> Any:
        number, inner = self._groups[group]
        file = self.files[number]
        if inner == BROKEN:
            _sizes(file)  # says once more what is wrong
            raise ValueError("it could not be read when it was opened")
        if inner == ARROW:
            return ArrowFile(file)
        return require("pyarrow.parquet").ParquetFile(file).read_row_group(inner)

    def _survey(self, number: int, file: Path) -> list[int]:
        """Rows of each group of a file."""
        try:
            with reading(str(file)):
                sizes = _sizes(file)
        except DataError:
            if not self.skip:
                raise
            self._groups.append((number, BROKEN))
            return [1]
        arrow = file.suffix.lower() == ".arrow"
        self._groups += [(number, ARROW if arrow else group) for group in range(len(sizes))]
        return sizes


def _sizes(file: Path) -> list[int]:
    """Rows of each row group; of an Arrow file all of them. DataError: two columns of one name, of
    which a row as Python has it holds the last."""
    arrow = file.suffix.lower() == ".arrow"
    opened = ArrowFile(file) if arrow else require("pyarrow.parquet").ParquetFile(file)
    names = opened.names if arrow else opened.schema_arrow.names
    if len(set(names)) < len(names):
        given = shorten([name for name in names if names.count(name) > 1])
        raise DataError("two columns of one name", given=given, origin=file, remedy="rename one")
    if arrow:
        return [len(opened)]
    metadata = opened.metadata
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


def _columns(file: Path, names: list[str]) -> dict[str, list[Any]]:
    """The cells of those columns that a file has."""
    if file.suffix.lower() == ".arrow":
        held = ArrowFile(file)
        there = [name for name in names if name in held.names]
        return {name: held.column(name) for name in there}
    opened = require("pyarrow.parquet").ParquetFile(file)
    there = [name for name in names if name in opened.schema_arrow.names]
    table = opened.read(columns=there) if there else None
    return {name: table.column(name).to_pylist() for name in there}


class ArrowFile:
    """A mapped Arrow file, in the format with a footer or as the stream that `datasets` writes.

    Its batches lie in memory as they were written, and nothing looks at their offsets but us: one
    that is damaged would end the process. So each batch is looked at as a whole before its first
    row is read; that costs its texts and offsets once in a process, not its pictures.
    """

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        mapped = pa.memory_map(str(file))
        try:
            opened = pa.ipc.open_file(mapped)
            self._batches = [opened.get_batch(n) for n in range(opened.num_record_batches)]
        except pa.ArrowInvalid:
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped)
            self._batches = list(opened)
        self.names = opened.schema.names
        for batch in self._batches:
            batch.validate()
        self._first = [0, *np.cumsum([batch.num_rows for batch in self._batches]).tolist()]
        self._looked: set[int] = set()

    def __len__(self) -> int:
        return self._first[-1]

    def slice(self, place: int, rows: int) -> Any:
        """Rows of one batch that begin here."""
        number = bisect_right(self._first, place) - 1
        return self._batch(number).slice(place - self._first[number], rows)

    def column(self, name: str) -> list[Any]:
        """All cells of a column."""
        batches = map(self._batch, range(len(self._batches)))
        return [cell for batch in batches for cell in batch.column(name).to_pylist()]

    def take(self, places: np.ndarray) -> Any:
        """Rows as a table."""
        import pyarrow as pa

        return pa.Table.from_batches(map(self._batch, range(len(self._batches)))).take(places)

    def _batch(self, number: int) -> Any:
        if number not in self._looked:
            self._batches[number].validate(full=True)
            self._looked.add(number)
        return self._batches[number]


@contextmanager
def reading(origin: str) -> Iterator[None]:
    """Turns whatever a damaged table raises into a DataError."""
    try:
        yield
    except LucidaError:
        raise
    # pyarrow raises OSError, ValueError and its own, and for made-up lengths SystemError,
    # MemoryError, OverflowError, or what Python's conversions say.
    except Exception as error:
        remedy = "it may be cut short; download or export it again"
        message = f"cannot read the table: {str(error) or type(error).__name__}"
        raise DataError(message, origin=origin, remedy=remedy) from error
