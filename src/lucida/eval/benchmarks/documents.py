"""Documents, infographics, charts and signs: DocVQA, InfographicVQA, ChartQA, OCRBench."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_numbered, read_object, read_records
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.documents import ocrbench_match, rrc_anls
from lucida.eval.metrics.relaxed import relaxed_match

_RRC = "https://rrc.cvc.uab.es/?ch=17"


class DocumentQuestions(PublishedBenchmark):
    """Questions of the Robust Reading Competition's Document VQA, in one JSON: {"data": [{
    questionId, question, image or image_local_name, answers: [texts]}]}. The score is ANLS as the
    server counts it (`metrics.documents.rrc_anls`); the test split's answers are the server's."""

    family, metric = "vqa", "ANLS"
    source = _RRC
    has_train = True
    max_new_tokens = 32

    def records(self, split: Split) -> list[Record]:
        """Every question of the split."""
        path = self.questions(split)
        return read_records(read_object(path)["data"], path, "questionId", "question")

    def example(self, record: Record) -> Example:
        """A question with its answers."""
        answers = tuple(record.texts("answers"))
        if not answers:
            raise record.wrong("answers", "at least one answer", [])
        return self.asked(
            record,
            [self.picture(self.files[1], self.picture_name(record), record)],
            record.text("question"),
            answers=answers,
            details={"types": self.types(record)},
        )

    @abstractmethod
    def picture_name(self, record: Record) -> str:
        """The picture of a record, below the folder of pictures."""

    @abstractmethod
    def types(self, record: Record) -> tuple[str, ...]:
        """What kinds of question this is; one may be of several."""

    def score(self, example: Example, parsed: Parsed) -> float:
        """ANLS of each answer."""
        return rrc_anls(parsed, example.answers)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """ANLS in percent by type of question."""
        groups: dict[str, list[float]] = {}
        for example, score in zip(examples, scores, strict=True):
            for name in example.details["types"]:
                groups.setdefault(name, []).append(score)
        return {name: percent(groups[name]) for name in sorted(groups)}


class DocVQA(DocumentQuestions):
    """DocVQA, validation: 5,349 questions about 1,286 scanned pages.

    val_v1.0_withQT.json, whose `image` is documents/NAME.png; `question_types` where the release
    has them. Today's archive, spdocvqa_images.tar.gz, is to be unpacked into documents/. Pages are
    dense: what fits into the picture's resolution decides more than reading.

    Reference: Mathew et al., DocVQA, 2020, arXiv 2007.00398.
    """

    name, folder = "docvqa", "docvqa"
    twin = "reading"
    licence = "see its page (UCSF Industry Documents Library)"
    count = 5_349
    files = (
        File("docvqa/val_v1.0_withQT.json", f"{_RRC} (task 1, registration)", "2 MB"),
        File("docvqa/documents/", f"{_RRC} (spdocvqa_images)", "9 GB", "images"),
        File("docvqa/train_v1.0_withQT.json", f"{_RRC} (task 1, registration)", "13 MB", "train"),
    )

    def picture_name(self, record: Record) -> str:
        """The field `image` has the folder as well."""
        return record.text("image").removeprefix("documents/")

    def types(self, record: Record) -> tuple[str, ...]:
        """table/list, form, layout, free_text and others."""
        return tuple(record.texts("question_types")) if record.get("question_types") else ()


class InfoVQA(DocumentQuestions):
    """InfographicVQA, validation: 2,801 questions about 500 infographics.

    infographicsVQA_val_v1.0_withQT.json; pictures in infographicsvqa_images/. The training file
    has no types of questions, and is called so.

    Reference: Mathew et al., InfographicVQA, 2021, arXiv 2104.12756.
    """

    name, folder = "infovqa", "infovqa"
    twin = "reading, counting"
    licence = "see its page; pictures: their sites' terms"
    count = 2_801
    files = (
        File("infovqa/infographicsVQA_val_v1.0_withQT.json", f"{_RRC} (task 3, registration)",
             "2 MB"),
        File("infovqa/infographicsvqa_images/", f"{_RRC} (task 3)", "4 GB", "images"),
        File("infovqa/infographicsVQA_train_v1.0.json", f"{_RRC} (task 3, registration)",
             "12 MB", "train"),
    )  # fmt: skip

    def picture_name(self, record: Record) -> str:
        """The file of the release; the field `image_url` is where it came from."""
        return record.text("image_local_name")

    def types(self, record: Record) -> tuple[str, ...]:
        """Where the answer comes from (single span, multi-span, question span, non-extractive)."""
        return tuple(record.texts("answer_type")) if record.get("answer_type") else ()


_CHARTS = "https://huggingface.co/datasets/ahmed-masry/ChartQA (ChartQA Dataset.zip)"


class ChartQA(PublishedBenchmark):
    """ChartQA, test: 1,250 questions that people wrote about charts and 1,250 made from summaries.

    test/test_human.json and test/test_augmented.json: [{imgname, query, label}]; pictures in
    test/png/. Relaxed accuracy (`metrics.relaxed`); `average` is the mean of the two halves, as
    papers quote it. Questions have no ids, so theirs is their number.

    Reference: Masry et al., ChartQA, 2022, arXiv 2203.10244.
    """

    name, folder, family, metric = "chartqa", "chartqa", "vqa", "relaxed accuracy"
    twin = "reading, comparison"
    licence = "GPL-3.0"
    source = "https://github.com/vis-nlp/ChartQA"
    count = 2_500
    headline = "average"
    has_train = True
    max_new_tokens = 32
    files = (
        File("chartqa/test/test_human.json", _CHARTS, "0.2 MB"),
        File("chartqa/test/test_augmented.json", _CHARTS, "0.2 MB"),
        File("chartqa/test/png/", _CHARTS, "80 MB", "images"),
        File("chartqa/train/train_human.json", _CHARTS, "1 MB", "train"),
        File("chartqa/train/train_augmented.json", _CHARTS, "3 MB", "train"),
        File("chartqa/train/png/", _CHARTS, "1 GB", "train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of both halves, named by its number."""
        found = []
        for file in self.files[:2] if split == "test" else self.files[3:5]:
            path = self.path(file)
            kind = path.stem.rpartition("_")[2]
            for each in read_numbered(path):
                fields = {**each.value, "kind": kind, "split": split}
                found.append(Record(f"{split}/{kind}/{each.id}", fields, each.origin))
        return found

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is human or augmented."""
        folder = self.files[2 if record["split"] == "test" else 5]
        return self.asked(
            record,
            [self.picture(folder, record.text("imgname"), record)],
            record.text("query"),
            answers=(record.text("label"),),
            kind=record.text("kind"),
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 within the tolerance."""
        return relaxed_match(parsed, example.answers[0])

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Relaxed accuracy in percent of each half that was asked, and their mean."""
        halves = by_kind(examples, scores)
        return halves | {"average": sum(halves.values()) / len(halves)}


_OCR = "https://github.com/Yuliang-Liu/MultimodalOCR"
RECOGNITION = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition",
    "Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition",
)  # fmt: skip
"""The six types that are counted together as text recognition."""
FORMULAS = "HME100k"


class OCRBench(PublishedBenchmark):
    """OCRBench: 1,000 questions about text in pictures; the score is how many are right.

    OCRBench.json: [{dataset_name, id, image_path, question, answers (a text or a list), type}];
    pictures in OCRBench_Images/. An answer counts where it stands in the output
    (`metrics.documents.ocrbench_match`), so long outputs are favoured; the question is asked as it
    stands, since it says how to answer. Ids come again, so an example's is its number.

    Reference: Liu et al., OCRBench, 2023, arXiv 2305.07895.
    """

    name, folder, family, metric = "ocrbench", "ocrbench", "conversation", "answer in the output"
    twin = "reading"
    licence = "see its page (parts of thirty sets)"
    source = _OCR
    count = 1_000
    headline = "final score"
    max_new_tokens = 100
    files = (
        File("ocrbench/OCRBench.json", f"{_OCR} (OCRBench/OCRBench/OCRBench.json)", "0.3 MB"),
        File("ocrbench/OCRBench_Images/", f"{_OCR} (OCRBench_Images.zip)", "80 MB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question, named by its number."""
        return read_numbered(self.path(self.files[0]))

    def example(self, record: Record) -> Example:
        """A question with its answers; the kind is its type."""
        given = record["answers"]
        answers = record.texts("answers") if isinstance(given, list) else [record.text("answers")]
        if not answers or not all(map(str.strip, answers)):
            raise record.wrong("answers", "a text or a list of texts", given)
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("image_path"), record)],
            record.text("question"),
            answers=tuple(answers),
            kind=record.text("type"),
            details={"formula": record.text("dataset_name") == FORMULAS},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where an answer stands in the output."""
        return ocrbench_match(parsed, example.answers, bool(example.details["formula"]))

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """How many are right: of all (of 1,000), of text recognition (of 300), of each type."""
        totals = {"final score": float(sum(scores)), "Text Recognition": 0.0}
        for example, score in zip(examples, scores, strict=True):
            totals[example.kind] = totals.get(example.kind, 0.0) + score
            if example.kind in RECOGNITION:
                totals["Text Recognition"] += score
        return totals
