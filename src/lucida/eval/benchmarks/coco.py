"""The pictures of MS COCO 2014, which many benchmarks ask about; kept once, in `coco/`."""

from __future__ import annotations

from lucida.core.errors import DataError
from lucida.eval.benchmark import File
from lucida.eval.benchmarks.annotations import Record

SITE = "http://images.cocodataset.org/zips"
VAL2014 = File("coco/val2014/", f"{SITE}/val2014.zip", "6 GB", "images")
TRAIN2014 = File("coco/train2014/", f"{SITE}/train2014.zip", "13 GB", "images")
FOLDERS = {"val2014": VAL2014, "train2014": TRAIN2014}


def file_name(folder: str, number: int) -> str:
    """What COCO calls a picture.

    Worked example: ("val2014", 42) is COCO_val2014_000000000042.jpg.
    """
    return f"COCO_{folder}_{number:012d}.jpg"


def folder_of(name: str, record: Record) -> File:
    """The folder that a picture of 2014 belongs to, by its name."""
    for folder, file in FOLDERS.items():
        if name.startswith(f"COCO_{folder}_"):
            return file
    expected = "COCO_val2014_… or COCO_train2014_…"
    raise DataError("no picture of COCO 2014", expected=expected, given=name, origin=record.origin)
