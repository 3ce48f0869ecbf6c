"""Does the model claim what is not there: HallusionBench, AMBER (its yes/no part)."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import (
    Record,
    join,
    read_json,
    read_numbered,
    read_records,
    unique,
)
from lucida.eval.benchmarks.published import (
    PublishedBenchmark,
    Split,
    by_kind,
    percent,
    usual_answers,
)
from lucida.eval.metrics.choice import circular_scores
from lucida.eval.metrics.groups import amber_label, amber_rates
from lucida.eval.metrics.yesno import truth_value

_HALLUSION = "https://github.com/tianyi-lab/HallusionBench"
_AMBER = "https://github.com/junyangwang0410/AMBER"


def yes_or_no(output: str) -> Parsed:
    """The first yes or no of an output, else None."""
    found = truth_value(output)
    return None if found is None else ("yes" if found else "no")


class HallusionBench(PublishedBenchmark):
    """HallusionBench: 1,129 yes/no questions about figures, true ones and changed ones.

    HallusionBench.json: [{category (VD or VS), subcategory, set_id, figure_id, question_id,
    visual_input, question, gt_answer ("1" or "0"), filename}]; pictures in hallusion_bench/. Where
    `visual_input` is "0" there is no picture. The published scores ask GPT-4 whether an answer in
    free words conflicts with the truth; here the first yes or no of the output is compared
    (`yesno.truth_value`), and neither is wrong. The diagnosis of language and vision that needs the
    judge is left out. A set of figures stays together.

    aAcc   questions                        (the headline)
    qAcc   questions right about all figures that they are asked of
    fAcc   figures with all questions right, without the absent figures of VS

    Reference: Guan et al., HallusionBench, 2023, arXiv 2310.14566; its utils.py.
    """

    name, folder, family, metric = "hallusion-bench", "hallusion-bench", "yes-no", "accuracy"
    twin = "presence, comparison"
    licence = "BSD-3-Clause"
    source = _HALLUSION
    count = 1_129
    headline = "aAcc"
    protocols = ("generate", "likelihood")
    max_new_tokens = 32
    files = (
        File("hallusion-bench/HallusionBench.json", _HALLUSION, "0.4 MB"),
        File("hallusion-bench/hallusion_bench/", f"{_HALLUSION} (link in its README)", "60 MB",
             "images"),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question, named by all that tells it apart."""
        path = self.path(self.files[0])
        rows = read_numbered(path)
        records = [
            Record(f"{self._set(each)}/{self._place(each)}", each.value, each.origin)
            for each in rows
        ]
        return unique(records, path)

    @staticmethod
    def _set(record: Record) -> str:
        return "_".join(record.text(name) for name in ("category", "subcategory", "set_id"))

    @staticmethod
    def _place(record: Record) -> str:
        return f"{record.text('figure_id')}_{record.text('question_id')}"

    def unit(self, record: Record) -> str:
        """The figures of a set and their questions are scored together."""
        return self._set(record)

    def example(self, record: Record) -> Example:
        """A question with yes or no; the kind is category and subcategory."""
        answer = record.text("gt_answer")
        if answer not in ("0", "1"):
            raise record.wrong("gt_answer", "0 or 1", answer)
        # A question of VS without a figure asks what the model believes by itself.
        pictures = []
        if record.text("visual_input") != "0":
            name = record.text("filename").removeprefix("./").removeprefix("hallusion_bench/")
            pictures = [self.picture(self.files[1], name, record)]
        category, own = record.text("category"), self._set(record)
        figure = record.text("figure_id")
        return self.asked(
            record,
            pictures,
            record.text("question"),
            answers=("yes" if answer == "1" else "no",),
            options=("yes", "no"),
            candidates=("Yes", "No"),
            kind=f"{category} {record.text('subcategory')}",
            cluster=f"hallusion-bench/{own}",
            details={
                "question": f"{own}_{record.text('question_id')}",
                "figure": "" if category == "VS" and figure == "0" else f"{own}_{figure}",
            },
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The first yes or no, or None."""
        return yes_or_no(output)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """aAcc, qAcc and fAcc in percent, and accuracy by kind."""
        found = {"aAcc": percent(scores)}
        for name, group in (("qAcc", "question"), ("fAcc", "figure")):
            asked = [(str(e.details[group]), s) for e, s in zip(examples, scores, strict=True)]
            asked = [(own, score) for own, score in asked if own]  # an absent figure is none
            right = circular_scores([own for own, _ in asked], [score for _, score in asked])
            found[name] = percent(list(right.values()))
        return found | by_kind(examples, scores)


DIMENSIONS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
"""What each type of question is about; every other type is about a relation, as in the script."""


class Amber(PublishedBenchmark):
    """AMBER, the discriminative part: 14,216 yes/no questions about 1,004 pictures.

    data/query/query_discriminative.json: [{id, image, query}]; data/annotations.json: [{id, type,
    truth}]; pictures in image/. The official rule takes "Yes" and "No" and nothing else, so "no."
    is no answer (`metrics.groups.amber_label`); the summary has its rates, with "no" as the
    positive class, and under `first word` those of the first yes or no in an output. The generative
    part needs spaCy's large vectors and is not here.

    Reference: Wang et al., AMBER, 2023, arXiv 2311.07397.
    """

    name, folder, family, metric = "amber", "amber", "yes-no", "accuracy"
    twin = "presence, attribute, relation, caption-chair"
    licence = "Apache-2.0"
    source = _AMBER
    count = 14_216
    headline = "F1"
    protocols = ("generate", "likelihood")
    max_new_tokens = 16
    files = (
        File("amber/data/query/query_discriminative.json", _AMBER, "1.5 MB"),
        File("amber/data/annotations.json", _AMBER, "2 MB"),
        File("amber/image/", f"{_AMBER} (link in its README)", "0.5 GB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question with its type and truth."""
        asked, answered = (self.path(file) for file in self.files[:2])
        truths = read_records(read_json(answered), answered, "id")
        questions = read_records(read_json(asked), asked, "id", "question")
        records = []
        for each, truth in join(questions, truths, answered):
            found = {"type": truth.text("type"), "truth": truth["truth"]}
            records.append(Record(each.id, {**each.value, **found}, each.origin))
        return records

    def example(self, record: Record) -> Example:
        """A question with yes or no; the kind is what it is about."""
        truth = record.text("truth")
        if truth not in ("yes", "no"):
            raise record.wrong("truth", "yes or no", truth)
        return self.asked(
            record,
            [self.picture(self.files[2], record.text("image"), record)],
            record.text("query"),
            answers=(truth,),
            options=("yes", "no"),
            candidates=("Yes", "No"),
            kind=DIMENSIONS.get(record.text("type"), "relation"),
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The output without space around it: what is read depends on the rule."""
        return output.strip()

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the right answer, exactly as the official rule wants it."""
        return float(amber_label(parsed) == example.answers[0])

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: accuracy, precision, recall, F1; accuracy by kind; F1 and accuracy of the
        first yes or no of outputs."""
        truth = [example.answers[0] for example in examples]
        official = amber_rates(map(amber_label, parsed), truth)
        read = amber_rates([yes_or_no(p or "") for p in parsed], truth)
        return {
            "accuracy": 100 * official.accuracy,
            "precision": 100 * official.precision,
            "recall": 100 * official.recall,
            "F1": 100 * official.f1,
            "first word accuracy": 100 * read.accuracy,
            "first word F1": 100 * read.f1,
        } | by_kind(examples, scores)

    def majority(self, examples: Sequence[Example]) -> Sequence[Parsed]:
        """The usual answer as the official rule wants it written."""
        return [str(answer).capitalize() for answer in usual_answers(examples)]
