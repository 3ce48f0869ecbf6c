"""Local parquet and Arrow files with the pictures inside.

Rows in random order from large parquet row groups cost a group each; the kind `hub` on the same
folder lets `datasets` write an Arrow copy once instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lucida.data.sample import Sample
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.records import files_of
from lucida.data.sources.rows import Ratings, row_key, row_sample
from lucida.data.sources.tables import TABLES, TableRows


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
        self.rows = TableRows(files_of(path, TABLES))
        self.files = self.rows.files
        self.prompts = prompts_of(prompts)
        self.ratings = Ratings(at_least or {})
        kept, offset = [], 0
        for file, rows, columns in self.rows.columns(list(at_least or {})):
            chosen = self.ratings.kept(columns, rows, str(file))
            if chosen is not None:
                kept.append(chosen + offset)
            offset += rows
        self._kept = np.concatenate(kept) if kept else None

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that were left out at opening, by reason."""
        return dict(self.ratings.dropped)

    def __len__(self) -> int:
        return len(self.rows) if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of its own caption."""
        row, origin = self._row(index)
        return row_sample(row, origin, self.prompts, index, self.ratings, words)

    def key(self, index: int, field: str | None) -> str:
        """The file name that a row gives its picture, or one of its columns."""
        return row_key(*self._row(index), field)

    def _row(self, index: int) -> tuple[dict[str, Any], str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[index if self._kept is None else int(self._kept[index])]
