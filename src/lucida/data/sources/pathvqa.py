"""PathVQA as its publisher stores it: a pickle of questions for each split.

qas/train/train_qa.pkl         [{image: "train_0422", question, answer}, ...]
images/train/train_0422.jpg    the picture that `image` names

The parquet copies on the Hub (columns image, question, answer) are read by the kinds `parquet` and
`hub`.

Reference: He et al., PathVQA: 30000+ Questions for Medical Visual Question Answering, 2020, arXiv
2003.10286.
"""

from __future__ import annotations

from pathlib import Path

from lucida.core.errors import DataError
from lucida.data.sources.published import Record, as_record, read_json, read_pickle


def pathology_questions(path: Path) -> list[Record]:
    """Every question, named by its number; its fields are image, question and answer.

    The pickle is read without running any of it; a JSON list of the same objects is read as well.
    """
    values = read_json(path) if path.suffix.lower() == ".json" else read_pickle(path)
    if not isinstance(values, list):
        given = type(values).__name__
        raise DataError("the file holds no list", expected="a list", given=given, origin=path)
    return [
        as_record(value, str(number), f"{path}: record {number}")
        for number, value in enumerate(values)
    ]


def picture_name(image: str) -> str:
    """Where the picture of a question stands below `images`: in the folder of its split.

    Worked example: `train_0422` is `train/train_0422.jpg`.
    """
    return f"{image.split('_')[0]}/{image}.jpg"
