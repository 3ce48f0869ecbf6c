"""Text only, to see what a language model has kept: MMLU, BIG-Bench Hard, DROP."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import (
    Record,
    as_record,
    read_object,
    read_table,
    read_text,
    unique,
)
from lucida.eval.benchmarks.choice import LetterChoice, find_place
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.drop import drop_score

_MMLU = "https://people.eecs.berkeley.edu/~hendrycks/data.tar"
_BBH = "https://github.com/suzgunmirac/BIG-Bench-Hard"
_DROP = "https://ai2-public-datasets.s3.amazonaws.com/drop/drop_dataset.zip"


class MMLU(LetterChoice):
    """MMLU, test: 14,042 questions of 57 subjects behind five worked ones of the subject.

    test/SUBJECT_test.csv and dev/SUBJECT_dev.csv without a header: question, four options, letter.
    The prompt is the original one (with its two spaces before the subject); the mean is over
    questions, `subjects` in the summary is the mean over subjects. The usual way is the likelihood
    of the letters.

    Reference: Hendrycks et al., Measuring Massive Multitask Language Understanding, 2021, arXiv
    2009.03300.
    """

    name, folder, family = "mmlu", "mmlu", "text"
    licence = "MIT"
    source = "https://github.com/hendrycks/test"
    count = 14_042
    protocols = ("likelihood", "generate")
    shots = 5
    max_new_tokens = 4
    files = (
        File("mmlu/test/", f"{_MMLU} (folder data)", "7 MB"),
        File("mmlu/dev/", f"{_MMLU} (folder data)", "0.2 MB"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of every subject, with the head of its prompt."""
        tests = self.path(self.files[0])
        records = []
        for path in sorted(tests.glob("*_test.csv")):
            subject = path.name.removesuffix("_test.csv")
            dev = self.find_within(self.files[1], f"{subject}_dev.csv")
            head = _mmlu_head(subject, read_table(dev, header=False)[: self.shots])
            for row in read_table(path, header=False):
                value = {**row.value, "subject": subject, "head": head}
                records.append(Record(f"{subject}/{row.id}", value, row.origin))
        return unique(records, tests)

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is the subject."""
        return self.choose(
            record,
            [],
            record.text("head") + _mmlu_question(record),
            [record.text(str(n)) for n in range(1, 5)],
            find_place(record, "5", 4),
            kind=record.text("subject"),
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by subject, and the mean of the subjects."""
        subjects = by_kind(examples, scores)
        return {"subjects": sum(subjects.values()) / max(1, len(subjects))} | subjects


def _mmlu_head(subject: str, worked: Sequence[Record]) -> str:
    about = " " + " ".join(subject.split("_"))
    head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    return head + "".join(f"{_mmlu_question(row)} {row.text('5')}\n\n" for row in worked)


def _mmlu_question(row: Record) -> str:
    options = "".join(f"\n{letter}. {row.text(str(n))}" for n, letter in enumerate("ABCD", 1))
    return f"{row.text('0')}{options}\nAnswer:"


class BBH(PublishedBenchmark):
    """BIG-Bench Hard: 6,511 questions of 27 tasks, three worked ones before each, step by step.

    bbh/TASK.json: {"examples": [{input, target}]}; cot-prompts/TASK.txt: a notice, a line of
    dashes, the worked examples. The answer is what follows the last "the answer is" up to the end
    of its line, compared as it stands.

    Reference: Suzgun et al., Challenging BIG-Bench Tasks, 2022, arXiv 2210.09261.
    """

    name, folder, family, metric = "bbh", "bbh", "text", "exact match"
    licence = "MIT"
    source = _BBH
    count = 6_511
    shots = 3
    max_new_tokens = 512
    stop = ("\n\nQ:",)
    files = (
        File("bbh/bbh/", _BBH, "4 MB"),
        File("bbh/cot-prompts/", _BBH, "0.1 MB"),
    )
    _marker = re.compile("the answer is", re.IGNORECASE)

    def records(self, split: Split) -> list[Record]:
        """Every question of every task, with the head of its prompt."""
        tasks = self.path(self.files[0])
        records = []
        for path in sorted(tasks.glob("*.json")):
            text = read_text(self.find_within(self.files[1], f"{path.stem}.txt"))
            shown = (text.partition("-----\n")[2] or text).strip()
            for number, each in enumerate(read_object(path).records("examples")):
                value = {**each.value, "task": path.stem, "head": shown}
                records.append(Record(f"{path.stem}/{number}", value, each.origin))
        return records

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is the task."""
        asked = f"Q: {record.text('input')}\nA: Let's think step by step."
        return self.asked(
            record,
            [],
            f"{record.text('head')}\n\n{asked}",
            answers=(record.text("target"),),
            kind=record.text("task"),
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """What follows the last "the answer is", in any case, or None when it never comes."""
        own = output.split(self.stop[0])[0]
        *_, last = [None, *self._marker.finditer(own)]
        if last is None:
            return None
        return own[last.end() :].strip().split("\n")[0].strip().removesuffix(".")

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the very answer."""
        return float(parsed == example.answers[0].strip())

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by task, and the mean of the tasks."""
        tasks = by_kind(examples, scores)
        return {"tasks": sum(tasks.values()) / max(1, len(tasks))} | tasks


class DROP(PublishedBenchmark):
    """DROP, development: 9,536 questions about passages, answered by numbers, spans or dates.

    drop_dataset_dev.json: {passage_id: {passage, qa_pairs: [{query_id, question, answer: {number,
    date: {day, month, year}, spans}, validated_answers}]}}. The score is F1; exact match is in the
    summary.

    Reference: Dua et al., DROP, 2019, arXiv 1903.00161.
    """

    name, folder, family, metric = "drop", "drop", "text", "F1"
    licence = "CC BY-SA 4.0"
    source = "https://allenai.org/data/drop"
    count = 9_536
    has_train = True
    max_new_tokens = 32
    stop = ("\n",)
    files = (
        File("drop/drop_dataset_dev.json", _DROP, "12 MB"),
        File("drop/drop_dataset_train.json", _DROP, "95 MB", "train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question with its passage."""
        path = self.questions(split)
        records = []
        for name, value in read_object(path).value.items():
            passage = as_record(value, name, f"{path}: {name}")
            for each in passage.records("qa_pairs"):
                value = {**each.value, "passage": passage["passage"], "passage_id": name}
                records.append(Record(each.text("query_id"), value, each.origin))
        return unique(records, path)

    def example(self, record: Record) -> Example:
        """A question with all answers that were given; the cluster is the passage."""
        given = [record.inside("answer")]
        if record.get("validated_answers"):
            given += record.records("validated_answers")
        spans = tuple(found for each in given if (found := _spans(each)))
        if not spans:
            raise record.wrong("answer", "a number, spans or a date", record["answer"])
        passage, asked = record.text("passage"), record.text("question")
        return self.asked(
            record,
            [],
            f"Passage: {passage}\nQuestion: {asked}\nAnswer:",
            answers=tuple(", ".join(each) for each in spans),
            cluster=record.text("passage_id"),
            details={"spans": spans},
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The first line."""
        return output.strip().split("\n")[0].strip()

    def score(self, example: Example, parsed: Parsed) -> float:
        """DROP's F1 of each answer."""
        return _drop(example, parsed)[1]

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Exact match and F1 in percent."""
        exact = [_drop(e, p)[0] for e, p in zip(examples, parsed, strict=True)]
        return {"exact match": percent(exact), "F1": percent(scores)}


def _drop(example: Example, parsed: Parsed) -> tuple[float, float]:
    return drop_score(parsed or "", [list(each) for each in example.details["spans"]])


def _spans(answer: Record) -> tuple[str, ...]:
    """An answer's spans, as the official reader takes them: number, else spans, else date."""
    # A number that is empty text is none; the file always has the field.
    if answer.get("number"):
        return (answer.text("number"),)
    if answer.get("spans"):
        return tuple(answer.texts("spans"))
    date = answer.inside("date") if answer.get("date") else {}
    written = " ".join(str(date.get(part, "")) for part in ("day", "month", "year")).strip()
    return (written,) if written else ()
