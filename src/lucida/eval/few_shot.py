"""Demonstrations before the question, and the suites of tasks that are asked with them.

    0 shots   <image> Q? ▁
    2 shots   <image> Q? A.  <image> Q? A.  <image> Q? ▁

Demonstrations come from the training split, are drawn anew for every question and every seed, stand
in order with their pictures before them, and nothing of them is trained on. The spread over seeds
says how much the choice of demonstrations matters.

Reference: Alayrac et al., Flamingo, 2022, arXiv 2204.14198, appendix A.2; Lin et al., VILA, 2023,
arXiv 2312.07533, table 5 (OKVQA, TextVQA, COCO and Flickr30k with 0 and 4 shots).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from lucida.core.errors import RunError
from lucida.data.sample import BoxPart, ImagePart, Part, Sample, Turn
from lucida.eval.benchmark import Benchmark, Example

POOL = 500
"""Examples of the training split that demonstrations are drawn from."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks asked with several numbers of demonstrations, as one table."""

    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: int = 3


SUITES = {
    "vila-fewshot": Suite(("okvqa", "textvqa", "coco-captions", "flickr30k"), (0, 4)),
    "world-fewshot": Suite(("attribute", "reading", "counting", "caption"), (0, 4)),
    "world-in-context": Suite(
        ("demonstrated-word", "demonstrated-label", "demonstrated-format"), (0, 2, 4)
    ),
}
"""VILA's four tasks, their twins in the miniature world, and what only demonstrations can tell."""


def add_demonstrations(
    task: Benchmark, examples: Sequence[Example], count: int, seed: int
) -> list[Example]:
    """Each example with `count` demonstrations before it: its own, or drawn from the training
    split. RunError without a training split."""
    own = [task.demonstrations(example, count, seed) for example in examples]
    if all(own):
        return [with_shots(each, shots) for each, shots in zip(examples, own, strict=True)]
    pool = pool_of(task)
    if len(pool) <= count:
        raise RunError(
            f"{task.name} has too few training examples for {count} demonstrations",
            expected=f"more than {count}",
            given=len(pool),
            remedy="ask it without demonstrations (--shots 0)",
        )
    return [with_shots(example, chosen(pool, example, count, seed)) for example in examples]


@cache
def pool_of(task: Benchmark) -> list[Example]:
    """What demonstrations of a task are drawn from."""
    return task.train_examples(POOL)


def chosen(pool: Sequence[Example], example: Example, count: int, seed: int) -> list[Example]:
    """`count` demonstrations for one example: the same for the same seed and id, whatever else is
    asked; none shows a picture of the question."""
    # Of the id and not of the place, so that another --limit or order draws the same.
    digest = hashlib.blake2b(f"{seed}|{example.id}".encode(), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest)).permutation(len(pool))
    own = {source.key for source in example.sample.images}
    found: list[Example] = []
    for place in order:
        shown = {source.key for source in pool[place].sample.images}
        # A picture of the question would give its answer away where splits share pictures.
        if not shown & own:
            found.append(pool[place])
            if len(found) == count:
                return found
    raise RunError(
        "too few training examples show other pictures than the question",
        expected=count,
        given=len(found),
        origin=example.id,
    )


def with_shots(example: Example, shots: Sequence[Example]) -> Example:
    """One conversation: each demonstration's pictures, question and answer, then the question."""
    images, turns = [], []
    for each in [*shots, example]:
        first = len(images)
        images += each.sample.images
        own = [*each.sample.stem, *each.sample.branches[0]]
        turns += [
            Turn(turn.role, tuple(move_images(part, first) for part in turn.parts)) for turn in own
        ]
        if each is not example:
            turns.append(Turn("assistant", (move_images(answer(each), first),)))
    sample = Sample(example.sample.origin, tuple(images), (), (tuple(turns),))
    return replace(example, sample=sample, question=write_conversation(turns))


def answer(example: Example) -> Part:
    """What a demonstration answers."""
    if example.box is not None:
        return BoxPart(example.image, *map(float, example.box))
    return example.answer


def move_images(part: Part, first: int) -> Part:
    """The part in a sample whose pictures begin `first` later."""
    if isinstance(part, ImagePart | BoxPart):
        return replace(part, index=part.index + first)
    return part


def write_conversation(turns: Sequence[Turn]) -> str:
    """A conversation for the record: a line for each turn, `<image>` for a picture."""
    lines = []
    for turn in turns:
        words = []
        for part in turn.parts:
            if isinstance(part, ImagePart):
                words.append("<image>")
            elif isinstance(part, BoxPart):
                words.append(f"({part.x0:.0f}, {part.y0:.0f}, {part.x1:.0f}, {part.y1:.0f})")
            else:
                words.append(part)
        lines.append(f"{turn.role}: {''.join(words)}")
    return "\n".join(lines)


def spread(scores: Sequence[float]) -> dict:
    """Mean and standard deviation (of a sample, n - 1) over seeds; one score has no deviation."""
    values = np.asarray(scores, dtype=np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "sd": deviation, "scores": values.tolist()}
