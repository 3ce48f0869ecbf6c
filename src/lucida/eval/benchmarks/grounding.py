"""Where is it? RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref: a box for a phrase."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from lucida.data.sources.refcoco import references
from lucida.eval.benchmark import Example, File, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_named, unique
from lucida.eval.benchmarks.coco import TRAIN2014
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.metrics.boxes import OCID_THRESHOLD, box_hit

_REFER = "https://github.com/lichengunc/refer"
_ZIPS = "http://bvisionweb1.cs.unc.edu/licheng/referit/data"
_SENTENCES = {
    "refcoco": {"val": 10_834, "testA": 5_657, "testB": 5_095},
    "refcoco+": {"val": 10_758, "testA": 5_726, "testB": 4_889},
    "refcocog": {"val": 4_896, "test": 9_602},
}
_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


class Grounding(PublishedBenchmark):
    """A phrase and the box it means; an output that is no box is a miss.

    Boxes are compared in pixels of the original picture with continuous corners (no "+1").
    """

    family = "box"
    twin = "boxes"
    threshold = 0.5
    max_new_tokens = 48

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The box in pixels, or None."""
        return read_box(output, *example.size)

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where the overlap (IoU) reaches the threshold."""
        return box_hit(parsed, example.box, self.threshold)

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Accuracy in percent by kind, and how many outputs in percent were no box."""
        nothing = sum(found is None for found in parsed)
        return by_kind(examples, scores) | {"no box": 100 * nothing / max(1, len(parsed))}


class RefCOCO(Grounding):
    """RefCOCO, RefCOCO+ (both split by UNC) or RefCOCOg (by UMD); one example for each sentence.

    The published files of `refer`: instances.json (COCO's layout: images, annotations with bbox as
    x, y, width, height) and refs(unc).p, a pickle of [{ref_id, ann_id, image_id, split, sentences:
    [{sent_id, sent}]}]. The pickle is read without running any of it: one that would import
    anything is refused. The phrase is `sent`, lower case without punctuation.

    Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272; Mao et
    al., Generation and Comprehension of Unambiguous Object Descriptions, 2016, arXiv 1511.02283.
    """

    metric = "IoU ≥ 0.5"
    licence = "no licence stated (annotations); pictures: COCO's terms"
    source = _REFER
    has_train = True

    def __init__(
        self, dataset: str, part: str, *, prompts: str | None = None, data: str | None = None
    ) -> None:
        super().__init__(prompts=prompts, data=data)
        self.folder, self.part = dataset, part
        self.name = f"{dataset}-{part}"
        self.count = _SENTENCES[dataset][part]
        self.files = (
            File(f"{dataset}/instances.json", f"{_ZIPS}/{dataset}.zip", "40 MB"),
            File(f"{dataset}/refs({_BY[dataset]}).p", f"{_ZIPS}/{dataset}.zip", "20 MB"),
            TRAIN2014,
        )

    def records(self, split: Split) -> list[Record]:
        """Every sentence of the part, with its box and picture."""
        instances, path = self.path(self.files[0]), self.path(self.files[1])
        part = self.part if split == "test" else "train"
        found = references(path, part, instances)
        return unique([Record(each.id, each._asdict(), each.origin) for each in found], path)

    def example(self, record: Record) -> Example:
        """A sentence with the box it means."""
        return self.asked(
            record,
            [self.picture(TRAIN2014, record.text("picture"), record)],
            record.text("phrase"),
            box=record["box"],
            size=record["size"],
            kind=self.part,
        )


class OCIDRef(Grounding):
    """OCID-Ref, validation: 18,342 phrases for things on cluttered tables, in pictures 640 x 480.

    val_expressions.json: {id: {scene_path, take_id, bbox, sentence}}; `bbox` is a text that holds a
    JSON list of x0, y0, x1, y1. Clutter follows from `take_id`: 0-9 free, 10-16 touching, 17-20
    stacked. The threshold is 0.25, as the paper has it.

    Reference: Wang et al., OCID-Ref, 2021, arXiv 2103.07679.
    """

    name, folder, metric = "ocid-ref", "ocid-ref", "IoU ≥ 0.25"
    threshold = OCID_THRESHOLD
    licence = "MIT (annotations); pictures: OCID's terms"
    source = "https://github.com/lluma/OCID-Ref"
    count = 18_342
    has_train = True
    files = (
        File("ocid-ref/val_expressions.json", "https://github.com/lluma/OCID-Ref", "10 MB"),
        File(
            "ocid-ref/OCID-dataset/",
            "https://www.acin.tuwien.ac.at/vision-for-robotics/software-tools/"
            "object-clutter-indoor-dataset/",
            "6 GB",
            "images",
        ),
        File(
            "ocid-ref/train_expressions.json", "https://github.com/lluma/OCID-Ref", "150 MB",
            "train",
        ),
    )  # fmt: skip

    def records(self, split: Split) -> list[Record]:
        """Every phrase, by its id."""
        return read_named(self.questions(split))

    def example(self, record: Record) -> Example:
        """A phrase with its box; the kind is the clutter."""
        try:
            box = Record(record.id, {"bbox": json.loads(record.text("bbox"))}, record.origin)
        except json.JSONDecodeError:
            raise record.wrong("bbox", "a list of four numbers as text", record["bbox"]) from None
        return self.asked(
            record,
            [self.picture(self.files[1], record.text("scene_path"), record)],
            record.text("sentence"),
            box=tuple(box.numbers("bbox", 4)),
            size=(640, 480),
            kind=_clutter(record),
        )


def _clutter(record: Record) -> str:
    take = record.whole("take_id")
    if not 0 <= take <= 20:
        raise record.wrong("take_id", "0 to 20", take)
    if take <= 9:
        return "minimum clutter"
    return "medium clutter" if take <= 16 else "maximum clutter"


refcoco_val = partial(RefCOCO, "refcoco", "val")
refcoco_testA = partial(RefCOCO, "refcoco", "testA")
refcoco_testB = partial(RefCOCO, "refcoco", "testB")
refcoco_plus_val = partial(RefCOCO, "refcoco+", "val")
refcoco_plus_testA = partial(RefCOCO, "refcoco+", "testA")
refcoco_plus_testB = partial(RefCOCO, "refcoco+", "testB")
refcocog_val = partial(RefCOCO, "refcocog", "val")
refcocog_test = partial(RefCOCO, "refcocog", "test")
