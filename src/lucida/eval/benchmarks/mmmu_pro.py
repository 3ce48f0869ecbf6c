"""MMMU-Pro: MMMU with ten options, and as a picture of the whole question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_picture
from lucida.eval.benchmarks.choice import LetterChoice, find_place
from lucida.eval.benchmarks.mmmu import DISCIPLINES, read_list, show_among
from lucida.eval.benchmarks.published import ParquetBenchmark, Split, by_kind
from lucida.eval.metrics.choice import LETTERS, letter, mmmu_pro_letter

_HUB = "https://huggingface.co/datasets/MMMU/MMMU_Pro"
_DIRECT = "Answer with the option letter from the given choices directly."
_LAST_LINE = (
    " The last line of your response should be of the following format: 'Answer: $LETTER' (without"
    " quotes) where LETTER is one of options."
)


class MMMUPro(ParquetBenchmark, LetterChoice):
    """MMMU-Pro, test, standard with ten options: 1,730 questions; pictures stand where the text and
    the options have them.

    "standard (10 options)/test-0000N-of-00002.parquet": id, question, options (a list as text),
    answer (a letter), subject, image_1 ... image_7. Options are shuffled, and `<image 2>` is always
    `image_2`. Asked in the publisher's own direct words (prompts.yaml), whatever set of prompts is
    chosen. A letter is read by the publisher's rule (`metrics.choice.mmmu_pro_letter`), and an
    output without one is wrong, where the published script guesses at random; `robust` in the
    summary reads it as `letter` does.

    Reference: Yue et al., MMMU-Pro, 2024, arXiv 2409.02813; mmmu-pro/evaluate.py and
    infer/infer_transformers.py of its repository.
    """

    name, folder, family = "mmmu-pro", "mmmu-pro", "conversation"
    twin = "diagram, comparison"
    licence = "Apache-2.0"
    source = _HUB
    count = 1_730
    files = (File("mmmu-pro/standard (10 options)/", _HUB, "2 parquet files"),)
    request = _DIRECT

    def records(self, split: Split) -> list[Record]:
        """Every question, by its id."""
        return self.rows(self.files[0], "id")

    def example(self, record: Record) -> Example:
        """A question with its pictures; the kind is the discipline."""
        options, subject = read_list(record, "options"), record.text("subject")
        kinds = [name for name, each in DISCIPLINES.items() if subject in each.split()]
        if not kinds:
            raise record.wrong("subject", "one of MMMU's thirty subjects", subject)
        made = self.choose(
            record,
            [],
            self.question(record, options),
            options,
            find_place(record, "answer", len(options)),
            kind=kinds[0],
            cluster=record.id,
            details={"subject": subject},
        )
        return self.with_pictures(made, record)

    def question(self, record: Record, options: Sequence[str]) -> str:
        """The question, its options on a line each, and the request."""
        listed = [f"{name}. {text}" for name, text in zip(LETTERS, options, strict=False)]
        return "\n".join([record.text("question"), *listed, self.request])

    def with_pictures(self, made: Example, record: Record) -> Example:
        """The example with its pictures among the words."""
        return replace(made, sample=show_among(made.question, record))

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The output as it is: what is read depends on the rule."""
        return output

    def is_read(self, example: Example, parsed: Parsed) -> bool:
        """Whether the publisher's rule finds a letter."""
        return mmmu_pro_letter(parsed, example.details["choices"]) is not None

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 for the right letter, by the publisher's rule."""
        found = mmmu_pro_letter(parsed, example.details["choices"])
        return float(found == example.answers[0])

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by discipline and subject, and of letters read robustly."""
        pairs = list(zip(examples, parsed, strict=True))
        robust = [float(letter(p, e.details["choices"]) == e.answers[0]) for e, p in pairs]
        totals = by_kind(examples, scores) | by_kind(examples, scores, "subject")
        return totals | {"robust": 100 * sum(robust) / len(robust)}


class MMMUProVision(MMMUPro):
    """MMMU-Pro, test, vision: the same 1,730 questions, each with its options as one picture, a
    screenshot or a photo of it.

    vision/*.parquet: id, image, options (a list as text, not shown), answer, subject.
    """

    name = "mmmu-pro-vision"
    files = (File("mmmu-pro/vision/", _HUB, "parquet files"),)
    request = _DIRECT + _LAST_LINE

    @property
    def prefix(self) -> str:
        """Ids of its own: the same questions are asked in words elsewhere."""
        return self.name

    def question(self, record: Record, options: Sequence[str]) -> str:
        """The request alone."""
        return self.request

    def with_pictures(self, made: Example, record: Record) -> Example:
        """The example with the picture of the question in front."""
        shown = self.asked(record, [read_picture(record, "image")], self.request)
        return replace(made, sample=shown.sample)
