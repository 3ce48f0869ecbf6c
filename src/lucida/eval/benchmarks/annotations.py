"""Where published files of benchmarks lie, and pictures that stand in their records.

The reading itself (`Record`, `read_json`, `read_pickle`, ...) is that of the data layer, which
trains on some of the same files; its names can be taken from here as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from lucida.core.errors import DataError
from lucida.data.encoded import encoded_bytes, find_held_source
from lucida.data.images import bytes_source
from lucida.data.sample import ImageSource
from lucida.data.sources.published import (
    Record,
    as_record,
    read_json,
    read_json_lines,
    read_object,
    read_pickle,
    read_records,
    read_table,
    read_text,
    unique,
)
from lucida.eval.benchmark import File

__all__ = [
    "VARIABLE",
    "MissingFile",
    "Record",
    "as_record",
    "data_root",
    "embedded_picture",
    "join",
    "needed",
    "picture_of",
    "read_json",
    "read_json_lines",
    "read_named",
    "read_numbered",
    "read_object",
    "read_parquet",
    "read_pickle",
    "read_picture",
    "read_records",
    "read_table",
    "read_text",
    "unique",
]

VARIABLE = "LUCIDA_DATA"
"""The environment's name for the folder with the published files."""


class MissingFile(DataError):
    """A published file, or a picture in a folder of them, that is not there."""


def data_root(data: str | None) -> Path:
    """The folder with the published files: `data` or the environment's LUCIDA_DATA."""
    chosen = data or os.environ.get(VARIABLE, "")
    if not chosen:
        raise DataError(
            "nobody said where the benchmarks' published files are",
            remedy=f"name the folder with --data, {VARIABLE} or evaluation.data of the recipe",
        )
    return Path(chosen).expanduser()


def needed(root: Path, file: File, name: str) -> Path:
    """The path of a published file; MissingFile when it is not there."""
    path = root / file.path
    if not path.exists():
        raise MissingFile(
            f"{name} needs {file.path}, which is not there",
            origin=path,
            remedy=f"its publisher offers it ({file.size}) at {file.source}",
        )
    return path


def embedded_picture(encoded: str, record: Record) -> ImageSource:
    """A picture that stands as base64 in its record."""
    return picture_of(encoded_bytes(encoded, record.origin), record)


def picture_of(content: bytes, record: Record) -> ImageSource:
    """A picture's bytes as a source."""
    return bytes_source(content, f"{record.origin}: image")


def read_numbered(path: Path) -> list[Record]:
    """The objects of a JSON list as records named by their number, where they have no ids."""
    values = read_json(path)
    if not isinstance(values, list):
        given = type(values).__name__
        raise DataError("the file holds no list", expected="a list", given=given, origin=path)
    return [as_record(value, str(n), f"{path}: question {n}") for n, value in enumerate(values)]


def read_named(path: Path, where: str = "") -> list[Record]:
    """The objects of a JSON object as records, named by their keys."""
    place = f"{path}: {where} " if where else f"{path}: "
    values = read_object(path).value
    return [as_record(value, name, place + name) for name, value in values.items()]


def join(asked: list[Record], answered: list[Record], path: Path) -> list[tuple[Record, Record]]:
    """Every question with its annotation, by their ids; `path` is the file of annotations.
    DataError names a question that has none."""
    known = {each.id: each for each in answered}
    for each in asked:
        if each.id not in known:
            raise DataError(
                f"question {each.id} has no annotation in {path.name}",
                origin=each.origin,
                remedy="take both files from the same release",
            )
    return [(each, known[each.id]) for each in asked]


def read_picture(record: Record, field: str) -> ImageSource:
    """The picture that a field of a table holds: bytes, base64 or a struct with `bytes`."""
    origin = f"{record.origin}: {field}"
    source = find_held_source(record[field], origin)
    if source is None:
        raise record.wrong(field, "a picture", record[field])
    return source


def read_parquet(path: Path) -> list[dict]:
    """The rows of a parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = "reading parquet files needs the package pyarrow"
        raise DataError(message, origin=path, remedy="pip install pyarrow") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        message = f"the file is damaged: {str(error).splitlines()[0]}"
        raise DataError(message, origin=path, remedy="download the file again") from None
