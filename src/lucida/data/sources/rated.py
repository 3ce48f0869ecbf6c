"""Records of JSON and CSV files that are rated well enough; tables and shards filter themselves.

source ─number of each record─▶ those at least so good ─sidecar─▶ record n of them
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from lucida.core.errors import DataError, shorten
from lucida.data.sample import Sample
from lucida.data.source import RecordSource, Source, reason
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tables import field_of
from lucida.data.sources.values import rating_in


class Rated(Source):
    """The records of a source whose numbers `at_least` reach what is asked; null reaches nothing.

    All records are read once, and what was found is kept by their files and `identity`, which tells
    apart two ways of reading them. `dropped` counts the others by the first number that they fail.
    DataError: a record without the field, or with something else than a number in it. With `skip`
    such a record stays, and raises the error when its turn comes; where all do, it is raised here.

    Worked example: at_least {"score": 3} keeps of records with the scores 5, 2 and null the first.
    """

    def __init__(
        self, source: RecordSource, at_least: dict[str, float], identity: str, skip: bool = False
    ) -> None:
        self.source, self.at_least, self.skip = source, at_least, skip
        self.files, self.noted = source.files, source.noted
        what = f"rated {list(at_least.items())} {identity}{' skip' if skip else ''}"
        self._chosen = Sidecar(what, source.files, self._survey)

    @property
    def dropped(self) -> dict[str, int]:
        """Records that are left out, by reason."""
        names = [f"{name} below {least:g}" for name, least in self.at_least.items()]
        counts = self._chosen.array[: len(names)].tolist()
        return {why: many for why, many in zip(names, counts, strict=True) if many}

    def __len__(self) -> int:
        return len(self._chosen.array) - len(self.at_least)

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """A record, and what of it is not read; the numbers are."""
        sample, lost = self.source.explained(self._rated(index), words)
        for name in self.at_least:
            lost.pop(reason(name), None)
        return sample, lost

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record with another caption, where the source has captions."""
        return self.source.sample(self._rated(index), words)

    def key(self, index: int, field: str | None) -> str:
        """What captions from elsewhere are matched by, where the source has captions."""
        return self.source.key(self._place(index), field)

    def record(self, index: int) -> tuple[Any, str]:
        """A record as it stands in its file, and where."""
        return self.source.record(self._rated(index))

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(self._chosen.array[len(self.at_least) + index])
        return place if place >= 0 else ~place

    def _rated(self, index: int) -> int:
        """The place of a record. DataError: its ratings cannot be read, and `skip` let it stay."""
        place = self._place(index)
        if self._chosen.array[len(self.at_least) + index] < 0:
            self._failed(place)
        return place

    def _survey(self) -> np.ndarray:
        """How many each number drops, then the numbers of the records that stay; `~n` in place of
        n for one whose ratings cannot be read."""
        dropped, kept = [0] * len(self.at_least), []
        unread, first = 0, None
        for index in range(len(self.source)):
            try:
                failed = self._failed(index)
            except DataError as error:
                if not self.skip:
                    raise
                unread, first = unread + 1, first or error
                # ~0 is -1, so that record 0 can be marked as well; `_place` turns it back.
                kept.append(~index)
                continue
            if failed is None:
                kept.append(index)
            else:
                dropped[failed] += 1
        if first is not None and unread == len(self.source):  # the name of the field is wrong
            raise first
        return np.array([*dropped, *kept], dtype=np.int64)

    def _failed(self, place: int) -> int | None:
        """Which of the numbers asked for a record does not reach, None when it reaches all."""
        record, origin = self.source.record(place)
        if not isinstance(record, dict):
            message = "plain text" if isinstance(record, str) else "this record"
            raise DataError(f"{message} has no fields", given=shorten(record), origin=origin)
        for which, (name, least) in enumerate(self.at_least.items()):
            if not rating_in(field_of(record, name, origin), name, origin) >= least:
                return which
        return None
