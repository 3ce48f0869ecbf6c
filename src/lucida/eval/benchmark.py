"""What a benchmark is: examples to ask, a way to read the outputs, scores, and what guessing gives.

    examples ──ask──▶ outputs ──parse──▶ parsed ──scores──▶ one number per example
        └────────────────guesses─────────────────────────▶ chance and majority, on the same scale

Scores are computed for all examples together, because some metrics (CIDEr-D) weigh words by the
whole set. Every example is one question asked by itself: it never sees another question of its
image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lucida.data.sample import Sample
from lucida.eval.metrics.boxes import Box

ReadBox = Callable[[str, int, int], Box | None]
"""(output, width, height of the original image) -> box in its pixels, or None when it is no box."""

Parsed = str | Box | None
"""What an output says: an answer, a box, or None when it is malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question with its truth.

    `sample` has one branch that ends with the user's turn. `cluster` names what is resampled for
    intervals, usually the image. A box question has `box` in pixels of image `image` (0-based)
    whose width and height are `size`; all others have `answers`, any of which is right.
    """

    id: str
    sample: Sample
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: str = ""
    cluster: str = ""
    box: Box | None = None
    image: int = 0
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Guesses:
    """Scores per example without looking at the picture, without a model.

    chance: a random option where there are options, otherwise the majority answer. majority: always
    the most frequent answer of the training split to this kind of question.
    """

    chance: list[float]
    majority: list[float]


class Benchmark(Protocol):
    """A task to measure. `metric` is its unit in words; a score of 1 is shown as 100."""

    name: str
    metric: str

    def examples(self, limit: int | None = None) -> list[Example]:
        """The held-out examples, always the same ones in the same order; the first `limit`."""
        ...

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """What the output says, before it is compared."""
        ...

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """One score per example."""
        ...

    def guesses(self, examples: Sequence[Example]) -> Guesses:
        """What chance and the majority answer score on the same examples."""
        ...
