"""One record of a source as a stage uses it: read, encoded and looked at, or refused with a reason.

    source, number ─fetched─▶ Sample ─encode─▶ Tokens ─fits a row?─▶ look ─▶ Encoded
                                    └──────── DataError at any of them ──▶ Unusable

Training, `inspect`, `doctor`, `plan`, `data stats` and `data check` all read records here, so they
agree on which can be used and why the others cannot. What becomes of an unusable one (the next in
its place, a line in a report, an error) is for the caller to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lucida.core.errors import DataError
from lucida.data.mixture import Source, fetch, own_number
from lucida.data.sample import ImageSource, Sample, Tokens

if TYPE_CHECKING:  # it needs torch, and records are shown and checked without
    from lucida.data.views import Drawn

Encode = Callable[..., Tokens]
"""encode(sample, counts=Counter) → Tokens; `LucidaProcessor.encode` is one."""
Look = Callable[[Sample, Tokens | None], Any]
"""What else has to succeed before a record counts as usable; its result is `Encoded.seen`."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record that can be used. cut: what `encode` cut away, by kind; left_out: what the source
    left out of its record, by reason; seen: what the reader's `look` made of it."""

    source: str
    tokens: Tokens | None
    seen: Any = None
    cut: Counter[str] = field(default_factory=Counter)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def noted(self) -> Counter[str]:
        """All that was cut or left out, by name."""
        return self.cut + Counter(self.left_out)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that cannot be used, by its number in the source as its files have it."""

    source: str
    record: int
    reason: DataError


def offer_skipping(reason: DataError, way: str = "mixture.on_error=skip") -> DataError:
    """Why a record cannot be used, with what leaves such records out: `way`, by default that of
    training."""
    error = type(reason)(f"{reason}; {way} leaves such records out")
    error.__cause__ = reason.__cause__
    return error


class TooLong(DataError):
    """A record that no row of the batch can hold."""


def too_long(tokens: int, capacity: int, origin: str) -> TooLong:
    """The error for a record of so many tokens where a row has `capacity` positions."""
    return TooLong(
        "a record is longer than a row of the batch",
        expected=f"at most {capacity} tokens (batch.row, or batch.tokens over batch.accumulate)",
        given=tokens,
        origin=origin,
        remedy="raise batch.row",
    )


@dataclass(frozen=True)
class Reader:
    """How a stage reads a record. encode: None where no tokens are asked for; capacity: positions
    of a row, None where rows are not filled to a budget."""

    encode: Encode | None
    capacity: int | None = None
    look: Look | None = None

    def read(self, name: str, source: Source, index: int) -> Encoded | Unusable:
        """Record `index` of the source called `name`. Errors other than DataError are raised."""
        cut: Counter[str] = Counter()
        tokens = seen = None
        try:
            sample, left_out = fetch(source, index)
            if self.encode is not None:
                tokens = self.encode(sample, counts=cut)
                if self.capacity is not None and len(tokens) > self.capacity:
                    raise too_long(len(tokens), self.capacity, tokens.origin)
            if self.look is not None:
                seen = self.look(sample, tokens)
        except DataError as error:
            return Unusable(name, own_number(source, index), error)
        return Encoded(name, tokens, seen, cut, left_out)

    def spread(self, name: str, source: Source, count: int) -> list[Encoded | Unusable]:
        """At most `count` records, evenly spread over the source."""
        count = min(count, len(source))
        # Of 10 records 4 are 0, 2, 5 and 7: spread without chance, so that every look sees the
        # same.
        places = (place * len(source) // count for place in range(count))
        return [self.read(name, source, place) for place in places]


def draw_images(
    draw: Callable[[Sequence[ImageSource]], Drawn | None], sample: Sample, tokens: Tokens
) -> Drawn | None:
    """A `Look` (with `draw` given): the images of a sample, None where it shows none."""
    return draw(tokens.images) if tokens.images else None


class OpenImages:
    """A `Look` that opens each image once. Where features are taken later, an image that cannot be
    opened has to show itself while its record can still be replaced."""

    def __init__(self) -> None:
        self._whole: set[str] = set()

    def __call__(self, sample: Sample, tokens: Tokens) -> None:
        for image in tokens.images:
            if image.key not in self._whole:
                image.load()
                self._whole.add(image.key)
