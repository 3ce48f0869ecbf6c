"""The same task asked differently: without pictures, with wrong ones, with demonstrations, aloud.

A variant changes the prompt of every example and nothing else; ids, truths and scores stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.eval.benchmark import Benchmark, Example, Way

Pictures = Literal["shown", "removed", "shuffled"]

THINK = "\nLet's think step by step."
"""What asks for reasoning before the answer.

Reference: Kojima et al., Large Language Models are Zero-Shot Reasoners, 2022, arXiv 2205.11916; Lin
et al., VILA, 2023, arXiv 2312.07533, section 4.3 (visual chain of thought)."""


THINK_TOKENS = 512
"""How long an answer with its reasoning can be: a task's own limit is that of a bare answer."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How a task is asked. `seed` chooses demonstrations and wrong pictures."""

    way: Way
    pictures: Pictures = "shown"
    shots: int = 0
    seed: int = 0
    think: bool = False

    def key(self, task: Benchmark) -> str:
        """Name of the file of its predictions; the usual way has the task's own name."""
        words = [task.name]
        if self.way != "generate":
            words.append(self.way)
        if self.pictures != "shown":
            words.append(self.pictures)
        if self.shots:
            words.append(f"{self.shots}-shot-{self.seed}")
        if self.think:
            words.append("think")
        return ".".join(words)

    def examples(self, task: Benchmark, examples: Sequence[Example]) -> list[Example]:
        """The examples as they are asked."""
        changed = list(examples)
        if self.think:
            changed = [aloud(example) for example in changed]
        if self.pictures == "removed":
            changed = [without_pictures(example) for example in changed]
        if self.pictures == "shuffled":
            changed = shuffle_images(changed, self.seed)
        if self.shots:
            from lucida.eval.few_shot import add_demonstrations

            changed = add_demonstrations(task, changed, self.shots, self.seed)
        return changed


def aloud(example: Example) -> Example:
    """The question with the words that ask for reasoning behind it."""
    *before, last = example.sample.branches[0]
    asked = (*before, Turn(last.role, (*last.parts, THINK)))
    return replace(
        example,
        sample=replace(example.sample, branches=(asked,)),
        question=example.question + THINK,
    )


_CONCLUSION = re.compile(
    r"\\boxed\{([^{}]*)\}|(?<![a-z])answer[\s*_]*(?:is(?![a-z])|[:=])[\s*_:=]*", re.IGNORECASE
)


def conclusion(output: str) -> str:
    """What a reasoning output ends with: what stands in its last box or behind its last "answer is"
    or "answer:", or its last line; without bold marks around it.

    Worked example: "Two reds and a blue. The answer is three." gives "three."; "**Final answer:**
    three" gives "three"; "It is round.\\nred" gives "red".
    """
    *_, last = [None, *_CONCLUSION.finditer(output)]
    if last is not None:
        return (output[last.end() :] if last[1] is None else last[1]).strip(" *")
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def without_pictures(example: Example) -> Example:
    """The words alone."""
    sample = example.sample
    strip = lambda turns: tuple(  # noqa: E731
        Turn(turn.role, tuple(part for part in turn.parts if not isinstance(part, ImagePart)))
        for turn in turns
    )
    stem = tuple(turn for turn in strip(sample.stem) if turn.parts)
    return replace(
        example, sample=Sample(sample.origin, (), stem, tuple(map(strip, sample.branches)))
    )


def shuffle_images(examples: Sequence[Example], seed: int) -> list[Example]:
    """Every question behind the pictures of another: no group of pictures stays where it was.

    Groups of equally many pictures are exchanged, in a cycle of random order; a group that is alone
    with its number of pictures stays, as there is nothing to exchange it with.
    """
    groups: dict[tuple[str, ...], tuple[ImageSource, ...]] = {}
    for example in examples:
        sources = example.sample.images
        groups.setdefault(tuple(source.key for source in sources), sources)
    generator = np.random.default_rng(seed)
    other: dict[tuple[str, ...], tuple[ImageSource, ...]] = {}
    for count in sorted({len(names) for names in groups}):
        names = [each for each in groups if len(each) == count]
        order = [names[place] for place in generator.permutation(len(names))]
        for own, following in zip(order, [*order[1:], *order[:1]], strict=True):
            other[own] = groups[following]
    return [
        replace(example, sample=replace(example.sample, images=other[_names(example)]))
        for example in examples
    ]


def _names(example: Example) -> tuple[str, ...]:
    return tuple(source.key for source in example.sample.images)
