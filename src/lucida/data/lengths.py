"""How long records are: what packing and grouping plan with.

    Order ─planned(a window of draws)─▶ Lengths ─ known? ─▶ tokens, images
                                            └─ unknown ─▶ measure, as few as were asked for

Training completes the table before its first step: every record is read and tokenised once, and the
table stands in the run folder, so that a resumed run plans with exactly the same numbers. `lucida
inspect`, which shows the first step, measures the first window only. No picture is decoded (an
image policy with tiles reads the sizes of pictures).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucida.core.errors import DataError, RunError
from lucida.core.files import atomic_write
from lucida.core.progress import Progress
from lucida.data.mixture import Mixture, own_number
from lucida.data.reader import Encode, Reader, Unusable, offer_skipping, too_long

UNUSABLE, UNKNOWN = 0, -1
"""Lengths of a record that cannot be read or tokenised or is longer than a row; and of one that was
not measured yet."""
SPOT_CHECKS = 8
"""Records of each source that are measured again when a table is read from disk."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """How records of a mixture are measured. capacity: positions of a row, None without rows; skip:
    unusable records have others in their place, instead of ending it all with a DataError."""

    mixture: Mixture
    encode: Encode
    capacity: int | None = None
    skip: bool = False

    def measure(self, name: str, index: int, skip: bool) -> tuple[int, bool]:
        """Tokens of a record, and whether it has images. However long: where several are longer
        than a row, the longest of them is told."""
        record = Reader(self.encode).read(name, self.mixture.sources[name], index)
        if isinstance(record, Unusable):
            if not skip:
                raise offer_skipping(record.reason)
            return UNUSABLE, False
        return len(record.tokens), bool(record.tokens.images)


@dataclass(frozen=True, slots=True)
class Lengths:
    """For every source: `tokens` int32 [records], `shows` bool [records] (it has images).

    measuring: how entries that are `UNKNOWN` are found when they are needed; None where none is.
    """

    tokens: dict[str, np.ndarray]
    shows: dict[str, np.ndarray]
    measuring: Measuring | None = None

    @staticmethod
    def unknown(measuring: Measuring) -> Lengths:
        """A table of which nothing is measured yet."""
        sizes = {name: len(source) for name, source in measuring.mixture.sources.items()}
        return Lengths(
            {name: np.full(size, UNKNOWN, dtype=np.int32) for name, size in sizes.items()},
            {name: np.zeros(size, dtype=bool) for name, size in sizes.items()},
            measuring,
        )

    def complete(self, file: Path | None = None) -> None:
        """Measure all records, or take their lengths from `file`; else they are written there.

        RunError when the records of a few places are not what the file says, or it is not whole.
        DataError at the first record that cannot be used, unless such records are skipped.
        """
        if file is not None and file.exists():
            self._load(file)
        else:
            with Progress("measure records", sum(map(len, self.tokens.values())), "record") as seen:
                for name, tokens in self.tokens.items():
                    self._measure(name, range(len(tokens)), seen)
            if file is not None:
                self._save(file)
        for name in self.tokens:
            self._refuse_long(name)

    def planned(
        self, names: Sequence[str], which: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and whether there are images, of records `index` of the sources `names[which]`.

        A record that cannot be used counts as the one that stands in for it.
        """
        tokens = np.zeros(len(which), dtype=np.int32)
        shows = np.zeros(len(which), dtype=bool)
        for number, name in enumerate(names):
            here = which == number
            records = self.stand_ins(name, index[here])
            tokens[here] = self.tokens[name][records]
            shows[here] = self.shows[name][records]
        return tokens, shows

    def stand_ins(self, name: str, index: np.ndarray) -> np.ndarray:
        """The records themselves, or the next ones that can be used. DataError when none can."""
        tokens, found = self.tokens[name], index
        # A stand-in that nobody has measured yet may turn out unusable itself: then the one behind
        # it.
        while True:
            self._know(name, found)
            bad = tokens[found] == UNUSABLE
            if not bad.any():
                return found
            # The next that can be used for all that is known; if it is unknown it is measured now.
            hopeful = np.flatnonzero(tokens != UNUSABLE)
            if not len(hopeful):
                raise DataError("no record of the source can be used", origin=name)
            found = found.copy()
            found[bad] = hopeful[np.searchsorted(hopeful, found[bad]) % len(hopeful)]

    def candidates(self, name: str, index: int) -> Iterator[int]:
        """The record, then those that may take its place: no longer than was planned for it."""
        # The record itself comes first even where it is known to be unusable: reading it again is
        # how the loader learns why, and writes it down. Longer neighbours would not fit the row
        # that was planned.
        yield index
        tokens, size = self.tokens[name], len(self.tokens[name])
        room = tokens[self.stand_ins(name, np.array([index]))[0]]
        for step in range(1, size):
            other = (index + step) % size
            self._know(name, np.array([other]))
            if UNUSABLE < tokens[other] <= room:
                yield other

    def _know(self, name: str, records: np.ndarray) -> None:
        """Measure those of these records that are not known yet."""
        unknown = np.unique(records[self.tokens[name][records] == UNKNOWN])
        if not len(unknown):
            return
        seen = Progress(f"measure records of {name}", len(unknown), "record")
        with seen if len(unknown) > 1 else nullcontext():  # a substitute is no line for the reader
            self._measure(name, unknown.tolist(), seen)
        self._refuse_long(name)

    def _measure(self, name: str, records: Sequence[int], seen: Progress) -> None:
        tokens, shows, skip = self.tokens[name], self.shows[name], self.measuring.skip
        for index in records:
            tokens[index], shows[index] = self.measuring.measure(name, index, skip)
            seen.advance()

    def _refuse_long(self, name: str) -> None:
        """Make records longer than a row unusable; TooLong, of the longest, unless they are
        skipped."""
        tokens, capacity = self.tokens[name], self.measuring.capacity
        if capacity is None:
            return
        if not self.measuring.skip and tokens.max() > capacity:
            longest = int(tokens.argmax())
            number = own_number(self.measuring.mixture.sources[name], longest)
            reason = too_long(int(tokens[longest]), capacity, f"{name}: record {number}")
            raise offer_skipping(reason)
        tokens[tokens > capacity] = UNUSABLE

    def _save(self, file: Path) -> None:
        """Write the table, whole or not at all; lengths as measured, whatever a row holds."""
        # Before `_refuse_long` forgets lengths: `_load` compares these with what it measures anew.
        content = io.BytesIO()
        parts = {f"tokens {name}": values for name, values in self.tokens.items()}
        parts |= {f"shows {name}": values for name, values in self.shows.items()}
        np.savez_compressed(content, **parts)
        atomic_write(file, content.getvalue())

    def _load(self, file: Path) -> None:
        """Take in what `_save` wrote, after a look at a few records of each source."""
        try:
            with np.load(file) as parts:
                read = {n: (parts[f"tokens {n}"], parts[f"shows {n}"]) for n in self.tokens}
        except (ValueError, KeyError, OSError, EOFError) as error:
            remedy = "delete the file; the records are measured again"
            raise RunError(f"cannot be read: {error}", origin=file, remedy=remedy) from error
        for name, (tokens, shows) in read.items():
            size = len(self.tokens[name])
            facts = {"records": (len(tokens), size)}
            if len(tokens) == size:
                for index in {size * at // SPOT_CHECKS for at in range(SPOT_CHECKS)}:
                    before = (int(tokens[index]), bool(shows[index]))
                    now = self.measuring.measure(name, index, skip=True)
                    facts[f"record {index}"] = (before, now)
            for what, (before, now) in facts.items():
                if before != now:
                    raise RunError(
                        f"the data of source {name} changed since the run began ({what})",
                        expected=before,
                        given=now,
                        origin=file,
                        remedy="bring the data back, or train in a new folder",
                    )
            self.tokens[name][:], self.shows[name][:] = tokens, shows
