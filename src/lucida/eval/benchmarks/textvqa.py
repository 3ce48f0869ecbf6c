"""TextVQA: questions about the text in a picture, with and without recognised words at hand."""

from __future__ import annotations

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_object, read_records
from lucida.eval.benchmarks.published import PublishedBenchmark, Split
from lucida.eval.metrics.textvqa import m4c_score

_SITE = "https://dl.fbaipublicfiles.com/textvqa"
TEXTVQA_PICTURES = File(
    "textvqa/train_images/", f"{_SITE}/images/train_val_images.zip", "7 GB", "images"
)
_OCR = "TextVQA_Rosetta_OCR_v0.2_{}.json"


class TextVQA(PublishedBenchmark):
    """TextVQA, validation: 5,000 questions about 3,166 pictures, no words given.

    TextVQA_0.5.1_val.json: {"data": [{question_id, question, image_id, answers: [ten texts]}]}.

    Reference: Singh et al., Towards VQA Models That Can Read, 2019, arXiv 1904.08920.
    """

    name, folder, family, metric = "textvqa", "textvqa", "textvqa", "M4C accuracy"
    twin = "reading"
    licence = "CC BY 4.0"
    source = "https://textvqa.org/dataset/"
    count = 5_000
    has_train = True
    max_new_tokens = 16
    files = (
        File(
            "textvqa/TextVQA_0.5.1_val.json", f"{_SITE}/data/TextVQA_0.5.1_val.json", "16 MB"
        ),
        TEXTVQA_PICTURES,
        File(
            "textvqa/TextVQA_0.5.1_train.json",
            f"{_SITE}/data/TextVQA_0.5.1_train.json",
            "108 MB",
            "train",
        ),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question of the split."""
        path = self.questions(split)
        return read_records(read_object(path)["data"], path, "question_id")

    def example(self, record: Record) -> Example:
        """A question with its ten answers."""
        # A picture in which nothing was recognised is asked without the line of words.
        tokens = tuple(record.get("ocr_tokens", ()))
        return self.asked(
            record,
            [self.picture(TEXTVQA_PICTURES, f"{record.text('image_id')}.jpg", record)],
            record.text("question"),
            family=self.family if tokens else "textvqa",
            tokens=tokens,
            answers=record.answers("answers", 10),
            details={"ocr_tokens": tokens},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """M4C's soft accuracy of each answer."""
        return m4c_score(parsed, example.answers)


class TextVQAOCR(TextVQA):
    """TextVQA with the words that Rosetta recognised written into the question.

    TextVQA_Rosetta_OCR_v0.2_val.json: {"data": [{image_id, ocr_tokens}]}. LLaVA's prepared
    questions come from the same release; a picture without words is asked without the line.
    """

    name, family = "textvqa-ocr", "textvqa-ocr"
    files = (
        *TextVQA.files,
        File(
            f"textvqa/{_OCR.format('val')}", f"{_SITE}/data/{_OCR.format('val')}", "20 MB"
        ),
        File(
            f"textvqa/{_OCR.format('train')}",
            f"{_SITE}/data/{_OCR.format('train')}",
            "130 MB",
            "train",
        ),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every question with the words of its picture."""
        path = self.path(self.files[3 if split == "test" else 4])
        words = {
            each.id: each.texts("ocr_tokens")
            for each in read_records(read_object(path)["data"], path, "image_id")
        }
        return [
            Record(
                each.id,
                {**each.value, "ocr_tokens": words.get(each.text("image_id"), [])},
                each.origin,
            )
            for each in super().records(split)
        ]
