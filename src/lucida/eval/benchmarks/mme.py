"""MME: two yes/no questions about each picture, fourteen subtasks, totals of 2,000 and 800."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lucida.core.errors import DataError
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_text
from lucida.eval.benchmarks.published import PublishedBenchmark, Split
from lucida.eval.metrics.mme import COGNITION, PERCEPTION, mme_label, mme_scores

_PAGE = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"
_REQUEST = "Please answer yes or no."
_PICTURES = (".jpg", ".png", ".jpeg")


class MME(PublishedBenchmark):
    """MME: 2,374 questions about 1,187 pictures.

    MME_Benchmark_release_version/SUBTASK holds either NAME.txt beside NAME.jpg or the two in
    questions_answers_YN/ and images/. A text file has one question on a line, a tab, Yes or No.
    Questions end in "Please answer yes or no."; sets of prompts with a request of their own take it
    off, as LLaVA and lmms-eval do. A score of a subtask is accuracy plus accuracy+ (both questions
    of a picture right), at most 200.

    Reference: Fu et al., MME, 2023, arXiv 2306.13394.
    """

    name, folder, family, metric = "mme", "mme", "mme", "accuracy"
    twin = "presence, counting, attribute"
    licence = "for academic research only"
    source = _PAGE
    headline = "perception"
    count = 2_374
    protocols = ("generate", "likelihood")
    max_new_tokens = 16
    files = (
        File("mme/MME_Benchmark_release_version/", f"{_PAGE} (on request)", "0.9 GB"),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question of every subtask."""
        root = self.path(self.files[0])
        records = []
        for category in (*PERCEPTION, *COGNITION):
            place = self.find_within(self.files[0], f"{category}/")
            nested = place / "questions_answers_YN"
            for file in sorted((nested if nested.is_dir() else place).glob("*.txt")):
                records += _pair(file, category, root)
        return records

    def unit(self, record: Record) -> str:
        """The picture: its two questions are scored together."""
        return record.text("picture")

    def example(self, record: Record) -> Example:
        """A question with yes or no; the kind is the subtask."""
        question = record.text("question")
        if self.prompts != "plain":
            question = question.replace(_REQUEST, "").rstrip()
        picture = record.text("picture")
        return self.asked(
            record,
            [self.picture(self.files[0], record.text("file"), record)],
            question,
            answers=(record.text("answer"),),
            options=("yes", "no"),
            candidates=("Yes", "No"),
            kind=record.text("category"),
            cluster=picture,
            details={"picture": picture},
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """yes, no, or None for anything else, by the official rule."""
        label = mme_label(output)
        return None if label == "other" else label

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Perception (of 2,000), cognition (of 800), and each subtask (of 200)."""
        totals = mme_scores(
            (example.kind, str(example.details["picture"]), score == 1)
            for example, score in zip(examples, scores, strict=True)
        )
        subtasks = {name: each.score for name, each in totals.categories.items()}
        return {"perception": totals.perception, "cognition": totals.cognition} | subtasks


def _pair(file: Path, category: str, root: Path) -> list[Record]:
    """The two questions of one text file."""
    folder = file.parent
    if folder.name == "questions_answers_YN":
        folder = folder.parent / "images"
    # Where none is there the first is named, and `picture` says that it is missing.
    found = [folder / f"{file.stem}{end}" for end in _PICTURES]
    image = next((path for path in found if path.is_file()), found[0])
    picture = f"{category}/{file.stem}"
    records = []
    for number, line in enumerate(row for row in read_text(file).split("\n") if row.strip()):
        question, tab, answer = line.rstrip("\r").rpartition("\t")
        answer = answer.strip().lower().rstrip(".")
        origin = f"{file}: line {number + 1}"
        if not tab or answer not in ("yes", "no"):
            expected = "a question, a tab, Yes or No"
            raise DataError("damaged line", expected=expected, given=line[:80], origin=origin)
        value = {
            "question": question.strip(),
            "answer": answer,
            "category": category,
            "picture": picture,
            "file": image.relative_to(root).as_posix(),
        }
        records.append(Record(f"{picture}/{number}", value, origin))
    if len(records) != 2:
        raise DataError("a picture has two questions", expected=2, given=len(records), origin=file)
    return records
