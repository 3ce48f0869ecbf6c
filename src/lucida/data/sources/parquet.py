"""Local parquet and Arrow files with the pictures inside.

Rows in random order from large parquet row groups cost a group each; the kind `hub` on the same
folder lets `datasets` write an Arrow copy once instead.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lucida.data.sources.arrow import TABLES, TableRows
from lucida.data.sources.records import files_of, unread_files
from lucida.data.sources.rows import Ratings, RowSource


class ParquetSource(RowSource):
    """Rows of parquet and Arrow files, in the order of file names.

    DataError: files that cannot be read, columns that are missing, rows of other types. With `skip`
    a file that cannot be read is a record that raises the error.
    """

    def __init__(
        self,
        path: str | Path,
        at_least: dict[str, float] | None = None,
        prompts: list[str] | str | None = None,
        skip: bool = False,
    ) -> None:
        table = TableRows(files_of(path, TABLES), skip)
        self.files, self.noted = table.files, unread_files(path, TABLES)
        ratings = Ratings(at_least or {})
        kept, offset = [], 0
        for file, rows, columns in table.columns(list(ratings.at_least)):
            chosen = ratings.kept(columns, rows, str(file))
            if chosen is not None:
                kept.append(chosen + offset)
            offset += rows
        super().__init__(table, ratings, np.concatenate(kept) if kept else None, prompts)
