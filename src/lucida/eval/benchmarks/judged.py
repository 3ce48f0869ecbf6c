"""MM-Vet and LLaVA-Bench: answers in free words that an outside judge scores.

Nothing is scored here. `answers_file` gives the file that the official judge reads, whose scores
depend on the judge's model and date and so are not comparable between runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from lucida.core.errors import RunError
from lucida.eval.benchmark import Example, File, Guesses, Parsed
from lucida.eval.benchmarks.annotations import (
    Record,
    read_json_lines,
    read_named,
    read_records,
)
from lucida.eval.benchmarks.published import PublishedBenchmark, Split

_MM_VET = "https://github.com/yuweihao/MM-Vet"
_LLAVA = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"


class Judged(PublishedBenchmark):
    """Questions whose answers somebody else judges."""

    family, metric = "conversation", "outside judge"
    judged = True
    max_new_tokens = 1024

    def scores(self, examples: Sequence[Example], parsed: Sequence[Parsed]) -> list[float]:
        """Refuses: there is no score without the judge."""
        raise RunError(
            f"{self.name} is scored by an outside judge, not here",
            remedy=f"give the exported answers to the judge of {self.source}",
        )

    def guesses(self, examples: Sequence[Example]) -> Guesses:
        """Refuses, as `scores` does."""
        return Guesses(self.scores(examples, ()), [])


class MMVet(Judged):
    """MM-Vet: 218 questions that need several capabilities at once.

    mm-vet.json: {id: {imagename, question, answer, capability, imagesource}}. The answers' file is
    {id: answer}, for the judge's notebook or space.

    Reference: Yu et al., MM-Vet, 2023, arXiv 2308.02490.
    """

    name, folder = "mm-vet", "mm-vet"
    licence = "CC BY-NC 4.0"
    source = _MM_VET
    count = 218
    _zip = f"{_MM_VET}/releases/download/v1/mm-vet.zip"
    files = (
        File("mm-vet/mm-vet.json", _zip, "0.1 MB"),
        File("mm-vet/images/", _zip, "67 MB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question, by its id."""
        return read_named(self.path(self.files[0]))

    def example(self, record: Record) -> Example:
        """A question with the answer that the judge compares with."""
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("imagename"), record)],
            record.text("question"),
            answers=(record.text("answer"),),
            kind=", ".join(sorted(record.texts("capability"))),
        )

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """{id: answer}, as the judge reads it."""
        rows = {e.id.partition("/")[2]: o for e, o in zip(examples, outputs, strict=True)}
        return f"{model}.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


class LLaVABench(Judged):
    """LLaVA-Bench (in the wild): 60 questions about 24 pictures.

    questions.jsonl: {question_id, image, category, text}. The answers' file has LLaVA's layout, a
    JSON object on each line, for `eval_gpt_review_bench.py` and its context.jsonl.

    Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 5.1.
    """

    name, folder = "llava-bench", "llava-bench"
    licence = "Apache-2.0"
    source = _LLAVA
    count = 60
    files = (
        File("llava-bench/questions.jsonl", _LLAVA, "10 kB"),
        File("llava-bench/images/", _LLAVA, "20 MB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question."""
        path = self.path(self.files[0])
        return read_records(read_json_lines(path), path, "question_id", "question")

    def example(self, record: Record) -> Example:
        """A question; the kind is its category."""
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("image"), record)],
            record.text("text"),
            kind=record.text("category"),
        )

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """A JSON object on each line, in the order of the questions' numbers."""
        rows = []
        for example, output in zip(examples, outputs, strict=True):
            number = example.id.partition("/")[2]
            answer = hashlib.blake2b(f"{number}{output}".encode(), digest_size=11).hexdigest()
            row = {"question_id": int(number) if number.isdigit() else number}
            row |= {"prompt": example.question, "text": output, "answer_id": answer}
            rows.append(row | {"model_id": model, "metadata": {}})
        rows.sort(key=lambda row: (isinstance(row["question_id"], str), row["question_id"]))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return "answers.jsonl", "".join(lines)
