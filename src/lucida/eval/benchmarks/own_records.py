"""What a record asks and what is right there, as a source's samples say it.

Sample ──answers_of──▶ (the sample up to a question, the turn that answers it), ...
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lucida.core.errors import DataError, shorten
from lucida.data.images import image_size
from lucida.data.reader import offer_skipping
from lucida.data.sample import BoxPart, ImagePart, Part, Sample, Turn
from lucida.eval.benchmark import Example
from lucida.eval.metrics.boxes import as_box

_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)
_LETTER = re.compile(r"^\(?([A-Z])(?:[.):]|$)")


SKIP = "on_error: skip of the task (--skip)"
"""What leaves records out that cannot be asked."""


class Refused:
    """Records of a task that cannot be asked, by their numbers. Without `skip` the first of them is
    an error."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.reasons: dict[int, DataError] = {}
        self._asked_by: dict[str, list[int]] = defaultdict(list)
        self._opened: dict[str, DataError | None] = {}

    def note(self, number: int, reason: DataError) -> None:
        """Record `number` cannot be asked; DataError where none may be left out."""
        if not self.skip:
            raise offer_skipping(reason, SKIP)
        self.reasons.setdefault(number, reason)

    def name(self, example: Example, number: int) -> None:
        """Record `number` is asked by this example."""
        self._asked_by[example.id].append(number)

    def opens(self, example: Example) -> bool:
        """Whether all pictures of an example can be opened; without `skip` nobody looks."""
        for image in example.sample.images if self.skip else ():
            if image.key not in self._opened:
                try:
                    image.load()
                    self._opened[image.key] = None
                except DataError as reason:
                    self._opened[image.key] = reason
            if (wrong := self._opened[image.key]) is not None:
                for number in self._asked_by[example.id]:
                    self.note(number, wrong)
                return False
        return True

    @property
    def first(self) -> DataError:
        """Why the first of them cannot be asked."""
        return self.reasons[min(self.reasons)]


def answers_of(sample: Sample) -> Iterator[tuple[Sample, Turn]]:
    """Every turn of the assistant behind a turn of the user, and the sample up to there."""
    for turns in sample.branches:
        for place, turn in enumerate(turns):
            before = turns[:place]
            asks = before[-1] if before else next(iter(sample.stem[-1:]), None)
            if turn.role == "assistant" and asks is not None and asks.role == "user":
                yield keep_shown(replace(sample, branches=(before,))), turn


def keep_shown(sample: Sample) -> Sample:
    """The sample with those of its pictures that are shown in it, in their order."""
    turns = [*sample.stem, *sample.branches[0]]
    parts = [part for turn in turns for part in turn.parts if not isinstance(part, str)]
    used = sorted({part.index for part in parts})
    if len(used) == len(sample.images):
        return sample
    number = {index: place for place, index in enumerate(used)}

    def moved(turn: Turn) -> Turn:
        return Turn(
            turn.role,
            tuple(
                p if isinstance(p, str) else replace(p, index=number[p.index]) for p in turn.parts
            ),
        )

    images = tuple(sample.images[index] for index in used)
    stem = tuple(map(moved, sample.stem))
    return Sample(sample.origin, images, stem, (tuple(map(moved, sample.branches[0])),))


def written(parts: Sequence[Part]) -> str:
    """Parts of a turn as text for people: pictures are left out, boxes have their corners."""
    words = [
        part if isinstance(part, str) else f"({part.x0:g}, {part.y0:g}, {part.x1:g}, {part.y1:g})"
        for part in parts
        if not isinstance(part, ImagePart)
    ]
    return "".join(words).strip()


def question_of(sample: Sample) -> str:
    """What is asked, with the turns before it where there are any."""
    told = [(turn.role, written(turn.parts)) for turn in [*sample.stem, *sample.branches[0]]]
    told = [(role, text) for role, text in told if text]
    if len(told) == 1:
        return told[0][1]
    return "\n".join(f"{role}: {text}" for role, text in told)


def question_key(example: Example) -> object:
    """What two records share that ask the same of the same pictures."""
    return example.question, tuple(image.key for image in example.sample.images), example.kind


def misfit(metric: str, expected: str, given: str, origin: str, remedy: str) -> DataError:
    """The answer of a record is of a kind that the metric does not compare."""
    return DataError(
        f"the metric {metric} does not fit this answer",
        expected=expected,
        given=given,
        origin=origin,
        remedy=remedy,
    )


def with_box(example: Example, answer: Turn, boxes: Sequence[BoxPart]) -> Example:
    """The example with its box in pixels, and the size of the picture that it lies in."""
    origin = example.sample.origin
    if len(boxes) != 1:
        given = f"{len(boxes)} boxes" if boxes else shorten(written(answer.parts))
        remedy = "metric: iou is for sources that give boxes (kind annotations or world); boxes "
        remedy += "written as text are compared by metric: exact"
        raise misfit("iou", "one box", given, origin, remedy)
    (part,) = boxes
    if part.index >= len(example.sample.images):
        raise DataError("a box in a picture that is not shown", given=part.index, origin=origin)
    box = as_box((part.x0, part.y0, part.x1, part.y1))
    if box is None:
        raise DataError("the true box is no box", given=written([part]), origin=origin)
    size = image_size(example.sample.images[part.index])
    return replace(example, box=box, image=part.index, size=size)


def with_options(example: Example, answer: str) -> Example:
    """The example with the options that its question lists, and the letter of the right one.

    Worked example: "Which?\\nA. ear\\nB. eye" with "B", "(B)", "B. eye" or "eye" has the answer B.
    """
    origin = example.sample.origin
    choices = _OPTION.findall(example.question)
    letters = [name for name, _ in choices]
    if len(letters) < 2 or letters != sorted(set(letters)):
        raise misfit(
            "letter",
            "a question with options on lines of their own, such as `A. ear`",
            shorten(example.question),
            origin,
            "write the options into the question, or take metric: exact",
        )
    texts = dict(choices)
    named = _LETTER.match(answer)
    same = [name for name, text in choices if text.lower() == answer.lower()]
    right = named[1] if named and named[1] in texts else same[0] if len(same) == 1 else None
    if right is None:
        remedy = "write the letter of the right option as the answer"
        raise misfit("letter", " or ".join(letters), shorten(answer), origin, remedy)
    return replace(
        example,
        answers=(right,),
        options=tuple(letters),
        candidates=tuple(letters),
        details={"choices": tuple(choices)},
    )


def check_patterns(answers: Sequence[str], origin: str) -> None:
    """DataError for an answer that is no regular expression."""
    for answer in answers:
        try:
            re.compile(answer)
        except re.error as error:
            remedy = "metric: regex takes the answer as a pattern of Python's `re`; else take exact"
            raise misfit("regex", "a pattern", f"{answer!r}: {error}", origin, remedy) from error
