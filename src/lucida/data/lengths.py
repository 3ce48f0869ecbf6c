"""How long every record is: what packing and grouping plan with.

Every record is read and tokenised once, at the beginning of the first run that needs it; no picture
is decoded (an image policy with tiles reads the sizes of pictures). The table stands in the run
folder, so that a resumed run plans with exactly the same numbers.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucida.core.errors import DataError, RunError
from lucida.core.files import atomic_write
from lucida.core.progress import Progress
from lucida.data.mixture import Source
from lucida.data.sample import Tokens

UNUSABLE = 0
"""The length of a record that cannot be read or tokenised, or is longer than a row."""
SPOT_CHECKS = 8
"""Records of each source that are measured again when a table is read from disk."""

Encode = Callable[..., Tokens]
"""encode(sample, counts=Counter) → Tokens; `LucidaProcessor.encode` is one."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """For every source: `tokens` int32 [records], `shows` bool [records] (it has images)."""

    tokens: dict[str, np.ndarray]
    shows: dict[str, np.ndarray]

    def limited(self, capacity: int | None, skip: bool) -> Lengths:
        """The same, with records longer than a row unusable; DataError unless they are skipped."""
        if capacity is None:
            return self
        for name, tokens in self.tokens.items():
            longest = int(tokens.argmax())
            if tokens[longest] > capacity and not skip:
                raise DataError(
                    "a record is longer than a row of the batch",
                    expected=f"at most {capacity} tokens (batch.row, or batch.tokens over "
                    "batch.accumulate)",
                    given=int(tokens[longest]),
                    origin=f"{name}: record {longest}",
                    remedy="raise batch.row, or skip such records with mixture.on_error=skip",
                )
        kept = {n: np.where(t > capacity, UNUSABLE, t) for n, t in self.tokens.items()}
        return Lengths(kept, self.shows)

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
        """The records themselves, or the next ones that can be used."""
        tokens = self.tokens[name]
        bad = tokens[index] == UNUSABLE
        if not bad.any():
            return index
        usable = np.flatnonzero(tokens != UNUSABLE)
        if not len(usable):
            raise DataError("no record of the source can be used", origin=name)
        found = index.copy()
        found[bad] = usable[np.searchsorted(usable, index[bad]) % len(usable)]
        return found

    def candidates(self, name: str, index: int) -> Iterator[int]:
        """The record, then those that may take its place: no longer than was planned for it."""
        yield index
        tokens, size = self.tokens[name], len(self.tokens[name])
        room = tokens[self.stand_ins(name, np.array([index]))[0]]
        for step in range(1, size):
            other = (index + step) % size
            if UNUSABLE < tokens[other] <= room:
                yield other

    def save(self, file: Path) -> None:
        """Write the table, whole or not at all."""
        content = io.BytesIO()
        parts = {f"tokens {name}": values for name, values in self.tokens.items()}
        parts |= {f"shows {name}": values for name, values in self.shows.items()}
        np.savez_compressed(content, **parts)
        atomic_write(file, content.getvalue())

    @staticmethod
    def load(file: Path, names: Sequence[str]) -> Lengths:
        """Read what `save` wrote. RunError for a file that is not whole or of other sources."""
        try:
            with np.load(file) as parts:
                return Lengths(
                    {name: parts[f"tokens {name}"] for name in names},
                    {name: parts[f"shows {name}"] for name in names},
                )
        except (ValueError, KeyError, OSError, EOFError) as error:
            remedy = "delete the file; the records are measured again"
            raise RunError(f"cannot be read: {error}", origin=file, remedy=remedy) from error


def measured(
    sources: Mapping[str, Source], encode: Encode, skip: bool, file: Path | None = None
) -> Lengths:
    """The lengths of all records: from `file` where it exists, else measured and written there.

    RunError when the records of a few places are not what the file says. DataError at the first
    record that cannot be used, unless such records are to be skipped.
    """
    if file is not None and file.exists():
        found = Lengths.load(file, tuple(sources))
        check(found, sources, encode, file)
        return found
    tokens, shows = {}, {}
    with Progress("measure records", sum(map(len, sources.values())), "record") as progress:
        for name, source in sources.items():
            tokens[name] = np.zeros(len(source), dtype=np.int32)
            shows[name] = np.zeros(len(source), dtype=bool)
            for index in range(len(source)):
                tokens[name][index], shows[name][index] = one(source, index, encode, skip)
                progress.advance()
    found = Lengths(tokens, shows)
    if file is not None:
        found.save(file)
    return found


def one(source: Source, index: int, encode: Encode, skip: bool) -> tuple[int, bool]:
    """Tokens of a record, and whether it has images."""
    try:
        tokens = encode(source[index], counts=Counter())
    except DataError:
        if not skip:
            raise
        return UNUSABLE, False
    return len(tokens), bool(tokens.images)


def check(found: Lengths, sources: Mapping[str, Source], encode: Encode, file: Path) -> None:
    """RunError when a source has another number of records, or a few of them another length."""
    for name, source in sources.items():
        size = len(found.tokens[name])
        facts = {"records": (size, len(source))}
        if size == len(source):
            for index in {size * at // SPOT_CHECKS for at in range(SPOT_CHECKS)}:
                before = (int(found.tokens[name][index]), bool(found.shows[name][index]))
                facts[f"record {index}"] = (before, one(source, index, encode, skip=True))
        for what, (before, now) in facts.items():
            if before != now:
                raise RunError(
                    f"the data of source {name} changed since the run began ({what})",
                    expected=before,
                    given=now,
                    origin=file,
                    remedy="bring the data back, or train in a new folder",
                )
