"""Questions about radiology pictures: VQA-RAD and SLAKE."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_json, read_records
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind, percent
from lucida.eval.metrics.pathvqa import (
    exact_match,
    is_yes_no,
    normalise,
    token_f1,
    token_recall,
    yes_no_score,
)


class MedicalQuestions(PublishedBenchmark):
    """Questions about medical pictures with closed and open answers, as papers score them.

    A closed question (yes/no, or one of what it names) is right by true exact match, yes/no by the
    first yes or no; an open one is scored by the share of the truth's words that the output has
    (`metrics.pathvqa.token_recall`), as LLaVA-Med does. The summary has both, and exact match and
    token F1 of open ones.
    """

    family, metric = "vqa", "accuracy and recall"
    has_train = True
    max_new_tokens = 32

    picture_field: str

    def example(self, record: Record) -> Example:
        """A question with its answer; the kind is closed or open."""
        kind = record.text("answer_type").strip().upper()  # some of VQA-RAD's have space behind
        if kind not in ("CLOSED", "OPEN"):
            raise record.wrong("answer_type", "CLOSED or OPEN", record["answer_type"])
        picture = self.picture(self.files[1], record.text(self.picture_field), record)
        answer = record.text("answer")
        if not answer.strip():
            raise record.wrong("answer", "a text that is not empty", answer)
        yes_no = kind == "CLOSED" and is_yes_no(answer)
        return self.asked(
            record,
            [picture],
            record.text("question"),
            answers=(normalise(answer) if yes_no else answer.strip(),),
            options=("yes", "no") if yes_no else (),
            kind=kind.lower(),
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """Of closed questions 1 for the right answer, of open ones the recall of its words."""
        (answer,) = example.answers
        if example.options:
            return yes_no_score(parsed, answer)
        return (exact_match if example.kind == "closed" else token_recall)(parsed, answer)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent: closed accuracy, open recall, exact match and token F1 of open questions."""
        totals = by_kind(examples, scores)
        opened = [
            (e.answers[0], p) for e, p in zip(examples, parsed, strict=True) if e.kind == "open"
        ]
        if opened:
            totals["open exact match"] = percent([exact_match(p, answer) for answer, p in opened])
            totals["open F1"] = percent([token_f1(p, answer) for answer, p in opened])
        return totals


_RAD = "https://osf.io/89kps/"


class VQARAD(MedicalQuestions):
    """VQA-RAD, test: 451 questions of clinicians about radiology pictures.

    VQA_RAD Dataset Public.json: [{qid, image_name, question, answer, answer_type (CLOSED or OPEN),
    phrase_type}]; pictures in VQA_RAD Image Folder/. The test questions are those whose
    `phrase_type` begins with `test`, as published; training pictures come again in them.

    Reference: Lau et al., A dataset of clinically generated visual questions and answers about
    radiology images, 2018, doi 10.1038/sdata.2018.251.
    """

    name, folder, picture_field = "vqa-rad", "vqa-rad", "image_name"
    twin = "attribute, presence"
    licence = "CC0 1.0"
    source = _RAD
    count = 451
    files = (
        File("vqa-rad/VQA_RAD Dataset Public.json", _RAD, "1.4 MB"),
        File("vqa-rad/VQA_RAD Image Folder/", _RAD, "60 MB", "images"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of the split."""
        path = self.path(self.files[0])
        every = read_records(read_json(path), path, "qid", "question")
        return [
            each
            for each in every
            if each.text("phrase_type").startswith("test") == (split == "test")
        ]


_SLAKE = "https://huggingface.co/datasets/BoKelvin/SLAKE"


class Slake(MedicalQuestions):
    """SLAKE, test, the English questions: 1,061 about radiology pictures.

    test.json: [{qid, img_name ("xmlab102/source.jpg"), question, answer, answer_type, q_lang,
    content_type}]; pictures in imgs/.

    Reference: Liu et al., SLAKE, 2021, arXiv 2102.09542.
    """

    name, folder, picture_field = "slake", "slake", "img_name"
    twin = "attribute, presence"
    licence = "CC BY 4.0"
    source = _SLAKE
    count = 1_061
    files = (
        File("slake/test.json", _SLAKE, "1 MB"),
        File("slake/imgs/", f"{_SLAKE} (imgs.zip)", "0.2 GB", "images"),
        File("slake/train.json", _SLAKE, "4 MB", "train"),
    )

    def records(self, split: Split) -> list[Record]:
        """Every English question of the split."""
        path = self.questions(split)
        every = read_records(read_json(path), path, "qid", "question")
        return [each for each in every if each.text("q_lang") == "en"]
