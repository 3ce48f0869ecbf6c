"""Your own records as a benchmark: whatever source a recipe can train on can be measured on.

    record ──Sample──▶ every turn of the assistant: what stands before it is the question
                       the same pictures and question again: one example with several answers

The question is asked in the very words of the file, whatever prompts other benchmarks take. In a
conversation of several turns the earlier answers stand before the question as the file has them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn

from lucida.core.errors import DataError, RunError, shorten
from lucida.core.spec import OwnTaskSpec
from lucida.data.fingerprint import record_facts
from lucida.data.mixture import Source
from lucida.data.reader import offer_skipping
from lucida.data.sample import BoxPart, Sample, Turn
from lucida.data.sources import open_source
from lucida.data.sources.tables import field_of
from lucida.eval.benchmark import Benchmark, Example, Guesses, Parsed, Protocol, ReadBox
from lucida.eval.benchmarks.captions import score_corpus, score_each_caption
from lucida.eval.benchmarks.own_records import (
    SKIP,
    Refused,
    answers_of,
    check_patterns,
    misfit,
    question_key,
    question_of,
    with_box,
    with_options,
    written,
)
from lucida.eval.benchmarks.own_scores import overlap, score
from lucida.eval.benchmarks.published import percent, shuffle_key, usual_answers
from lucida.eval.metrics.answers import normalise
from lucida.eval.metrics.choice import letter

PROMPTS = "as written"
"""In place of the name of a set of prompts: the questions are the file's."""
METRICS = {
    "exact": "exact match",
    "vqa": "VQA accuracy",
    "anls": "ANLS",
    "relaxed": "relaxed accuracy",
    "iou": "IoU ≥ 0.5",
    "cider": "CIDEr-D",
    "letter": "accuracy",
    "contains": "answer in the output",
    "regex": "pattern found",
    "judge-export": "outside judge",
}
"""How the unit of each metric is called."""
ANNOTATORS = 4
"""Fewest answers of which a consensus can be full: three others must have said the same."""
MOST_CANDIDATES, USES = 20, 3
"""An answer that is one of so few, each used so often on average, can be asked by likelihood."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer of a record with what stands before it. `part` counts those of the record."""

    index: int
    part: int
    sample: Sample
    answer: Turn


class OwnTask(Benchmark):
    """Every answer of a source's records, asked for and compared by one metric.

    DataError, with the file and the record: nothing is asked or answered there, the answer is of a
    kind that the metric does not compare, a field is missing. Nothing is passed over, but where the
    task skips such records, and those with pictures that cannot be opened; they are `left_out`.
    """

    family, prompts = "own", PROMPTS
    licence = "your own"

    def __init__(self, spec: OwnTaskSpec) -> None:
        self.spec, self.name = spec, spec.task
        self.metric = METRICS[spec.metric]
        self.source = str(getattr(spec.source, "path", spec.source.kind))
        self.judged = spec.metric == "judge-export"
        self.together = spec.metric == "cider"
        self.declares = spec.metric == "letter"
        self._refused = Refused(spec.on_error == "skip")

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """By likelihood as well where the answer is one of few."""
        closed = all(example.candidates for example in self._every)
        return ("generate", "likelihood") if closed else ("generate",)

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self._every)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the records' texts and pictures (of many, of 128 spread evenly)."""
        facts = {"records": len(self._records)} | record_facts(self._records)
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()

    @property
    def description(self) -> dict[str, object]:
        """How the task is described, and what its records hold."""
        return {"own": self.spec.model_dump(mode="json"), "fingerprint": self.fingerprint}

    @cached_property
    def _records(self) -> Source:
        return open_source(self.spec.source)

    def examples(self, limit: int | None = None) -> list[Example]:
        """The first `limit` in a fixed shuffled order, so that they are a fair part of a file that
        is sorted."""
        usable = (example for example in self._every if self._refused.opens(example))
        return list(islice(usable, limit)) or self._refuse_all()

    def _refuse_all(self) -> NoReturn:
        raise DataError(
            f"none of {len(self._records):,} records can be asked; the first: {self._refused.first}"
        )

    @property
    def left_out(self) -> dict[str, object] | None:
        """Records that cannot be asked, among those that were looked at."""
        refused = self._refused.reasons
        return {"records": len(refused), "first": str(self._refused.first)} if refused else None

    def explain(self, reason: DataError) -> DataError:
        """For a picture that cannot be opened: what leaves it out."""
        shown = {image.origin for example in self._every for image in example.sample.images}
        if any(str(reason).startswith(f"{origin}: ") for origin in shown):
            return offer_skipping(reason, SKIP)
        return reason

    @cached_property
    def _every(self) -> list[Example]:
        found: dict[object, Example] = {}
        for index in range(len(self._records)):
            try:
                examples = [self._example(asked) for asked in self._asked(index)]
            except DataError as reason:
                self._refused.note(index, reason)
                continue
            for example in examples:
                # Boxes are no alternatives to each other: each is asked for by itself.
                same = example.id if self.spec.metric == "iou" else question_key(example)
                before = found.get(same)
                if before is not None:
                    example = replace(before, answers=before.answers + example.answers)
                self._refused.name(example, index)
                found[same] = example
        if not found:
            self._refuse_all()
        examples = sorted(found.values(), key=lambda example: shuffle_key(example.id))
        self._check(examples)
        return self._with_candidates(examples)

    def _asked(self, index: int) -> Iterator[Asked]:
        """Every answer of a record."""
        sample = self._records[index]
        answers = list(answers_of(sample))
        if not answers:
            document = any(turn.role == "text" for turns in sample.branches for turn in turns)
            raise DataError(
                "a record without an answer to a question"
                if not document
                else "the record is a document: nobody asks anything there",
                origin=sample.origin,
                remedy="give the source `prompts`: what is asked of each picture"
                if document
                else "add the answer, or take the record out of the file",
            )
        if self.spec.answers is not None and len(answers) > 1:
            raise DataError(
                "a record with several questions has one list of right answers",
                expected="one question",
                given=len(answers),
                origin=sample.origin,
                remedy="leave `answers` out, or write a record for each question",
            )
        for part, (before, answer) in enumerate(answers):
            yield Asked(index, part if len(answers) > 1 else -1, before, answer)

    def _example(self, asked: Asked) -> Example:
        sample, origin = asked.sample, asked.sample.origin
        name = f"{self.name}/{asked.index}"
        boxes = [part for part in asked.answer.parts if isinstance(part, BoxPart)]
        example = Example(
            id=name if asked.part < 0 else f"{name}.{asked.part}",
            sample=sample,
            question=question_of(sample),
            answers=(),
            kind="" if self.spec.by is None else self._kind(asked),
            cluster="|".join(source.key for source in sample.images) or f"{name}",
        )
        if self.spec.metric == "iou":
            return with_box(example, asked.answer, boxes)
        if boxes and self.spec.answers is None:
            raise misfit(self.spec.metric, "a text", "a box", origin, "metric: iou compares boxes")
        answers = self._answers(asked)
        if self.spec.metric == "letter":
            return with_options(example, answers[0])
        if self.spec.metric == "regex":
            check_patterns(answers, origin)
        return replace(example, answers=answers)

    def _answers(self, asked: Asked) -> tuple[str, ...]:
        """All right answers, none of them empty."""
        origin = asked.sample.origin
        if self.spec.answers is None:
            given: Any = [written(asked.answer.parts)]
        else:
            given = self._field(asked, self.spec.answers)
            given = given if isinstance(given, list | tuple) else [given]
        # Annotators' answers may be objects, as VQAv2 has them.
        texts = [each.get("answer") if isinstance(each, dict) else each for each in given]
        texts = [str(e) if isinstance(e, int) and not isinstance(e, bool) else e for e in texts]
        wrong = [each for each in texts if not isinstance(each, str) or not each.strip()]
        if wrong or not texts:
            raise DataError(
                "a record without an answer",
                expected="a text",
                given=shorten(wrong[0]) if wrong else "none",
                origin=origin,
                remedy="fill it in, or take the record out of the file",
            )
        return tuple(each.strip() for each in texts)

    def _kind(self, asked: Asked) -> str:
        value = self._field(asked, self.spec.by)
        if isinstance(value, list | dict) or value is None or value == "":
            raise DataError(
                f"`{self.spec.by}` names no group of this record",
                expected="a text or a number",
                given=shorten(value),
                origin=asked.sample.origin,
            )
        return str(value)

    def _field(self, asked: Asked, name: str) -> Any:
        """A field of the record that an answer stands in."""
        try:
            record, origin = self._records.record(asked.index)
        except AttributeError as error:
            raise DataError(
                f"records of a source of kind {self.spec.source.kind} have no fields",
                given=name,
                origin=asked.sample.origin,
                remedy="leave `by` and `answers` out",
            ) from error
        if not isinstance(record, dict):
            raise DataError("this record has no fields", given=shorten(record), origin=origin)
        return field_of(record, name, origin)

    def _check(self, examples: Sequence[Example]) -> None:
        """What only all examples together show."""
        if self.spec.metric == "cider" and len({e.cluster for e in examples}) < 2:
            raise misfit(
                "cider",
                "captions of at least two pictures, whose words are weighed against each other",
                "one picture",
                self.source,
                "add pictures, or take another metric",
            )
        for example in examples if self.spec.metric == "vqa" else ():
            if 1 < len(example.answers) < ANNOTATORS:
                raise misfit(
                    "vqa",
                    f"one answer, or at least {ANNOTATORS} annotators' whose agreement counts",
                    f"{len(example.answers)} answers",
                    example.sample.origin,
                    "metric: exact takes any of several answers",
                )

    def _with_candidates(self, examples: list[Example]) -> list[Example]:
        """The examples with what they can be asked by likelihood, where the answer is one of
        few."""
        if self.spec.metric not in ("exact", "vqa", "contains"):
            return examples
        known = sorted(
            {normalise(answer): answer for e in examples for answer in e.answers}.items()
        )
        choices = tuple(answer for _, answer in known)
        single = all(len(set(map(normalise, e.answers))) == 1 for e in examples)
        if not single or not 2 <= len(choices) <= min(MOST_CANDIDATES, len(examples) // USES):
            return examples
        return [replace(e, candidates=choices, options=choices) for e in examples]

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The box or the letter that the output names, else what was written."""
        if self.spec.metric == "iou":
            return read_box(output, *example.size)
        if self.spec.metric == "letter":
            return letter(output, dict(example.details["choices"]))
        return output.strip()

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """Between 0 and 1 (captions: 0 to 10), one for each example."""
        if self.judged:
            raise RunError(
                f"{self.name} is scored by an outside judge, not here",
                remedy="give the exported answers to the judge, or choose another metric",
            )
        if self.together:
            return score_each_caption(examples, parsed)
        return super().scores(examples, parsed)

    def score(self, example: Example, parsed: Parsed) -> float:
        """By the metric of the task."""
        return score(self.spec.metric, example, parsed)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent what else the field counts: exact match, ANLS and answers contained beside
        the metrics of texts; the mean IoU of boxes; BLEU and ROUGE-L of captions."""
        if self.together:
            return score_corpus(examples, parsed)
        pairs = list(zip(examples, parsed, strict=True))
        if self.spec.metric == "iou":
            return {"mean IoU": percent([overlap(p, e.box) for e, p in pairs])}
        if self.spec.metric in ("letter", "regex"):
            return {}
        return {
            METRICS[name]: percent([score(name, e, p) for e, p in pairs])
            for name in ("exact", "contains", "anls")
            if name != self.spec.metric
        }

    def majority(self, examples: Sequence[Example]) -> Sequence[Parsed]:
        """The most frequent answer of each kind among these very examples."""
        return usual_answers(examples)

    def guesses(self, examples: Sequence[Example]) -> Guesses:
        """As everywhere, but a pattern (metric `regex`) is no output: the same one is right."""
        if self.spec.metric != "regex":
            return super().guesses(examples)
        usual = zip(examples, self.majority(examples), strict=True)
        scores = [float(pattern == example.answer) for example, pattern in usual]
        return Guesses(scores, scores)

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """A JSON object on each line: id, record, pictures, question, answers, output."""
        if not self.judged:
            return super().answers_file(examples, outputs, model)
        rows = [
            {
                "id": example.id,
                "record": example.sample.origin,
                "pictures": [source.origin for source in example.sample.images],
                "question": example.question,
                "answers": list(example.answers),
                "output": output,
                "model": model,
            }
            for example, output in zip(examples, outputs, strict=True)
        ]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return f"{self.name}.jsonl", "".join(lines)
