"""TallyQA: how many, in simple and complex questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lucida.data.sample import ImageSource
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_json, read_records
from lucida.eval.benchmarks.coco import FOLDERS, TRAIN2014
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.metrics.choice import letter
from lucida.eval.metrics.counting import number, root_mean_square_error
from lucida.eval.prompts import LETTERS, form

_PAGE = "https://github.com/manoja328/TallyQA_dataset"
_ZIP = "https://github.com/manoja328/tallyqa/blob/master/tallyqa.zip?raw=true"
_GENOME = "https://cs.stanford.edu/people/rak248/VG_100K_2"
_MOST = 15
"""The largest count of the test split."""


class TallyQA(PublishedBenchmark):
    """TallyQA, test: 38,589 questions, simple (22,991) and complex (15,598).

    test.json: [{image, question, answer, question_id, issimple, data_source}]. `image` is a path
    like VG_100K/1.jpg, in `tallyqa/`, or (in training) train2014/COCO_train2014_….jpg, in `coco/`.
    Simple and complex follow `issimple` (`data_source` is kept in the details).

    Where a set of prompts asks for a letter (Prismatic's: 0 to 15 as A to P) the letter is read,
    otherwise the first number.

    Reference: Acharya et al., TallyQA, 2019, arXiv 1810.12440.
    """

    name, folder, family, metric = "tallyqa", "tallyqa", "counting", "accuracy"
    twin = "counting"
    licence = "none stated (annotations); pictures: Visual Genome's and COCO's terms"
    source = _PAGE
    count = 38_589
    has_train = True
    protocols = ("generate", "likelihood")
    max_new_tokens = 16
    files = (
        File("tallyqa/test.json", _ZIP, "7 MB"),
        File("tallyqa/", f"{_GENOME}/images.zip and images2.zip", "15 GB", "images"),
        File("tallyqa/train.json", _ZIP, "45 MB", "train"),
        replace(TRAIN2014, needed="train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of the split."""
        path = self.questions(split)
        return read_records(read_json(path), path, "question_id")

    def example(self, record: Record) -> Example:
        """A question with its count; the kind is simple or complex."""
        counts = tuple(str(n) for n in range(_MOST + 1))
        return self.asked(
            record,
            [self._picture(record)],
            record.text("question"),
            choices=counts,
            answers=(str(record.whole("answer")),),
            options=counts,
            candidates=tuple(LETTERS[: len(counts)]) if self._by_letter else counts,
            kind=_kind(record),
            details={"data_source": record.get("data_source", "")},
        )

    def _picture(self, record: Record) -> ImageSource:
        folder, _, name = record.text("image").partition("/")
        if folder in FOLDERS:
            return self.picture(FOLDERS[folder], name, record)
        return self.picture(self.files[1], record.text("image"), record)

    @property
    def _by_letter(self) -> bool:
        return "{options}" in form(self.prompts, self.family)

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The count that is named, or None."""
        # A number is read where no letter is: models that were not taught letters say "3".
        if self._by_letter and (named := letter(output, example.options)):
            return example.options[LETTERS.index(named)]
        found = number(output)
        return None if found is None else str(found)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent, simple and complex, and the root mean squared error of both."""
        rows = by_kind(examples, scores)
        for kind in list(rows):
            chosen = [(e, p) for e, p in zip(examples, parsed, strict=True) if e.kind == kind]
            found = [None if p is None else int(p) for _, p in chosen]
            truth = [int(e.answers[0]) for e, _ in chosen]
            rows[f"{kind} RMSE"] = root_mean_square_error(found, truth)
        return rows


def _kind(record: Record) -> str:
    """Simple or complex; the training split does not say."""
    simple = record.get("issimple")
    if simple is not None and not isinstance(simple, bool):
        raise record.wrong("issimple", "true or false", simple)
    return "training" if simple is None else "simple" if simple else "complex"
