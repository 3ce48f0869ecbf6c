"""MathVista: reasoning about figures, whose answers a language model has to find in the outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_named
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.mathvista import extract, normalise
from lucida.eval.prompts import LETTERS

_CODE = "https://github.com/lupantech/MathVista"
_END = "and provide the {}, e.g., {}, at the end."
HINTS = {
    "text": "Please answer the question " + _END.format("correct option letter", "A, B, C, D"),
    "integer": "Please answer the question requiring an integer answer "
    + _END.format("final value", "1, 2, 3"),
    "float 1": "Please answer the question requiring a floating-point number with one decimal "
    "place " + _END.format("final value", "1.2, 1.3, 1.4"),
    "float 2": "Please answer the question requiring a floating-point number with two decimal "
    "places " + _END.format("final value", "1.23, 1.34, 1.45"),
    "list": "Please answer the question requiring a Python list as an answer "
    + _END.format("final list", "[1, 2, 3], [1.2, 1.3, 1.4]"),
}
"""What the publisher asks for, by the type of answer and, of decimal numbers, their precision."""


class MathVista(PublishedBenchmark):
    """MathVista, testmini: 1,000 questions about figures, charts and scenes.

    testmini.json: {pid: {question, image ("images/1.jpg"), choices, unit, precision, answer,
    question_type (multi_choice or free_form), answer_type (text, integer, float, list), metadata}},
    from the repository; pictures are the dataset's images.zip. Asked in the publisher's own words
    (`build_query.py`, no examples before it).

    The published score has a language model extract the answer from each output. Here only its own
    rules read one (`metrics.mathvista.extract`), so the score is a lower bound of it; `read by
    rules` says of how many percent. `without extraction` takes the whole output for what would be
    extracted. `answers/mathvista-MODEL.json` is the file that the publisher's extract_answer.py and
    calculate_score.py take; `lucida eval --judge` has an endpoint read what the rules leave.

    Reference: Lu et al., MathVista, 2023, arXiv 2310.02255.
    """

    name, folder, family, metric = "mathvista", "mathvista", "conversation", "accuracy by rules"
    twin = "counting, comparison"
    licence = "CC BY-SA 4.0"
    source = "https://huggingface.co/datasets/AI4Math/MathVista"
    count = 1_000
    max_new_tokens = 512
    exports = True
    files = (
        File("mathvista/testmini.json", f"{_CODE} (data/testmini.json)", "0.9 MB"),
        File("mathvista/images/", f"{source} (images.zip)", "6,141 pictures", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question, by its pid."""
        return read_named(self.path(self.files[0]))

    def example(self, record: Record) -> Example:
        """A question in the publisher's words; the kind is its task."""
        choices = tuple(record.texts("choices")) if record.get("choices") else ()
        answer, kind = record.text("answer"), record.text("answer_type")
        if (record.text("question_type") == "multi_choice") != bool(choices):
            raise record.wrong("choices", "choices where the question is multi_choice", choices)
        if choices and answer not in choices:
            raise record.wrong("answer", "one of the choices", answer)
        precision = None
        if kind == "float":  # written as 1 and as 1.0
            precision = round(record.number("precision"))
        metadata = record.inside("metadata")
        query = write_query(record, choices, kind, precision)
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("image").removeprefix("images/"), record)],
            query,
            answers=(answer,),
            options=choices,
            kind=metadata.text("task"),
            details={
                "type": record.text("question_type"),
                "answer": kind,
                "precision": precision,
                "problem": record.value,
            },
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The output as it is: what is read depends on the rule."""
        return output

    def is_read(self, example: Example, parsed: Parsed) -> bool:
        """Whether the publisher's rules find an answer in it."""
        return extract(parsed, str(example.details["answer"]), example.options) is not None

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where what the rules read equals the answer as text."""
        found = extract(parsed, str(example.details["answer"]), example.options)
        return _compare(example, found)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: accuracy by task and by type of question, how many outputs the rules read,
        and accuracy with the whole output in place of what would be extracted."""
        read = [float(self.is_read(e, p)) for e, p in zip(examples, parsed, strict=True)]
        totals = by_kind(examples, scores) | by_kind(examples, scores, "type")
        whole = [
            _compare(e, p if p and str(p).strip() else None)
            for e, p in zip(examples, parsed, strict=True)
        ]
        return totals | {"read by rules": percent(read), "without extraction": percent(whole)}

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """{pid: the problem with `query` and `response`}, as generate_response.py writes it."""
        rows = {
            e.id.partition("/")[2]: {**e.details["problem"], "query": e.question, "response": o}
            for e, o in zip(examples, outputs, strict=True)
        }
        return f"mathvista-{model}.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _compare(example: Example, found: str | None) -> float:
    """1 where an extracted answer, as it is compared, equals the true one."""
    kind, precision = example.details["answer"], example.details["precision"]
    answer = None if found is None else normalise(found, kind, example.options, precision)
    return float(answer == example.answers[0])


def write_query(record: Record, choices: Sequence[str], kind: str, precision: int | None) -> str:
    """A problem in the publisher's words, to be solved without examples."""
    hint = f"{kind} {precision}" if kind == "float" else kind
    if hint not in HINTS or (kind == "text") != bool(choices):
        raise record.wrong("answer_type", "text with choices; integer, float with a precision of 1 "
                           "or 2, or list without", hint)  # fmt: skip
    unit = record.get("unit")
    lines = [f"Question: {record.text('question')}" + (f" (Unit: {unit})" if unit else "")]
    if choices:
        listed = zip(LETTERS, choices, strict=False)
        lines += ["Choices:", *(f"({letter}) {text}" for letter, text in listed)]
    return "\n".join([*lines, f"Hint: {HINTS[hint]}", "Solution:"])
