"""Open questions with ten human answers: VQAv2, OK-VQA, VizWiz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, join, read_json, read_object, read_records
from lucida.eval.benchmarks.coco import TRAIN2014, VAL2014, file_name
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.answers import normalise_vizwiz
from lucida.eval.metrics.vqa import answerability, okvqa_score, vizwiz_score, vqa_score

_TRAINING = replace(TRAIN2014, needed="train")
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_OKVQA = "https://okvqa.allenai.org/download.html"


class CocoQuestions(PublishedBenchmark):
    """Questions and annotations of the VQA releases: two files, joined by `question_id`.

    questions: {"questions": [{image_id, question, question_id}]}; annotations: {"annotations":
    [{question_id, image_id, question_type, answer_type, answers: [{answer, ...}]}]}. `files` are
    questions, annotations and pictures of validation, then the same of training.
    """

    has_train = True
    max_new_tokens = 16

    def records(self, split: Split) -> list[Record]:
        """Every question with its annotation under `annotation`."""
        asked, answered = (self.path(file) for file in self._of(split)[:2])
        told = read_object(answered)["annotations"]
        annotations = read_records(told, answered, "question_id", "annotation")
        questions = read_records(read_object(asked)["questions"], asked, "question_id", "question")
        return [
            Record(one.id, {**one.value, "annotation": other, "split": split}, one.origin)
            for one, other in join(questions, annotations, answered)
        ]

    def _of(self, split: Split) -> tuple[File, ...]:
        return self.files[:3] if split == "test" else self.files[3:]

    def example(self, record: Record) -> Example:
        """A question with its ten answers; the kind is the type of its answer."""
        folder = self._of(record["split"])[2]
        name = file_name(Path(folder.path).name, record.whole("image_id"))
        annotation: Record = record["annotation"]
        return self.asked(
            record,
            [self.picture(folder, name, record)],
            record.text("question"),
            answers=annotation.answers("answers", 10, "answer"),
            kind=annotation.text("answer_type"),
            details={"question_type": annotation.text("question_type")},
        )


class VQAv2(CocoQuestions):
    """VQA 2.0, validation: 214,354 questions about 40,504 pictures of COCO val2014.

    A score is the mean over the ten leave-one-out subsets of min(1, matches / 3), prediction and
    answers always normalised; the summary also has the upstream code's own behaviour (`strict`,
    which compares raw text when all ten answers are equal) and lmms-eval's.

    Reference: Goyal et al., Making the V in VQA Matter, 2017, arXiv 1612.00837.
    """

    name, folder, family, metric = "vqav2", "vqav2", "vqa", "VQA accuracy"
    twin = "attribute"
    licence = "CC BY 4.0 (annotations); pictures: Flickr's terms"
    source = "https://visualqa.org/download.html"
    count = 214_354
    files = (
        File(
            "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
            f"{_VQA}/v2_Questions_Val_mscoco.zip",
            "21 MB",
        ),
        File(
            "vqav2/v2_mscoco_val2014_annotations.json",
            f"{_VQA}/v2_Annotations_Val_mscoco.zip",
            "175 MB",
        ),
        VAL2014,
        File(
            "vqav2/v2_OpenEnded_mscoco_train2014_questions.json",
            f"{_VQA}/v2_Questions_Train_mscoco.zip",
            "43 MB",
            "train",
        ),
        File(
            "vqav2/v2_mscoco_train2014_annotations.json",
            f"{_VQA}/v2_Annotations_Train_mscoco.zip",
            "365 MB",
            "train",
        ),
        _TRAINING,
    )

    def score(self, example: Example, parsed: Parsed) -> float:
        """VQA accuracy of each answer."""
        return vqa_score(parsed, example.answers)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by type of answer, and under the two other readings of the rule."""
        pairs = list(zip(examples, parsed, strict=True))
        return by_kind(examples, scores) | {
            name: percent([vqa_score(p, e.answers, variant=name) for e, p in pairs])
            for name in ("strict", "lmms")
        }


class OKVQA(CocoQuestions):
    """OK-VQA, validation: 5,046 questions that need knowledge from outside the picture.

    Five annotators, each counted twice; `answers` hold the released `answer` field, which is
    stemmed ("race" for "racing"), as papers score. `raw_answers` in the details are as written.

    Reference: Marino et al., OK-VQA, 2019, arXiv 1906.00067.
    """

    name, folder, family, metric = "okvqa", "okvqa", "okvqa", "VQA accuracy"
    twin = "attribute"
    licence = "see its page (annotations); pictures: Flickr's terms"
    source = _OKVQA
    count = 5_046
    files = (
        File("okvqa/OpenEnded_mscoco_val2014_questions.json", _OKVQA, "1 MB"),
        File("okvqa/mscoco_val2014_annotations.json", _OKVQA, "9 MB"),
        VAL2014,
        File("okvqa/OpenEnded_mscoco_train2014_questions.json", _OKVQA, "1 MB", "train"),
        File("okvqa/mscoco_train2014_annotations.json", _OKVQA, "12 MB", "train"),
        _TRAINING,
    )

    def example(self, record: Record) -> Example:
        """A question with its ten answers; the kind is the category of knowledge."""
        made = super().example(record)
        annotation: Record = record["annotation"]
        raw = annotation.answers("answers", 10, "raw_answer")
        return replace(
            made,
            kind=made.details["question_type"],
            details={**made.details, "raw_answers": raw},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """OK-VQA's accuracy of each answer."""
        return okvqa_score(parsed, example.answers)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by category, as lmms-eval scores, and with answers as written."""
        pairs = list(zip(examples, parsed, strict=True))
        return by_kind(examples, scores) | {
            "lmms": percent([okvqa_score(p, e.answers, variant="lmms") for e, p in pairs]),
            "raw answers": percent([okvqa_score(p, e.details["raw_answers"]) for e, p in pairs]),
        }


class VizWiz(PublishedBenchmark):
    """VizWiz-VQA, validation: 4,319 questions that blind people asked about their own pictures.

    val.json: [{image, question, answers: [{answer, answer_confidence}], answer_type, answerable}].
    The prediction is normalised, the answers are not (the official rule).

    Reference: Gurari et al., VizWiz Grand Challenge, 2018, arXiv 1802.08218.
    """

    name, folder, family, metric = "vizwiz", "vizwiz", "vizwiz", "VizWiz accuracy"
    twin = "unanswerable"
    licence = "CC BY 4.0"
    source = "https://vizwiz.org/tasks-and-datasets/vqa/"
    count = 4_319
    has_train = True
    max_new_tokens = 16
    _site = "https://vizwiz.cs.colorado.edu/VizWiz_final"
    _annotations = f"{_site}/vqa_data/Annotations.zip"
    files = (
        File("vizwiz/val.json", _annotations, "5 MB"),
        File("vizwiz/val/", f"{_site}/images/val.zip", "2 GB", "images"),
        File("vizwiz/train.json", _annotations, "22 MB", "train"),
        File("vizwiz/train/", f"{_site}/images/train.zip", "11 GB", "train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question; a picture has one."""
        path = self.questions(split)
        records = read_records(read_json(path), path, "image")
        return [Record(each.id, {**each.value, "split": split}, each.origin) for each in records]

    def example(self, record: Record) -> Example:
        """A question with its ten answers; the kind is the type of its answer."""
        folder = self.files[1 if record["split"] == "test" else 3]
        return self.asked(
            record,
            [self.picture(folder, record.text("image"), record)],
            record.text("question"),
            answers=record.answers("answers", 10, "answer"),
            kind=record.text("answer_type"),
            details={"answerable": bool(record.whole("answerable"))},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """VizWiz's accuracy of each answer."""
        return vizwiz_score(parsed, example.answers)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: accuracy by type of answer, and of what can be answered and what cannot; AP
        and F1 of saying "unanswerable" where nothing can be said; accuracy as lmms-eval has it."""
        able = [s for e, s in zip(examples, scores, strict=True) if e.details["answerable"]]
        unable = [s for e, s in zip(examples, scores, strict=True) if not e.details["answerable"]]
        split = {"answerable": percent(able), "not answerable": percent(unable)}
        # Without confidences the answer itself is one, as in vlm-evaluation.
        said = [float(normalise_vizwiz(p) == "unanswerable") for p in parsed]
        found = answerability(said, [bool(e.details["answerable"]) for e in examples])
        split |= {f"unanswerable {name}": 100 * value for name, value in found.items()}
        pairs = zip(examples, parsed, strict=True)
        split["lmms"] = percent([vizwiz_score(p, e.answers, variant="lmms") for e, p in pairs])
        return by_kind(examples, scores) | split
