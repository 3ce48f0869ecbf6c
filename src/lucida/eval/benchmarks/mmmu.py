"""MMMU: college questions with up to seven pictures among the words."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, picture_of, unique
from lucida.eval.benchmarks.choice import LetterChoice, find_place
from lucida.eval.benchmarks.published import ParquetBenchmark, Split, by_kind, percent
from lucida.eval.metrics.exact import exact_match

_HUB = "https://huggingface.co/datasets/MMMU/MMMU"
_MARK = re.compile(r"<image (\d)>")
DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine "
    "Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science "
    "Electronics Energy_and_Power Materials Mechanical_Engineering",
}
"""The thirty subjects, each a folder of the release, by discipline."""


class MMMU(ParquetBenchmark, LetterChoice):
    """MMMU, validation: 900 questions of thirty subjects; pictures stand where the text has them.

    SUBJECT/validation-00000-of-00001.parquet (the Hub's release; needs pyarrow): id, question,
    options (a list as text), answer, question_type, image_1 ... image_7. An option's letter is read
    by `metrics.choice.letter` and an output without one is wrong, where the official script guesses
    at random. Open questions (about one in seventeen) must equal an answer after normalising, which
    is stricter than the official search for it in the text. Demonstrations come from `dev`.

    Reference: Yue et al., MMMU, 2023, arXiv 2311.16502.
    """

    name, folder, family = "mmmu", "mmmu", "mmmu-choice"
    twin = "diagram, comparison"
    licence = "Apache-2.0"
    source = _HUB
    count = 900
    has_train = True
    files = (File("mmmu/", _HUB, "0.4 GB without test"),)

    def records(self, split: Split) -> list[Record]:
        """Every question of every subject."""
        part = "validation" if split == "test" else "dev"
        records = []
        for subjects in DISCIPLINES.values():
            for subject in subjects.split():
                name = f"mmmu/{subject}/{part}-00000-of-00001.parquet"
                for row in self.rows(File(name, _HUB, "up to 60 MB")):
                    value = {**row.value, "subject": subject}
                    records.append(Record(str(row.get("id", row.id)), value, row.origin))
        return unique(records, self.path(self.files[0]))

    def example(self, record: Record) -> Example:
        """A question with its pictures among the words; the kind is the discipline."""
        options = read_list(record, "options")
        subject = record.text("subject")
        kind = next(name for name, each in DISCIPLINES.items() if subject in each.split())
        rest = {"kind": kind, "cluster": record.id}
        if record.text("question_type") == "multiple-choice":
            right = find_place(record, "answer", len(options))
            rest["details"] = {"subject": subject}
            made = self.choose(record, [], record.text("question"), options, right, **rest)
        else:
            text = record.text("answer")
            answers = read_list(record, "answer") if text.startswith("[") else [text]
            rest |= {"answers": tuple(answers), "details": {"subject": subject}}
            made = self.asked(record, [], record.text("question"), family="mmmu-open", **rest)
        return replace(made, sample=show_among(made.question, record))

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The letter of the option, or the open answer without the space around it."""
        if example.options:
            return super().parse(example, output, read_box)
        return output.strip()

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the right letter or an equal answer."""
        if example.options:
            return super().score(example, parsed)
        return exact_match(parsed or "", example.answers)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by discipline and subject, of choices and of open questions."""
        pairs = list(zip(examples, scores, strict=True))
        return (
            by_kind(examples, scores)
            | by_kind(examples, scores, "subject")
            | {
                "choice": percent([score for e, score in pairs if e.options]),
                "open": percent([score for e, score in pairs if not e.options]),
            }
        )


def read_list(record: Record, field: str) -> list[str]:
    """A field that holds a list as text."""
    try:
        values = ast.literal_eval(record.text(field))
    except (ValueError, SyntaxError):
        raise record.wrong(field, "a list as text", record[field]) from None
    plain = isinstance(values, list) and all(isinstance(v, str | int | float) for v in values)
    if not plain:
        raise record.wrong(field, "a list of texts, as text", record[field])
    return [str(value) for value in values]


def show_among(text: str, record: Record) -> Sample:
    """The question with every picture where the text first names it; later mentions stay words."""
    sources: list[ImageSource] = []
    placed: dict[str, int] = {}
    parts: list[str | ImagePart] = []
    done = 0
    for mark in _MARK.finditer(text):
        number = mark[1]
        # A later mention ("in <image 1>") is a word: the picture stands once.
        if number not in placed:
            image = record.get(f"image_{number}")
            if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
                raise record.wrong(f"image_{number}", "a picture", image)
            placed[number] = len(sources)
            sources.append(picture_of(image["bytes"], record))
            parts += [text[done : mark.start()], ImagePart(placed[number])]
            done = mark.end()
    if not sources:
        raise DataError("the question names no picture", given=text[:60], origin=record.origin)
    shown = tuple(part for part in (*parts, text[done:]) if part != "")
    return Sample(record.origin, tuple(sources), (), ((Turn("user", shown),),))
