"""Tables with the pictures inside: parquet and Arrow files, and what `datasets` reads (the Hugging
Face Hub, local folders).

Rows in random order from large parquet row groups cost a group each; the kind `hub` on the same
folder lets `datasets` write an Arrow copy once instead, of which any row costs itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sources.arrow import TABLES, TableRows, require
from lucida.data.sources.records import files_of, unread_files
from lucida.data.sources.rows import Ratings, RowSource
from lucida.data.sources.sidecar import writable_cache


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


class HubSource(RowSource):
    """One split of a data set. Code of a repository is never run.

    DataError: a data set, configuration or split that cannot be opened, rows of other columns.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        revision: str | None = None,
        at_least: dict[str, float] | None = None,
        prompts: list[str] | str | None = None,
    ) -> None:
        datasets = require("datasets")
        origin = f"{path}{f'/{name}' if name else ''} {split}"
        try:
            cache = writable_cache(Path(datasets.config.HF_DATASETS_CACHE))
            data = datasets.load_dataset(
                path, name, split=split, revision=revision, cache_dir=str(cache)
            )
        except Exception as error:
            # What `datasets` raises depends on where it fails: files, network, parsers, schemas.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = "check path, name and split of the source, and the connection to the Hub"
            message = f"cannot open the data set: {first}"
            raise DataError(message, origin=origin, remedy=remedy) from error
        data = _keep_undecoded(data, datasets)
        ratings = Ratings(at_least or {})
        asked = {n: data[n] for n in ratings.at_least if n in data.column_names}
        kept = ratings.kept(asked, len(data), origin)
        super().__init__(HubRows(data, origin), ratings, kept, prompts)


class HubRows:
    """Rows of a data set with where they come from."""

    def __init__(self, data: Any, origin: str) -> None:
        self.data, self.origin = data, origin

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]:
        return self.data[index], f"{self.origin}: row {index}"


def _keep_undecoded(rows, datasets):
    """The data set with pictures as bytes: they are opened where every picture is."""
    plain = datasets.Image(decode=False)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, plain)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            rows = rows.cast_column(name, type(feature)(plain))
    return rows
