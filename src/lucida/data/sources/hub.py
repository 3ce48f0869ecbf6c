"""Data sets that `datasets` reads: from the Hugging Face Hub, or a local folder.

Rows are read from the Arrow copy that `datasets` keeps, so any row costs itself.
"""

from __future__ import annotations

from lucida.core.errors import DataError
from lucida.data.sample import Sample
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.rows import Ratings, row_key, row_sample
from lucida.data.sources.tables import require


class HubSource:
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
        self.origin = f"{path}{f'/{name}' if name else ''} {split}"
        try:
            rows = datasets.load_dataset(path, name, split=split, revision=revision)
        except Exception as error:
            # What `datasets` raises depends on where it fails: files, network, parsers, schemas.
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = "check path, name and split of the source, and the connection to the Hub"
            message = f"cannot open the data set: {first}"
            raise DataError(message, origin=self.origin, remedy=remedy) from error
        self.rows = _undecoded(rows, datasets)
        self.prompts = prompts_of(prompts)
        self.ratings = Ratings(at_least or {})
        asked = {n: rows[n] for n in self.ratings.at_least if n in rows.column_names}
        self._kept = self.ratings.kept(asked, len(rows), self.origin)

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

    def _row(self, index: int) -> tuple[dict, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = index if self._kept is None else int(self._kept[index])
        return self.rows[row], f"{self.origin}: row {row}"


def _undecoded(rows, datasets):
    """The data set with pictures as bytes: they are opened where every picture is."""
    plain = datasets.Image(decode=False)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, plain)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            rows = rows.cast_column(name, type(feature)(plain))
    return rows
