"""GQA: questions about scene graphs, with one right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lucida.core.errors import DataError
from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_named
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.gqa import gqa_consistency, gqa_match

_PAGE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"


class GQA(PublishedBenchmark):
    """GQA, balanced test-dev: 12,578 questions about 398 pictures.

    testdev_balanced_questions.json: {id: {imageId, question, answer, types: {structural, ...}}}.
    The official script compares strings as they are and leaves normalising to the caller; the
    score is LLaVA's (lower case, no final period), the summary has the other two.

    Reference: Hudson and Manning, GQA, 2019, arXiv 1902.09506.
    """

    name, folder, family, metric = "gqa", "gqa", "vqa", "exact match (LLaVA's)"
    twin = "attribute, relation"
    licence = "CC BY 4.0"
    source = _PAGE
    count = 12_578
    has_train = True
    max_new_tokens = 16
    files = (
        File("gqa/testdev_balanced_questions.json", f"{_PAGE} (questions1.2.zip)", "9 MB"),
        File("gqa/images/", f"{_PAGE} (images.zip)", "20 GB", "images"),
        File("gqa/train_balanced_questions.json", f"{_PAGE} (questions1.2.zip)", "1 GB", "train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of the file, by its id."""
        return read_named(self.questions(split), "question")

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is its structural type."""
        types = record.inside("types")
        return self.asked(
            record,
            [self.picture(self.files[1], f"{record.text('imageId')}.jpg", record)],
            record.text("question"),
            answers=(record.text("answer"),),
            kind=types.text("structural"),
            details={"semantic": types.get("semantic", "")},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the same answer but for capitals and a final period."""
        return gqa_match(parsed, example.answers[0], variant="llava")

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by structural type, binary (all types but query) against open, and
        under the two other readings."""
        pairs = list(zip(examples, scores, strict=True))
        return by_kind(examples, scores) | {
            "binary": percent([score for e, score in pairs if e.kind != "query"]),
            "open": percent([score for e, score in pairs if e.kind == "query"]),
            "official": percent(self._matches(examples, parsed, "official")),
            "lmms": percent(self._matches(examples, parsed, "lmms")),
        }

    def _matches(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], variant: str
    ) -> list[float]:
        pairs = zip(examples, parsed, strict=True)
        return [gqa_match(text, example.answers[0], variant=variant) for example, text in pairs]


class GQAConsistency(GQA):
    """GQA's consistency: balanced test-dev questions, and every question that their answers entail.

    testdev_all_questions.json: {id: {imageId, question, answer, types, isBalanced, entailed: [id,
    ...]}}. Asked are the balanced questions that entail others, and these; all questions about one
    picture stay together. `consistency` (the headline, in percent) is over the balanced ones that
    are answered rightly; a score is, as in `gqa`, whether one question is.

    Worked example: "Is the cat red?" (yes) is right; it entails "Is there a cat?" (right) and "Is
    the cat blue?" (wrong): consistency 50.

    Reference: Hudson and Manning, GQA, 2019, arXiv 1902.09506, section 4.4.
    """

    name = "gqa-consistency"
    count = None
    has_train = False
    headline = "consistency"
    files = (
        File("gqa/testdev_all_questions.json", f"{_PAGE} (questions1.2.zip)", "120 MB"),
        GQA.files[1],
    )

    def records(self, split: Split) -> list[Record]:
        """The balanced questions that entail others, and those."""
        every = {record.id: record for record in super().records(split)}
        wanted: dict[str, Record] = {}
        for record in every.values():
            if record.get("isBalanced") is not True:
                continue
            # The file lists a question among those that it entails.
            follow = [name for name in record.texts("entailed") if name != record.id]
            for name in follow:
                if name not in every:
                    raise record.wrong("entailed", "ids of questions in this file", name)
                wanted.setdefault(name, every[name])
            if follow:
                wanted[record.id] = record
        if not wanted:
            raise DataError(
                "no balanced question of this file entails another",
                expected="`isBalanced` and `entailed` as in testdev_all_questions.json",
                origin=self.path(self.files[0]),
            )
        return list(wanted.values())

    def unit(self, record: Record) -> str:
        """Questions about one picture are scored together."""
        return record.text("imageId")

    def example(self, record: Record) -> Example:
        """A question with what it entails, where it is a balanced one."""
        example = super().example(record)
        balanced = record.get("isBalanced") is True
        follow = [f"{self.prefix}/{name}" for name in record.texts("entailed")] if balanced else []
        return replace(example, details={**example.details, "entailed": tuple(follow)})

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Consistency in percent, under LLaVA's reading and the official one; of how many."""
        entailed = {e.id: e.details["entailed"] for e in examples if e.details["entailed"]}
        names = [example.id for example in examples]
        found, many = gqa_consistency(dict(zip(names, scores, strict=True)), entailed)
        strict = dict(zip(names, self._matches(examples, parsed, "official"), strict=True))
        official, _ = gqa_consistency(strict, entailed)
        return {
            "consistency": 100 * found,
            "consistency official": 100 * official,
            "questions answered rightly that entail others": float(many),
        }
