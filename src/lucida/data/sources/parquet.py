"""Local parquet and Arrow files with the pictures inside.

Arrow files are mapped, so any row costs itself. Parquet can only be read by row group: the last few
groups are held, and rows in random order from large groups cost a group each; the kind `hub` on the
same folder lets `datasets` write an Arrow copy once instead.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sample import Sample
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.records import files_of
from lucida.data.sources.rows import Ratings, row_sample

GROUPS_HELD = 4
ENDINGS = (".parquet", ".arrow")


def require(package: str) -> Any:
    """A package of the extra `data`."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        remedy = "pip install 'lucida[data]'"
        raise DataError(f"this source needs {package}: {error}", remedy=remedy) from error


class ParquetSource:
    """Rows of parquet and Arrow files, in the order of file names.

    `dropped` counts rows that the ratings leave out; they are no records of this source. DataError:
    files that cannot be read, columns that are missing, rows of other types.
    """

    def __init__(
        self,
        path: str | Path,
        at_least: dict[str, float] | None = None,
        prompts: list[str] | str | None = None,
    ) -> None:
        require("pyarrow.parquet")
        self.files = files_of(path, ENDINGS)
        self.prompts = prompts_of(prompts)
        self.ratings = Ratings(at_least or {})
        self._groups: list[tuple[int, int]] = []  # file and row group; -1 is a whole Arrow file
        sizes = []
        kept, offset = [], 0
        for number, file in enumerate(self.files):
            rows, columns = self._survey(number, file)
            sizes += rows
            chosen = self.ratings.kept(columns, sum(rows), str(file))
            if chosen is not None:
                kept.append(chosen + offset)
            offset += sum(rows)
        self._first = [0, *np.cumsum(sizes).tolist()]
        self._kept = np.concatenate(kept) if kept else None
        self._reset()

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that were left out at opening, by reason."""
        return dict(self.ratings.dropped)

    def __len__(self) -> int:
        return self._first[-1] if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = index if self._kept is None else int(self._kept[index])
        group = bisect_right(self._first, row) - 1
        number, inner = self._groups[group]
        place = row - self._first[group]
        within = f"row {place}" if inner < 0 else f"row {place} of row group {inner}"
        origin = f"{self.files[number]}: {within}"
        return row_sample(
            self._row(group, place, origin), origin, self.prompts, index, self.ratings
        )

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
        if inner < 0:
            return _arrow(file)
        return require("pyarrow.parquet").ParquetFile(file).read_row_group(inner)

    def _survey(self, number: int, file: Path) -> tuple[list[int], dict[str, list[Any]]]:
        """Rows of each group of a file, and the columns that rate them."""
        import pyarrow as pa

        try:
            if file.suffix == ".arrow":
                table = _arrow(file)
                self._groups.append((number, -1))
                rows, names = [table.num_rows], table.column_names
            else:
                opened = require("pyarrow.parquet").ParquetFile(file)
                groups = range(opened.metadata.num_row_groups)
                self._groups += [(number, group) for group in groups]
                rows = [opened.metadata.row_group(group).num_rows for group in groups]
                names = opened.schema_arrow.names
                asked = [name for name in self.ratings.at_least if name in names]
                table = opened.read(columns=asked) if asked else None
            wanted = [name for name in self.ratings.at_least if name in names]
            return rows, {name: table.column(name).to_pylist() for name in wanted}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(error, str(file)) from error


def table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Every row of a parquet file as Python values, one row group in memory at a time."""
    import pyarrow as pa

    opened = require("pyarrow.parquet").ParquetFile
    try:
        table = opened(file)
        for group in range(table.metadata.num_row_groups):
            yield from table.read_row_group(group).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(error, str(file)) from error


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
