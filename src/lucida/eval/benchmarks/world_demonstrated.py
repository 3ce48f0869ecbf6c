"""In-context learning in the miniature world: questions that only demonstrations can tell."""

from __future__ import annotations

from functools import partial

from lucida.core.errors import RunError
from lucida.eval.benchmark import Example
from lucida.eval.benchmarks.world import QUESTIONS, SEED, WorldBenchmark, item_examples
from lucida.world.demonstrated import SHOTS
from lucida.world.tasks import Item


class Demonstrated(WorldBenchmark):
    """Questions under a rule that only their own demonstrations show (`world.demonstrated`).

    Without demonstrations (0 shots) the rule has to be guessed; with up to four, drawn under the
    same rule and in another order for each seed, it can be read off. Invented words and ways of
    writing are those that no training has seen.

    Reference: Lin et al., VILA, 2023, arXiv 2312.07533, section 3.2.
    """

    def __init__(self, name: str, *, prompts: str | None = None, data: str | None = None) -> None:
        super().__init__(name, prompts=prompts, data=data)
        self.protocols = ("generate",) if name.endswith("format") else ("generate", "likelihood")
        self._shown: dict[str, list[Example]] = {}

    def examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` of 1,000 questions, each with pictures and a rule of its own."""
        wanted = self.count if limit is None else min(limit, self.count)
        while len(self._examples) < wanted:
            item = self.task.item(SEED, self.split, self._next_index, QUESTIONS)
            *shown, asked = self._one_by_one(item)
            self._shown[asked.id] = shown
            self._examples.append(asked)
            self._next_index += 1
        return self._examples[:wanted]

    def demonstrations(self, example: Example, count: int, seed: int) -> list[Example]:
        """`count` of the four that belong to this question, from another one on for each seed."""
        if count > SHOTS:
            raise RunError(
                f"{self.name} has {SHOTS} demonstrations for each question",
                given=count,
                remedy=f"ask it with --shots {SHOTS} at most",
            )
        # Other demonstrations first for each seed; with all four of them only their order differs.
        shown = self._shown[example.id]
        return [shown[(seed + number) % SHOTS] for number in range(count)]

    def _one_by_one(self, item: Item) -> list[Example]:
        """The questions of an item, each behind its own picture alone."""
        parts = zip(item.scenes, item.exchanges, strict=True)
        return [
            item_examples(Item(f"{item.id}/{number}", (scene,), (asked,)), self.prompts)[0]
            for number, (scene, asked) in enumerate(parts)
        ]


word = partial(Demonstrated, "demonstrated-word")
label = partial(Demonstrated, "demonstrated-label")
answer_format = partial(Demonstrated, "demonstrated-format")
