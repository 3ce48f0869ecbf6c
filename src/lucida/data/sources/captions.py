"""Captions from a file of their own in place of those of a source, such as AI-written ones.

    source ─key of each record─┐
    captions ─key of each row──┴─matched once─▶ rows [records] ─sidecar─▶ sample n with row's text

Keys are matched as hashes of 64 bits, so a hundred million of them need neither their text nor a
dictionary in memory; two different keys share one with a chance of 3e-4 in all of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from lucida.core.errors import DataError, shorten
from lucida.data.sample import Sample
from lucida.data.source import IGNORED, Source, few, reason, unread
from lucida.data.sources.conversation import text_of
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tables import field_of, rows_of

BY_PICTURE = ("path", "name", "stem")
ABSENT = -1
"""In place of a row's number: nothing was written for the record."""
NO_KEY = ""
"""What null and an empty text are: a record and a row that both have none do not match."""


class Recaptioned(Source):
    """The records of a source with captions from elsewhere.

    by       what is compared: `path` (of the picture, as the source writes it), `name` (its last
             part), `stem` (that without its ending), or a field of the source's records
    key      field of the caption file that is compared with it
    text     field of the caption file that is taken
    missing  a record that nothing was written for keeps its caption, is dropped, or is an error
             when its turn comes

    A key that is met again is passed over. `dropped` counts the records that are left out, `noted`
    what else does not match. DataError: a source that has no captions, a file without these
    fields, no record at all that a caption was written for.
    """

    def __init__(
        self,
        source: Source,
        path: str,
        by: str = "name",
        key: str = "image",
        text: str = "caption",
        missing: Literal["keep", "drop", "error"] = "error",
        identity: str = "",
    ) -> None:
        self.source, self.text, self.missing = source, text, missing
        self.rows, self.by, self.path = rows_of(path), by, path
        self._key = key
        what = f"captions {by} {key} {identity}"
        files = getattr(source, "files", None)
        self._sidecar = files and Sidecar(what, [*files, *self.rows.files], self._match)
        self._held = None if self._sidecar else self._match()
        self._again = int(self._matched[0])
        absent = self._matched[1:] == ABSENT
        if absent.all():
            raise DataError(
                "no record of the source has a caption in this file",
                expected=f"its `{key}`, such as {shorten(self._example())}",
                given=f"`{by}` of the source, such as {shorten(source.key(0, self._field))}",
                origin=path,
                remedy="set `by` and `key` of the captions",
            )
        self._absent = int(absent.sum())
        self._kept = np.flatnonzero(~absent) if missing == "drop" else None

    @property
    def _matched(self) -> np.ndarray:
        """How many keys came again, then the row of every record."""
        return self._held if self._sidecar is None else self._sidecar.array

    @property
    def dropped(self) -> dict[str, int]:
        """What the source left out, and the records that nothing was written for."""
        found = dict(self.source.dropped)
        if self._absent and self.missing == "drop":
            found["no caption in the file"] = self._absent
        return found

    @property
    def noted(self) -> dict[str, int]:
        """Records that stay without a caption from the file, and captions that no record has."""
        found = dict(self.source.noted)
        if self._absent and self.missing != "drop":
            outcome = "own caption kept" if self.missing == "keep" else "an error"
            found[f"no caption in the file ({outcome})"] = self._absent
        if self._again:
            found["captions of a key that came before (passed over)"] = self._again
        return found

    def __len__(self) -> int:
        return len(self.source) if self._kept is None else len(self._kept)

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """A record with its caption, and what of the two is not read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index if self._kept is None else int(self._kept[index])
        row = int(self._matched[1 + number])
        if row == ABSENT:
            if self.missing == "keep":
                return self._explained(number, None)
            raise DataError(
                "no caption was written for this record",
                given=shorten(self.source.key(number, self._field)),
                origin=f"{self.path}: record {number} of the source",
                remedy="set `missing` of the captions to keep or drop",
            )
        record, origin = self.rows[row]
        words = text_of(field_of(record, self.text, origin), self.text, origin)
        sample, lost = self._explained(number, words)
        row = {f"captions: {name}": value for name, value in record.items()}
        read = dict.fromkeys((f"captions: {self.text}", f"captions: {self._key}"))
        ignored = frozenset(f"captions: {name}" for name in IGNORED)
        return sample, lost + few(unread(row, read, ignored), self)

    def record(self, index: int) -> tuple[Any, str]:
        """A record of the source as it stands in its file, and where."""
        return self.source.record(index if self._kept is None else int(self._kept[index]))

    def _explained(self, number: int, words: str | None) -> tuple[Sample, Counter[str]]:
        sample, lost = self.source.explained(number, words)
        lost.pop(reason(self.by), None)
        return sample, lost

    @property
    def _field(self) -> str | None:
        return None if self.by in BY_PICTURE else self.by

    def _match(self) -> np.ndarray:
        written = self._hashes(self.rows.column(self._key))
        # Sorted hashes and where each came first, so that of a key that comes again the first row
        # counts.
        first, where = np.unique(written, return_index=True)
        wanted = self._hashes(self.source.key(n, self._field) for n in range(len(self.source)))
        # A hash above all others has no place: the last stands in, and does not equal it.
        place = np.minimum(np.searchsorted(first, wanted), len(first) - 1)
        matched = (first[place] == wanted) & (wanted != np.uint64(hash_key(NO_KEY)))
        rows = np.where(matched, where[place], ABSENT)
        return np.concatenate([[len(written) - len(first)], rows]).astype(np.int64)

    def _hashes(self, keys: Iterable[Any]) -> np.ndarray:
        return np.fromiter((hash_key(normal(key, self.by)) for key in keys), dtype=np.uint64)

    def _example(self) -> Any:
        return next(chain(self.rows.column(self._key), [None]))


def normal(key: Any, by: str) -> str:
    """A key as it is compared.

    Worked example: `coco/7.a.jpg` is itself by path, `7.a.jpg` by name, `7.a` by stem.
    """
    text = NO_KEY if key is None else str(key)
    if by not in ("name", "stem"):
        return text
    last = PurePosixPath(text.replace("\\", "/"))
    return last.name if by == "name" else last.stem


def hash_key(key: str) -> int:
    """64 bits of a key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
