"""BLINK: fourteen kinds of seeing that take people a moment, with up to four pictures."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.eval.benchmark import Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_picture, unique
from lucida.eval.benchmarks.choice import LetterChoice, find_place
from lucida.eval.benchmarks.published import ParquetBenchmark, Split, by_kind

_HUB = "https://huggingface.co/datasets/BLINK-Benchmark/BLINK"
SUBTASKS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test",
    "Jigsaw", "Multi-view_Reasoning", "Object_Localization", "Relative_Depth",
    "Relative_Reflectance", "Semantic_Correspondence", "Spatial_Relation",
    "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip
PICTURES = ("image_1", "image_2", "image_3", "image_4")


class Blink(ParquetBenchmark, LetterChoice):
    """BLINK, validation: 1,901 questions of fourteen kinds.

    SUBTASK/val-00000-of-00001.parquet: idx, prompt (the question as it is to be asked, with its
    options), choices, answer ("(A)"), image_1 ... image_4. All pictures come before the prompt, in
    their order. The headline `Total` is the mean over the kinds that were asked, as the publisher
    counts it; the publisher reads answers that name no letter by a judge, here it is
    `metrics.choice.letter`. Answers of the test split are not published.

    Reference: Fu et al., BLINK, 2024, arXiv 2404.12390; zeyofu/BLINK_Benchmark, eval/evaluate.py.
    """

    name, folder, family = "blink", "blink", "written-choice"
    twin = "comparison, counting, spatial"
    licence = "Apache-2.0"
    source = _HUB
    count = 1_901
    headline = "Total"
    files = tuple(
        File(f"blink/{name}/val-00000-of-00001.parquet", _HUB, "up to 80 MB") for name in SUBTASKS
    )

    def records(self, split: Split) -> list[Record]:
        """Every question of every kind, by its idx."""
        found = [
            Record(each.id, {**each.value, "kind": name}, each.origin)
            for name, file in zip(SUBTASKS, self.files, strict=True)
            for each in self.rows(file, "idx")
        ]
        return unique(found, self.root / self.folder)

    def example(self, record: Record) -> Example:
        """A question with the letter of its answer; the kind is that of the publisher."""
        choices = record.texts("choices")
        shown = [name for name in PICTURES if record.get(name) is not None]
        if not shown:
            raise record.wrong("image_1", "a picture", None)
        return self.choose(
            record,
            [read_picture(record, name) for name in shown],
            record.text("prompt"),
            choices,
            find_place(record, "answer", len(choices)),
            kind=record.text("kind"),
        )

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by kind, and their mean."""
        kinds = by_kind(examples, scores)
        return kinds | {"Total": sum(kinds.values()) / len(kinds)}
