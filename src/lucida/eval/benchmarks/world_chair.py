"""Captions of the miniature world by what they invent: CHAIR with exact truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lucida.eval.benchmark import Example, Parsed
from lucida.eval.benchmarks.world import QUESTIONS, SEED, WorldBenchmark
from lucida.eval.metrics.mentions import chair_scores, find_mentions, is_there
from lucida.world.scenes import Scene


class CaptionChair(WorldBenchmark):
    """The questions of `caption`, scored by whether everything that is named is there.

    A caption scores 1 when it names something and invents nothing, else 0. The summary has CHAIRi,
    CHAIRs (both better when lower) and cover in percent, and mentions for each caption: a model
    that says little invents little.

    Reference: Rohrbach et al., Object Hallucination in Image Captioning, 2018, arXiv 1809.02156.
    """

    def __init__(self, *, prompts: str | None = None, data: str | None = None) -> None:
        super().__init__("caption", prompts=prompts, data=data)
        self.name, self.metric, self.together = "caption-chair", "nothing invented", False
        self.twin = "amber"
        self._scenes: dict[str, tuple[dict[str, str], ...]] = {}

    def examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` pictures, with what is on them in the details."""
        asked = super().examples(limit)
        # Pictures come in the order of their numbers, so those that are missing are the next ones.
        for index in range(len(self._scenes), len({example.cluster for example in asked})):
            item = self.task.item(SEED, self.split, index, QUESTIONS)
            self._scenes[item.id] = describe_scene(item.scenes[0])
        return [
            replace(example, details={"scene": self._scenes[example.cluster]}) for example in asked
        ]

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where something is named and all of it is there."""
        there = [is_there(each, example.details["scene"]) for each in find_mentions(parsed)]
        return float(bool(there) and all(there))

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """CHAIRi, CHAIRs and cover in percent, and mentions for each caption."""
        chair = chair_scores(parsed, [example.details["scene"] for example in examples])
        return {
            "CHAIRi": 100 * chair.instances,
            "CHAIRs": 100 * chair.sentences,
            "cover": 100 * chair.cover,
            "mentions": chair.mentions,
        }


def describe_scene(scene: Scene) -> tuple[dict[str, str], ...]:
    """The things and signs of a scene by their attributes."""
    things = [
        {"size": t.size, "colour": t.colour, "texture": t.texture, "shape": t.shape}
        for t in scene.things
    ]
    return (*things, *({"word": sign.word} for sign in scene.signs))
