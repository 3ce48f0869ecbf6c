"""RefCOCO, RefCOCO+ and RefCOCOg as their publishers and converters store them: phrase and box.

refs(unc).p, refs(google).p, refs(umd).p   a pickle of referred objects, beside instances.json;
                                           the same list as .json
finetune_refcoco_train.json                MDETR's: COCO's layout, the phrase is an image's caption
*.jsonl                                    a row for each phrase: its box as corners
*.parquet                                  the rows of the pickle, instances as JSON inside

Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272; Mao et al.,
Generation and Comprehension of Unambiguous Object Descriptions, 2016, arXiv 1511.02283.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lucida.core.errors import DataError, suggestion
from lucida.data.sources.arrow import TableRows
from lucida.data.sources.conversation import one_of
from lucida.data.sources.published import (
    Record,
    as_record,
    read_json,
    read_json_lines,
    read_object,
    read_pickle,
    read_records,
)
from lucida.data.sources.values import json_value

Box = tuple[float, float, float, float]
PICKLES = (".p", ".pkl", ".pickle")
INSTANCES = "instances.json"
PHRASES, PICTURES = ("sent", "expression", "phrase", "text"), ("image", "img_path", "file_name")
"""What converters call the phrase and the picture of a row."""


class Reference(NamedTuple):
    """A phrase and what it means: corners x0, y0, x1, y1 in pixels of the original picture.

    `size` is the picture's width and height, None where the file does not say.
    """

    id: str
    phrase: str
    box: Box
    picture: str
    size: tuple[int, int] | None
    origin: str


def references(
    path: Path, part: str | None = "train", instances: Path | None = None
) -> list[Reference]:
    """Every phrase of one part, in the order of the file.

    `part` is a split that the file names (train, val, testA, testB, test; `validation` is `val`);
    files that hold one part and do not name it are read whole. `instances` belongs to the pickle
    and its JSON; it is looked for beside them. DataError: a part that the file does not have, an
    object without its annotation, a box that is none, a pickle that would import anything.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _choose(list(_rows_of_table(path)), part, path)
    if ending in (".jsonl", ".ndjson"):
        rows = enumerate(read_json_lines(path))
        return [_row(as_record(row, str(n), f"{path}: row {n}")) for n, row in rows]
    value = read_pickle(path) if ending in PICKLES else read_json(path)
    if isinstance(value, dict):
        return list(_read_captioned(as_record(value, path.stem, str(path)), path))
    rows = isinstance(value, list) and value and isinstance(value[0], dict)
    # A list may be the pickle's objects written as JSON (several sentences each) or a row a phrase.
    if rows and "sentences" not in value[0] and "ref_id" not in value[0]:
        return [_row(as_record(row, str(n), f"{path}: row {n}")) for n, row in enumerate(value)]
    refs = [(ref, ref.text("split")) for ref in read_records(value, path, "ref_id", "ref")]
    known = _Instances(instances or path.with_name(INSTANCES))
    return [found for ref in _choose(refs, part, path) for found in known.of(ref)]


def _choose(parts: list[tuple], part: str | None, path: Path) -> list:
    """The first of each pair whose second is the part."""
    names = dict.fromkeys({"validation": "val"}.get(name, name) for _, name in parts)
    if part is not None and part not in names:
        remedy = f"set `split`; {suggestion(part, names)}"
        raise DataError("the file has no such part", given=part, origin=path, remedy=remedy)
    return [
        found for found, name in parts
        if part is None or part == {"validation": "val"}.get(name, name)
    ]  # fmt: skip


class _Instances:
    """Annotations and pictures of instances.json, by id."""

    def __init__(self, path: Path) -> None:
        known = read_object(path)
        self.boxes = {each.id: each for each in read_records(known["annotations"], path, "id")}
        self.pictures = {each.id: each for each in read_records(known["images"], path, "id")}

    def of(self, ref: Record) -> Iterator[Reference]:
        """The phrases of a referred object. Its own `file_name` is that of no picture."""
        box = self.boxes.get(ref.text("ann_id"))
        picture = self.pictures.get(ref.text("image_id"))
        if box is None or picture is None:
            raise DataError(
                "its annotation or picture is not in instances.json",
                given=f"ann_id {ref['ann_id']}, image_id {ref['image_id']}",
                origin=ref.origin,
                remedy="take both files from the same archive",
            )
        yield from _sentences(ref, _corners(box), picture)


def _sentences(ref: Record, box: Box, picture: Record) -> Iterator[Reference]:
    size = (picture.whole("width"), picture.whole("height"))
    for said in ref.records("sentences"):
        name = picture.text("file_name")
        phrase = said.text("sent")
        yield Reference(said.text("sent_id"), phrase, box, name, size, said.origin)


def _corners(annotation: Record) -> Box:
    x, y, width, height = annotation.numbers("bbox", 4)
    return _box(annotation, (x, y, x + width, y + height))


def _box(record: Record, box: Box) -> Box:
    x0, y0, x1, y1 = box
    if not (x0 <= x1 and y0 <= y1):
        raise record.wrong("bbox", "a box (x0 <= x1, y0 <= y1)", box)
    return box


def _read_captioned(known: Record, path: Path) -> Iterator[Reference]:
    """MDETR's files: each phrase is an image of its own, with the annotation of its object."""
    pictures = {each.id: each for each in read_records(known["images"], path, "id", "image")}
    for box in read_records(known["annotations"], path, "id", "annotation"):
        picture = pictures.get(box.text("image_id"))
        if picture is None:
            raise box.wrong("image_id", "an image of this file", box["image_id"])
        size = (picture.whole("width"), picture.whole("height"))
        phrase, name = picture.text("caption"), picture.text("file_name")
        yield Reference(box.id, phrase, _corners(box), name, size, box.origin)


def _row(row: Record) -> Reference:
    """A row with a phrase and the corners of its box."""
    phrase = row.text(_first(row, PHRASES))
    name = row.text(_first(row, PICTURES))
    x0, y0, x1, y1 = row.numbers("bbox", 4)
    box = _box(row, (x0, y0, x1, y1))
    if min(x0, y0) >= 0 and max(x1, y1) <= 1 and not all(map(float.is_integer, box)):
        raise row.wrong("bbox", "corners in pixels and not in shares of the picture", box)
    known = "width" in row.value and "height" in row.value
    size = (row.whole("width"), row.whole("height")) if known else None
    if size is not None and (x1 > size[0] + 1 or y1 > size[1] + 1):  # which rounding explains
        raise row.wrong("bbox", f"corners in pixels of a picture of {size[0]} x {size[1]}", box)
    return Reference(row.id, phrase, box, name, size, row.origin)


def _first(row: Record, names: tuple[str, ...]) -> str:
    one_of(row.value, names, row.origin)  # refuses two of them, of which one would be lost
    return next((name for name in names if name in row.value), names[0])


def _rows_of_table(path: Path) -> Iterator[tuple[Reference, str]]:
    rows = TableRows([path])
    for number in range(len(rows)):
        value, origin = rows[number]
        ref = as_record(value, str(number), origin)
        box = _inner(ref, "raw_anns")
        for found in _sentences(ref, _corners(box), _inner(ref, "raw_image_info")):
            yield found, ref.text("split")


def _inner(ref: Record, field: str) -> Record:
    """An object that stands as JSON text in a cell."""
    origin = f"{ref.origin}, {field}"
    return as_record(json_value(ref.text(field), origin), ref.id, origin)
