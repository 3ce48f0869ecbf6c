"""Yes or no: POPE's three lists of questions about things that are there or not, and VSR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lucida.core.errors import DataError
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_json_lines, read_records
from lucida.eval.benchmarks.coco import VAL2014
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.metrics.pope import pope_label, pope_rates
from lucida.eval.metrics.yesno import average_precision, roc_auc, truth_value

_POPE = (
    "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
)


class POPE(PublishedBenchmark):
    """POPE: is there such a thing in the picture? Three lists differ in what is asked for in vain.

    coco_pope_random.json and so on, a JSON value on each line: {question_id, image, text, label}.
    At the commit that LLaVA and Prismatic use the lists have 2,910, 3,000 and 3,000 questions, not
    the 9,000 that papers state. An answer is read by the official rule: what does not say no says
    yes.

    Reference: Li et al., Evaluating Object Hallucination in LVLMs, 2023, arXiv 2305.10355.
    """

    folder, family, metric = "pope", "yes-no", "accuracy"
    licence = "MIT; pictures: COCO's terms"
    source = _POPE
    protocols = ("generate", "likelihood")
    max_new_tokens = 16

    def __init__(self, kind: str, *, prompts: str | None = None, data: str | None = None) -> None:
        super().__init__(prompts=prompts, data=data)
        self.kind = kind
        self.name = f"pope-{kind}"
        self.twin = f"presence-{kind}"
        self.count = 2_910 if kind == "random" else 3_000
        self.files = (File(f"pope/coco_pope_{kind}.json", _POPE, "0.4 MB"), VAL2014)

    @property
    def prefix(self) -> str:
        """Each list counts from one."""
        return f"pope/{self.kind}"

    def records(self, split: Split) -> list[Record]:
        """Every question of the list."""
        path = self.path(self.files[0])
        return read_records(read_json_lines(path), path, "question_id", "question")

    def example(self, record: Record) -> Example:
        """A question with yes or no."""
        label = record.text("label")
        if label not in ("yes", "no"):
            raise record.wrong("label", "yes or no", label)
        return self.asked(
            record,
            [self.picture(VAL2014, record.text("image"), record)],
            record.text("text"),
            answers=(label,),
            options=("yes", "no"),
            candidates=("Yes", "No"),
            kind=self.kind,
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """yes or no, by the official rule."""
        return pope_label(output)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy, precision, recall, F1 (positive is yes) and the share of yes, in percent."""
        rates = pope_rates([p or "yes" for p in parsed], [e.answers[0] for e in examples])
        return {
            "accuracy": 100 * rates.accuracy,
            "precision": 100 * rates.precision,
            "recall": 100 * rates.recall,
            "F1": 100 * rates.f1,
            "yes": 100 * rates.yes_ratio,
        }

    def ranked(
        self, examples: Sequence[Example], likelihoods: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """AUC and AP of yes against no, in percent, as Prismatic's evaluation reports them."""
        return separation(examples, likelihoods, "yes")


class VSR(PublishedBenchmark):
    """Visual Spatial Reasoning, zero-shot test: 1,222 statements about two things, true or false.

    test.jsonl: {image, caption, label (0 or 1), relation, subj, obj}. The pictures are COCO 2017's
    training and validation pictures, which the publisher offers as one archive. The majority class
    (true, 629 of 1,222 = 51.47%) is what a model without spatial sense scores.

    Reference: Liu et al., Visual Spatial Reasoning, 2023, arXiv 2205.00363.
    """

    name, folder, family, metric = "vsr", "vsr", "statement", "accuracy"
    twin = "spatial"
    licence = "CC BY 4.0 (annotations); pictures: COCO's terms"
    source = "https://github.com/cambridgeltl/visual-spatial-reasoning"
    count = 1_222
    has_train = True
    protocols = ("likelihood", "generate")
    max_new_tokens = 8
    _hub = "https://huggingface.co/datasets/cambridgeltl/vsr_zeroshot"
    files = (
        File("vsr/test.jsonl", _hub, "0.3 MB"),
        File("vsr/images/", "https://www.dropbox.com/s/0s3bj25s62crjh2/vsr_images.zip", "1 GB",
             "images"),
        File("vsr/train.jsonl", _hub, "1 MB", "train"),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every statement, named by its line."""
        path = self.questions(split)
        rows = []
        for number, value in enumerate(read_json_lines(path)):
            if not isinstance(value, dict):
                given = type(value).__name__
                origin = f"{path}: line {number + 1}"
                raise DataError("no record", expected="an object", given=given, origin=origin)
            rows.append({**value, "line": str(number)})
        return read_records(rows, path, "line", "statement")

    def example(self, record: Record) -> Example:
        """A statement with True or False; the kind is the relation."""
        label = record.whole("label")
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("image"), record)],
            record.text("caption"),
            answers=("true" if label else "false",),
            options=("true", "false"),
            candidates=("True", "False"),
            details={"relation": record.get("relation", "")},
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """true or false by the first word that says so, else None."""
        claimed = truth_value(output)
        return None if claimed is None else str(claimed).lower()

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by relation."""
        return by_kind(examples, scores, "relation")

    def ranked(
        self, examples: Sequence[Example], likelihoods: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """AUC and AP of true against false, in percent."""
        return separation(examples, likelihoods, "true")


def separation(
    examples: Sequence[Example], likelihoods: Sequence[Sequence[float]], positive: str
) -> dict[str, float]:
    """AUC (area under the ROC curve) and AP, in percent, of the first candidate's probability
    against the second's; an example is positive where that is its answer.

    Worked example, candidates True and False: log-likelihoods (-0.1, -2), (-1, -1.1), (-2, -0.2)
    of statements that are true, false, true: differences 1.9, 0.1, -1.8. Of the pairs (true, false)
    one is in order and one is not: AUC 50.
    """
    margins = [first - second for first, second in likelihoods]
    truth = [example.answers[0] == positive for example in examples]
    return {
        "AUC": 100 * roc_auc(margins, truth),
        "AP": 100 * average_precision(margins, truth),
    }


pope_random = partial(POPE, "random")
pope_popular = partial(POPE, "popular")
pope_adversarial = partial(POPE, "adversarial")
