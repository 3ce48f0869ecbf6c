"""The samples of a stage's first step, row by row, without measuring all of its data.

    batch.samples    the first draws of the mixture
    batch.tokens     the rows that training packs from the first window of draws
    batch.order      the groups that it makes of them

Training measures every record before the first step; the first step follows from the first window
of draws alone, so only those are measured here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from lucida.core.errors import DataError
from lucida.core.progress import Progress
from lucida.core.spec import StageSpec
from lucida.data.lengths import UNUSABLE, Lengths, one
from lucida.data.loader import SUBSTITUTES
from lucida.data.mixture import Mixture
from lucida.data.order import Order, capacity, check_rows, needs_lengths
from lucida.data.sample import Tokens

Encode = Callable[..., Tokens]


@dataclass(frozen=True, slots=True)
class FirstStep:
    """rows: (source, tokens) of each sample, row by row; without a budget of tokens a pass is one
    row. cut: what `encode` cut away, by kind. dropped: what could not be used, with the reason."""

    rows: list[list[tuple[str, Tokens]]]
    cut: Counter[str]
    dropped: list[str]


@dataclass
class MeasuredOnDemand:
    """What `Lengths` says of the records it is asked about, each measured when first needed."""

    mixture: Mixture
    encode: Encode
    skip: bool
    room: int | None
    found: Lengths = field(init=False)
    known: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        sizes = {name: len(source) for name, source in self.mixture.sources.items()}
        self.found = Lengths(
            {name: np.zeros(size, dtype=np.int32) for name, size in sizes.items()},
            {name: np.zeros(size, dtype=bool) for name, size in sizes.items()},
        )
        self.known = {name: np.zeros(size, dtype=bool) for name, size in sizes.items()}

    def planned(
        self, names: Sequence[str], which: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Lengths.planned`; DataError for a record that is unusable or longer than a row,
        unless such records are skipped."""
        with Progress("measure the first window", len(which), "record") as progress:
            for source, record in zip(which.tolist(), index.tolist(), strict=True):
                self.stand_in(names[source], record)
                progress.advance()
        return self.found.planned(names, which, index)

    def candidates(self, name: str, index: int) -> Iterator[int]:
        """As `Lengths.candidates`."""
        yield index
        size = len(self.known[name])
        room = self.measure(name, self.stand_in(name, index))
        for step in range(1, size):
            other = (index + step) % size
            if UNUSABLE < self.measure(name, other) <= room:
                yield other

    def stand_in(self, name: str, index: int) -> int:
        """The record, or the next one that can be used."""
        size = len(self.known[name])
        for step in range(size):
            other = (index + step) % size
            if self.measure(name, other) != UNUSABLE:
                return other
        raise DataError("no record of the source can be used", origin=name)

    def measure(self, name: str, index: int) -> int:
        """Tokens of a record, `UNUSABLE` for one that is to be skipped."""
        if not self.known[name][index]:
            tokens, shows = one(self.mixture.sources[name], index, self.encode, self.skip)
            if self.room is not None and tokens > self.room:
                if not self.skip:
                    raise too_long(tokens, self.room, f"{name}: record {index}")
                tokens = UNUSABLE
            self.found.tokens[name][index], self.found.shows[name][index] = tokens, shows
            self.known[name][index] = True
        return int(self.found.tokens[name][index])


def too_long(tokens: int, room: int, origin: str) -> DataError:
    """The error for a record that no row can hold."""
    return DataError(
        "a record is longer than a row of the batch",
        expected=f"at most {room} tokens (batch.row, or batch.tokens over batch.accumulate)",
        given=tokens,
        origin=origin,
        remedy="raise batch.row, or skip such records with mixture.on_error=skip",
    )


def first_step(mixture: Mixture, encode: Encode, stage: StageSpec) -> FirstStep:
    """The samples of step 0 as training reads them, on one rank.

    DataError for a record that cannot be used where the mixture does not skip such records;
    RecipeError when the batch cannot be cut into its passes.
    """
    check_rows(stage.batch, world=1)
    skip = stage.mixture.on_error == "skip"
    lengths = None
    if needs_lengths(stage.batch):
        lengths = MeasuredOnDemand(mixture, encode, skip, capacity(stage.batch))
    order = Order(mixture, stage.batch, lengths)
    step = FirstStep([], Counter(), [])
    for rows in islice(order.passes(), stage.batch.accumulate):
        for row in rows:
            samples = [_sample(mixture, encode, n, skip, lengths, step) for n in row]
            step.rows.append(samples)
    return step


def _sample(
    mixture: Mixture,
    encode: Encode,
    number: int,
    skip: bool,
    lengths: MeasuredOnDemand | None,
    step: FirstStep,
) -> tuple[str, Tokens]:
    """Draw `number`, or the record that training puts in its place."""
    draw = mixture.draw(number)
    source = mixture.sources[draw.source]
    if lengths is None:
        others = ((draw.index + away) % len(source) for away in range(len(source)))
    else:
        others = lengths.candidates(draw.source, draw.index)
    problem: DataError | None = None
    for index in islice(others, SUBSTITUTES if skip else 1):
        cut: Counter[str] = Counter()
        try:
            tokens = encode(source[index], counts=cut)
            if lengths is not None and lengths.room is not None and len(tokens) > lengths.room:
                raise too_long(len(tokens), lengths.room, tokens.origin)
        except DataError as error:
            if not skip:
                raise
            step.dropped.append(f"{draw.source}: {error}")
            problem = error
        else:
            step.cut.update(cut)
            return draw.source, tokens
    raise problem or DataError("no record of the source can be used", origin=draw.source)
