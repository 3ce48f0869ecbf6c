"""The benchmarks of the miniature world: one class, one entry for each task family.

Examples come from the test split, whose scenes no training sees. What guessing gives is worked out
from the training split's answers, never from the test's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from lucida.data.sample import Sample, Turn
from lucida.data.sources.world import item_sample
from lucida.eval.benchmark import Benchmark, Example, Parsed, ReadBox
from lucida.eval.metrics.boxes import Box, box_hit
from lucida.eval.metrics.cider import cider_d
from lucida.eval.metrics.exact import exact_match
from lucida.eval.metrics.ptb import tokenize
from lucida.eval.prompts import prompt_set, write
from lucida.world.questions import POINT
from lucida.world.scenes import Split
from lucida.world.tasks import TASKS, Exchange, Item

QUESTIONS = 5
"""Most questions about one picture; more would be cheaper to ask and say less."""
COUNT = 1000
"""Examples of a benchmark."""
TRAIN_ITEMS = 300
"""Pictures of the training split from whose answers the majority is taken."""
SEED = 0
_FAMILIES = {
    "caption": "caption",
    "unanswerable": "vizwiz",
    "reading": "textvqa",
    "reading-by-place": "textvqa",
    "boxes": "box",
    "boxes-precise": "box",
    "spatial": "statement",
    "spatial-pointed": "statement",
    "counting": "vqa",
    "presence": "yes-no",
    "presence-random": "yes-no",
    "presence-popular": "yes-no",
    "presence-adversarial": "yes-no",
    "presence-detailed": "yes-no",
    "tissue-mitosis": "yes-no",
}
"""What kind of prompt a task takes; the others take that of short answers."""
_OPEN = {"unanswerable", "reading", "reading-by-place", "spatial-nearest"}
"""Tasks whose questions name no options."""
_THRESHOLDS = {"box": 0.5, "box-precise": 0.75}
_METRICS = {
    "exact": "exact match",
    "final": "exact match of the last word",
    "box": "IoU ≥ 0.5",
    "box-precise": "IoU ≥ 0.75",
    "caption": "CIDEr-D",
}


class WorldBenchmark(Benchmark):
    """Held-out questions of one task family, each asked by itself.

    exact: the answer after `metrics.exact.normalise`. final: the same of the last word, where the
    answer comes behind boxes that are pointed at first (the boxes are not scored). box: IoU of at
    least 0.5 in pixels of the original picture. box-precise: of at least 0.75, which boxes of 32
    bins can reach for 95 of 100 things of a 64-pixel picture. caption: CIDEr-D against five
    references, weights from the same set.

    Worked example: of 1,000 presence questions half have the answer "yes", so both chance and the
    majority answer score about 0.5, and a model that sees scores more.

    Reference: Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865 (the suite of tasks); each
    family's `twin` names the benchmark that it is the miniature of.
    """

    licence = "Lucida's own"
    source = "drawn by lucida.world, no files"
    count = COUNT

    def __init__(
        self,
        name: str,
        split: Split = "test",
        *,
        prompts: str | None = None,
        data: str | None = None,
    ) -> None:
        """`split` novel: pictures with a pair of colour and shape that no training has seen.

        `prompts` is by default `plain`, the words of the training data; another set rewrites the
        questions. There are no files, so `data` is not looked at.
        """
        self.prompts = prompt_set(prompts or "plain").name
        self.family = _FAMILIES.get(name, "vqa")
        self.name = name if split == "test" else f"{name}-{split}"
        self.split: Split = split
        self.task = TASKS[name]
        self.metric = _METRICS[self.task.metric]
        self.twin = self.task.twin
        self.together = self.task.metric == "caption"
        if f"{name}-pointed" in TASKS:  # recipes teach its chain of thought: boxes, then the answer
            self.reasoning = POINT
        choice = self.task.metric == "exact" and name not in _OPEN
        self.protocols = ("generate", "likelihood") if choice else ("generate",)
        self._examples: list[Example] = []
        self._next_index = 0

    def examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` of 1,000 questions about test pictures, up to five for each picture."""
        wanted = COUNT if limit is None else min(limit, COUNT)
        while len(self._examples) < wanted:
            item = self.task.item(SEED, self.split, self._next_index, QUESTIONS)
            # Drawn one by one and kept: a larger limit goes on where the last one ended.
            self._examples += item_examples(item, self.prompts, self.family)
            self._next_index += 1
        return self._examples[:wanted]

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """Questions about training pictures, one of each, so that demonstrations differ."""
        wanted = COUNT if limit is None else min(limit, COUNT)
        first = 1_000_000  # beyond what recipes train on: a demonstration is seen once
        items = (self.task.item(SEED, "train", first + n, QUESTIONS) for n in range(wanted))
        return [item_examples(item, self.prompts, self.family)[0] for item in items]

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The answer without the space around it, or the box in pixels of the original picture."""
        if self.task.metric == "final":
            return output.strip().rpartition(" ")[2]
        if example.box is None:
            return output.strip()
        return read_box(output, *example.size)

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """Between 0 and 1 (captions: 0 to 10), one for each example."""
        if self.together:
            references = [[tokenize(answer) for answer in e.answers] for e in examples]
            return cider_d([tokenize(text or "") for text in parsed], references)
        return super().scores(examples, parsed)

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the right answer, or for a box that overlaps enough."""
        if self.task.metric in _THRESHOLDS:
            return box_hit(parsed, example.box, _THRESHOLDS[self.task.metric])
        return exact_match(parsed or "", example.answers)

    def majority(self, examples: Sequence[Example]) -> Sequence[Parsed]:
        """The training split's most frequent answer of that kind."""
        return [self._usual(example) for example in examples]

    def _usual(self, example: Example) -> Parsed:
        """The most frequent training answer to this kind of question; for boxes the median box."""
        if example.box is None:
            return self._usual_answers.get(example.kind, "")
        width, height = example.size
        x0, y0, x1, y1 = self._usual_box
        return x0 * width, y0 * height, x1 * width, y1 * height

    @cached_property
    def _usual_answers(self) -> dict[str, str]:
        counts: dict[str, Counter[str]] = {}
        for _, exchange in self._training_exchanges():
            counts.setdefault(exchange.kind, Counter())[exchange.answer] += 1
        return {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}

    @cached_property
    def _usual_box(self) -> Box:
        shares = []
        for item, exchange in self._training_exchanges():
            scene = item.scenes[exchange.image]
            sides = (scene.width, scene.height, scene.width, scene.height)
            shares.append(np.divide(exchange.box, sides))
        return tuple(float(value) for value in np.median(shares, axis=0))

    def _training_exchanges(self) -> list[tuple[Item, Exchange]]:
        items = (self.task.item(SEED, "train", i, QUESTIONS) for i in range(TRAIN_ITEMS))
        return [(item, exchange) for item in items for exchange in item.exchanges]


def item_examples(item: Item, prompts: str = "plain", family: str = "vqa") -> list[Example]:
    """Every question of an item as an example by itself: the training sample's stem and one branch
    of it, without the answer."""
    sample = item_sample(item)
    examples = []
    for number, exchange in enumerate(item.exchanges):
        scene = item.scenes[exchange.image]
        name = f"{item.id}/{number}"
        question = reword(exchange.question, prompts, family)
        captions = exchange.task == "caption"
        answers = exchange.options if captions else (exchange.answer,)
        options = () if captions or exchange.box else exchange.options
        examples.append(
            Example(
                id=name,
                sample=Sample(name, sample.images, sample.stem, ((Turn("user", (question,)),),)),
                question=question,
                answers=() if exchange.box else answers,
                options=options,
                candidates=options,
                kind=exchange.kind,
                cluster=item.id,
                box=exchange.box,
                image=exchange.image,
                size=(scene.width, scene.height),
            )
        )
    return examples


def reword(question: str, prompts: str, family: str) -> str:
    """A question of the world in the words of a set; `plain` leaves it as it was trained.

    Worked example: "where is the red star?" in `llava` asks for the box of "the red star".
    """
    if prompts == "plain":
        return question
    point = f"{POINT} " if question.startswith(POINT) else ""
    core = question.removeprefix(point).removeprefix("true or false: ")
    if family == "box":
        core = core.removeprefix("where is ").removesuffix("?")
    return point + write(prompts, family, question=core)


caption = partial(WorldBenchmark, "caption")
attribute = partial(WorldBenchmark, "attribute")
unanswerable = partial(WorldBenchmark, "unanswerable")
reading = partial(WorldBenchmark, "reading")
boxes = partial(WorldBenchmark, "boxes")
relation = partial(WorldBenchmark, "relation")
side = partial(WorldBenchmark, "side")
relation_pointed = partial(WorldBenchmark, "relation-pointed")
spatial = partial(WorldBenchmark, "spatial")
spatial_pointed = partial(WorldBenchmark, "spatial-pointed")
counting = partial(WorldBenchmark, "counting")
counting_pointed = partial(WorldBenchmark, "counting-pointed")
presence = partial(WorldBenchmark, "presence")
presence_random = partial(WorldBenchmark, "presence-random")
presence_popular = partial(WorldBenchmark, "presence-popular")
presence_adversarial = partial(WorldBenchmark, "presence-adversarial")
diagram = partial(WorldBenchmark, "diagram")
comparison = partial(WorldBenchmark, "comparison")
attribute_by_relation = partial(WorldBenchmark, "attribute-by-relation")
presence_detailed = partial(WorldBenchmark, "presence-detailed")
counting_compared = partial(WorldBenchmark, "counting-compared")
spatial_nearest = partial(WorldBenchmark, "spatial-nearest")
boxes_precise = partial(WorldBenchmark, "boxes-precise")
reading_by_place = partial(WorldBenchmark, "reading-by-place")
tissue_kind = partial(WorldBenchmark, "tissue-kind")
tissue_counting = partial(WorldBenchmark, "tissue-counting")
tissue_mitosis = partial(WorldBenchmark, "tissue-mitosis")
tissue_denser = partial(WorldBenchmark, "tissue-denser")
attribute_novel = partial(WorldBenchmark, "attribute", "novel")
boxes_novel = partial(WorldBenchmark, "boxes", "novel")
