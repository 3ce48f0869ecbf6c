"""Data sets that `datasets` reads: from the Hugging Face Hub, or a local folder.

Rows are read from the Arrow copy that `datasets` keeps, so any row costs itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lucida.core.errors import DataError
from lucida.data.sources.arrow import require
from lucida.data.sources.rows import Ratings, RowSource
from lucida.data.sources.sidecar import writable_cache


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
