"""Pairs of answers to one question about pictures: one chosen, one rejected.

    stem: pictures, question ─┬─ assistant: chosen
                              └─ assistant: rejected

From files (RLHF-V, MMPR and others have these columns), or drawn: a true caption of a scene against
one that speaks of a thing which is not there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.data.source import Source
from lucida.data.sources.questions import QuestionsSource, read_answer
from lucida.data.sources.tables import field_of
from lucida.data.sources.world import scene_source
from lucida.world.phrases import short_caption, short_name
from lucida.world.scenes import COLOURS, SHAPES, Scene, Split, make_scene

REQUEST = "describe the picture."


def join_pair(origin: str, asked: Sample, chosen: str, rejected: str) -> Sample:
    """Both answers behind the question of `asked`, whose own answer is left out.

    DataError for equal answers, an empty one, and for a pair without a picture.
    """
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise DataError(
                f"the {name} answer of a pair is empty",
                origin=origin,
                remedy="leave the record out, or name its column (`chosen`, `rejected`)",
            )
    if not asked.images:
        raise DataError(
            "a pair of answers lacks its picture",
            origin=origin,
            remedy="leave the record out; preference here is about pictures",
        )
    if chosen.strip() == rejected.strip():
        raise DataError(
            "the chosen and the rejected answer are the same",
            given=chosen.strip()[:80],
            origin=origin,
            remedy="leave the record out: there is nothing to prefer",
        )
    *before, _ = asked.branches[0]
    branches = tuple((Turn("assistant", (answer,)),) for answer in (chosen, rejected))
    return Sample(origin, asked.images, (*asked.stem, *before), branches)


class PreferencesSource(QuestionsSource):
    """Rows of pictures, a question, a chosen and a rejected answer; otherwise as `questions`.

    DataError: also for equal answers and for a row without a picture.
    """

    branches = 2

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        image: str | None = None,
        question: str | None = None,
        chosen: str = "chosen",
        rejected: str = "rejected",
        columns: list[str] | None = None,
        prompts: list[str] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        super().__init__(path, images, image, question, chosen, columns, prompts, allow_outside)
        self.rejected = rejected

    def shape(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that are read of a row."""
        return {**super().shape(record), self.rejected: None}

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A row as a sample of two branches."""
        asked = super().made(record, origin, index, words)
        answers = (field_of(record, name, origin) for name in (self.answer, self.rejected))
        return join_pair(origin, asked, *(read_answer(each, origin) for each in answers))


class WorldPreferences(Source):
    """Scenes of the miniature world, a true caption chosen and a hallucinated one rejected: of one
    thing it gives another colour or shape, so that no such thing is in the scene."""

    branches = 2

    def __init__(
        self, split: Split = "train", count: int = 4096, size: int = 64, seed: int = 0
    ) -> None:
        self.split, self.count, self.size, self.seed = split, count, size, seed

    def __len__(self) -> int:
        return self.count

    def held_out(self, at_most: int) -> WorldPreferences:
        """Pairs of the validation split, at most so many."""
        return WorldPreferences("validation", min(self.count, at_most), self.size, self.seed)

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A pair; it has no caption to be replaced."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = make_scene(self.seed, self.split, index, self.size)
        turns = (Turn("user", (REQUEST,)), Turn("assistant", ()))
        stem = (Turn("user", (ImagePart(0),)),)
        asked = Sample(scene.id, (scene_source(scene),), stem, (turns,))
        other = hallucinate(scene, random.Random(f"{self.seed} {self.split} {index}"))
        return join_pair(
            f"preference/{scene.id}", asked, short_caption(scene), short_caption(other)
        )


def hallucinate(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one of its things in another colour or of another shape, such that the words
    for it fit nothing that is there."""
    known = {short_name(thing) for thing in scene.things}
    number = rng.randrange(len(scene.things))
    thing = scene.things[number]
    others = [replace(thing, colour=colour) for colour in COLOURS]
    others += [replace(thing, shape=shape) for shape in SHAPES]
    wrong = rng.choice([other for other in others if short_name(other) not in known])
    things = (*scene.things[:number], wrong, *scene.things[number + 1 :])
    return replace(scene, things=things)
