"""What a benchmark is: examples to ask, a way to read the outputs, scores, and what guessing gives.

    examples ──ask──▶ outputs ──parse──▶ parsed ──scores──▶ one number per example
        │                                   └────summary──▶ the named totals that papers print
        └────────────────guesses─────────────────────────▶ chance and majority, on the same scale

Scores are computed for all examples together, because some metrics (CIDEr-D) weigh words by the
whole set. Every example is one question asked by itself: it never sees another question of its
image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lucida.core.errors import DataError, RunError
from lucida.data.sample import Sample
from lucida.eval.metrics.boxes import Box

ReadBox = Callable[[str, int, int], Box | None]
"""(output, width, height of the original image) -> box in its pixels, or None when it is no box."""

Parsed = str | Box | None
"""What an output says: an answer, a box, or None when it is malformed."""

Protocol = Literal["generate", "likelihood", "loss"]
"""How an example is asked.

generate     the output is what the model writes, greedily.
likelihood   the output is the one of `Example.candidates` that the model finds likeliest.
loss         nothing is chosen: `sample` is a document (a turn of role `text`, which `candidates[0]`
             repeats) and the output is the JSON text `{"nats": 12.5, "tokens": 7}`: its negative
             log-likelihood summed over its tokens, and how many those are.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question with its truth.

    `sample` has one branch that ends with the user's turn (or is a document, protocol `loss`).
    `cluster` names what is resampled for intervals, usually the image. A box question has `box` in
    pixels of image `image` (0-based) whose width and height are `size`; all others have `answers`,
    any of which is right (for soft scores: every annotator's, repeated as they were given).

    `options` are the right and wrong answers that the question names, for chance. `candidates` are
    the strings whose likelihoods are compared; the chosen one is parsed as if it had been written.
    `details` hold what a benchmark's own scorer and report need: answer type, OCR tokens, group.
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
    candidates: tuple[str, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def answer(self) -> str:
        """The answer a demonstration shows: the most frequent one, of several the first given.

        Worked example: ("red", "maroon", "red") gives "red". A box question has none ("").
        """
        return Counter(self.answers).most_common(1)[0][0] if self.answers else ""


@dataclass(frozen=True, slots=True)
class Guesses:
    """Scores per example without looking at the picture, without a model.

    chance: a random option where there are options, otherwise the majority answer. majority: always
    the most frequent answer to this kind of question, of the training split in the miniature world
    and of these very examples in a published benchmark (whose training split may not be at hand).
    """

    chance: list[float]
    majority: list[float]


@dataclass(frozen=True, slots=True)
class File:
    """One published file. `path` is relative to the data root, `source` where the publisher offers
    it, `size` about how large it is ("95 MB"). A folder of pictures ends with a slash.

    `needed` is for what: the questions themselves, the pictures, or the training split (few-shot).
    """

    path: str
    source: str
    size: str
    needed: Literal["questions", "images", "train"] = "questions"


@dataclass(frozen=True, slots=True)
class AttackJudge:
    """How a benchmark of bad requests has its judge asked whether an answer is safe or unsafe.

    prompts: kind of example -> the publisher's words, `{prediction}` where the answer goes. detail:
    which detail of an example parts each kind, as the official script counts.
    """

    prompts: Mapping[str, str]
    detail: str

    def ask(self, example: Example, output: str) -> str:
        """What the judge is asked about an answer."""
        return self.prompts[example.kind].format(prediction=output)

    def part(self, example: Example) -> str:
        """The name of what an answer is counted in, as "06-Fraud SD"."""
        return f"{example.kind} {example.details[self.detail]}"


class Benchmark(ABC):
    """A task to measure. `metric` is its unit in words; a score of 1 is shown as 100."""

    name: str
    metric: str
    family: str = ""
    """What kind of prompt it takes, as `eval.prompts` lists them."""
    prompts: str = "plain"
    """The set of prompts that its examples are written in."""
    twin: str = ""
    """For the miniature world the benchmark it imitates, for a published one its miniature."""
    licence: str = ""
    source: str = ""
    """Who publishes it, with the address."""
    files: tuple[File, ...] = ()
    count: int | None = None
    """How many examples the whole benchmark has; None is not known before the files are read."""
    headline: str = ""
    """The entry of `summary` that papers quote; empty means the mean of the scores."""
    max_new_tokens: int | None = None
    """How long an answer can be; None leaves it to the recipe."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends."""
    protocols: tuple[Protocol, ...] = ("generate",)
    """How it can be asked, the usual way first."""
    shots: int = 0
    """Demonstrations that its prompt holds already."""
    judged: bool = False
    """True when nobody but an outside judge can score it: `scores` refuses, and `answers_file`
    gives what the judge reads."""
    exports: bool = False
    """True when `answers_file` is written beside the score, as when the publisher's scorer has a
    language model read the outputs."""
    higher_is_better: bool = True
    declares: bool = False
    """True when `parse` finds what a reasoning output declares by itself, as a letter; the words of
    its conclusion alone do not show that."""
    reasoning: str = ""
    """What asks for reasoning, in words that its models know and put before a question; the answer
    is then the last word. Empty takes the field's request (`plan.THINK`)."""
    together: bool = False
    """True when a score also depends on the examples that are scored with it, as the weights of
    CIDEr-D do: scores of other sets of examples are compared only after scoring anew."""

    @property
    def root(self) -> Path | None:
        """The folder that the paths of `files` start from; None where there are no files. DataError
        when nobody said where it is."""
        return None

    @property
    def description(self) -> Mapping[str, object]:
        """What results.json has to say beside the name, to know what was asked: of tasks over own
        records `own`, how they are described, and `fingerprint` of what they hold."""
        return {}

    @property
    def left_out(self) -> Mapping[str, object] | None:
        """What `core.results.LeftOut` holds, where records were left out of the examples."""
        return None

    def explain(self, reason: DataError) -> DataError:
        """An error that came up while examples were asked, with what this task can do about it."""
        return reason

    @abstractmethod
    def examples(self, limit: int | None = None) -> list[Example]:
        """The held-out examples, always the same ones in the same order; the first `limit`.

        Questions that are only scored together (the rotations of one MMBench question, the two
        questions of an MME picture) stay together: then there may be a few fewer than `limit`.
        """

    @abstractmethod
    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """What the output says, before it is compared."""

    def score(self, example: Example, parsed: Parsed) -> float:
        """The score of one example that can be told by itself: 1 for the first of its answers."""
        return float(parsed == example.answers[0])

    def is_read(self, example: Example, parsed: Parsed) -> bool:
        """Whether the rule finds an answer in what was parsed; where it does not, a judge may be
        asked to (`eval.judge`)."""
        return parsed is not None

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """One score per example."""
        return [self.score(each, said) for each, said in zip(examples, parsed, strict=True)]

    @abstractmethod
    def majority(self, examples: Sequence[Example]) -> Sequence[Parsed]:
        """What a guesser who knows only the usual answers says to each example."""

    def guesses(self, examples: Sequence[Example]) -> Guesses:
        """What chance and the majority answer score on the same examples."""
        majority = self.scores(examples, self.majority(examples))
        chance = [
            1 / len(example.options) if example.options else score
            for example, score in zip(examples, majority, strict=True)
        ]
        return Guesses(chance, majority)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Named totals beside the mean of the scores, in the field's own units (POPE F1, accuracy
        per type of answer, MME totals); empty when there are none."""
        return {}

    def attack_judge(self) -> AttackJudge | None:
        """How the official judge of bad requests is asked (`eval.attacks`); None where there is no
        such thing. DataError: the publisher's file with its words is missing or another."""
        return None

    def ranked(
        self, examples: Sequence[Example], likelihoods: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """Named totals from the log-likelihoods of every example's candidates (whole answers), for
        what no choice can show: how well right and wrong are separated. Asked only where all
        examples have them; empty when there are none."""
        return {}

    def train_examples(self, limit: int | None = None) -> list[Example]:
        """Examples of the training split for demonstrations, in one fixed shuffled order; the first
        `limit`. Empty when there is no training split."""
        return []

    def demonstrations(self, example: Example, count: int, seed: int) -> Sequence[Example] | None:
        """The demonstrations that belong to this example; None draws from `train_examples`."""
        return None

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """Name and content of the file that the official judge or server reads; RunError where
        nobody but `scores` judges."""
        raise RunError(f"{self.name} is scored here and has no outside judge", origin=model)
