"""Rows of tables by number: CSV, TSV, JSON and JSONL, parquet and Arrow.

    rows_of("x.csv")[n] ─▶ ({"image": "a.jpg", "text": "A kite."}, "x.csv: record n (line m)")

A text file is looked through once for where its rows begin; `arrow` reads the binary ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lucida.core.errors import DataError, shorten, suggestion
from lucida.core.files import atomic_write, disk_errors
from lucida.data.encoded import find_held_source, picture_of_part
from lucida.data.sample import ImageSource
from lucida.data.source import RecordSource
from lucida.data.sources.arrow import TABLES, TableRows
from lucida.data.sources.lines import fields_of
from lucida.data.sources.pictures import ENDINGS, pictures_beside
from lucida.data.sources.records import Records, files_of, unread_files

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHERS = (";", "\t", "|")
"""What else parts the fields of a CSV: spreadsheets write semicolons where a comma is a decimal
point."""


def delimiter_of(file: Path, header: bool = True) -> str | None:
    """What parts the fields of a table, None where the ending is that of no table. In the header of
    a CSV without a comma another sign may do it.

    Worked example: a CSV that begins with "image;question;answer" has ";".
    """
    usual = DELIMITERS.get(file.suffix.lower())
    if usual != "," or not header:
        return usual
    with disk_errors(file), file.open("rb") as stream:
        names = stream.readline(LONGEST_HEADER)
    found = [sign for sign in OTHERS if sign.encode() in names]
    return found[0] if found and b"," not in names else usual


LONGEST_HEADER = 1 << 16
"""Bytes of a header that are looked at for its delimiter."""


class Rows(Protocol):
    """Rows of files, in the order of their names."""

    files: list[Path]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]: ...

    def column(self, name: str) -> Iterator[Any]: ...

    def write(self, numbers: Sequence[int], path: Path) -> Path: ...


def rows_of(path: str | Path, columns: list[str] | None = None) -> Rows:
    """The rows of a file, folder or pattern; by the ending of its first file."""
    files = files_of(path, TABLES)
    endings = {file.suffix.lower() for file in files}
    if len(endings) > 1:
        given = ", ".join(sorted(endings))
        raise DataError("files of several formats in one source", given=given, origin=path)
    if columns is not None and not endings <= set(DELIMITERS):
        message, remedy = "`columns` names those of a CSV or TSV alone", "leave it out"
        raise DataError(message, given=min(endings), origin=path, remedy=remedy)
    return TableRows(files) if endings <= set(TABLES) else TextRows(files, columns)


class TextRows:
    """Rows of CSV and TSV, as Python's csv module reads them (`lines`), of JSON or JSONL.

    `columns` are the names in a CSV or TSV without a header line; with one, each file has its own,
    in any order, and `columns` become those of the first. DataError: a row with more or fewer
    fields than columns, broken quotes or JSON, a JSON value that is no object, two columns of one
    name.
    """

    def __init__(self, files: list[Path], columns: list[str] | None = None) -> None:
        self.files = files
        known = [delimiter_of(file, columns is None) for file in files]
        self.delimiter = known[0]
        if len(set(known)) > 1:
            raise DataError(
                "tables of different delimiters in one source",
                expected=repr(known[0]),
                given=repr(next(each for each in known if each != known[0])),
                origin=next(f for f, each in zip(files, known, strict=True) if each != known[0]),
                remedy="save them alike",
            )
        table = self.delimiter is not None
        self.records = Records(files, delimiter=self.delimiter)
        self.columns = columns
        self._headers: list[int] = []
        self._named: list[list[str]] = []
        if table and columns is None:
            self._headers = list(self.records.starts)
            self._named = [self._fields(header)[0] for header in self._headers]
            self.columns = self._named[0]
        if not len(self):
            remedy = "write rows below the header, or give `columns` to a file without one"
            raise DataError(
                "the table has a header and no rows",
                given=shorten(self.columns, 200),
                origin=files[0],
                remedy=remedy,
            )
        for names, file in zip(self._named or [columns or []], files, strict=False):
            if len(set(names)) < len(names):
                given = shorten([name for name in names if names.count(name) > 1])
                raise DataError("two columns of one name", given=given, origin=file)

    def __len__(self) -> int:
        return len(self.records) - len(self._headers)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = self._place(index)
        if self.delimiter is None:
            record, origin = self.records.value(place)
            if not isinstance(record, dict):
                given = shorten(record)
                message = "bad record: it is no object with fields"
                raise DataError(message, given=given, origin=origin)
            return record, origin
        fields, origin = self._fields(place)
        columns = self.columns
        if self._named:
            columns = self._named[bisect_right(self._headers, place) - 1]
        if len(fields) != len(columns):
            raise DataError(
                "another number of fields than columns",
                expected=f"{len(columns)} ({shorten(columns, 200)})",
                given=len(fields),
                origin=origin,
                remedy="quote texts that hold the delimiter or a line end",
            )
        return dict(zip(columns, fields, strict=True)), origin

    def column(self, name: str) -> Iterator[Any]:
        """One field of every row. DataError: a row without it."""
        for index in range(len(self)):
            record, origin = self[index]
            yield field_of(record, name, origin)

    def write(self, numbers: Sequence[int], path: Path) -> Path:
        """Writes some rows as they stand, beside `path` with the ending of their format: a table
        with its header, JSON records one a line, or as an array where one of them takes several.
        DataError: files whose headers differ."""
        if any(names != self._named[0] for names in self._named):
            remedy = "give the tables one header, or split each"
            raise DataError("tables of different headers", origin=self.files[0], remedy=remedy)
        begin, between, end = "", "\n", "\n"
        texts = [self.records[self._place(number)][0].strip("\r\n") for number in numbers]
        if self.delimiter is not None:
            path = path.with_suffix(self.files[0].suffix.lower())
            begin = "".join(f"{self.records[first][0]}\n" for first in self._headers[:1])
        elif any("\n" in text for text in texts):
            path, begin, between, end = path.with_suffix(".json"), "[", ",\n", "]\n"
        else:
            path = path.with_suffix(".jsonl")
        atomic_write(path, begin + between.join(texts) + end)
        return path

    def _place(self, index: int) -> int:
        """Number of a row among the records of its files, headers included."""
        for header in self._headers:
            index += header <= index
        return index

    def _fields(self, place: int) -> tuple[list[str], str]:
        text, origin = self.records[place]
        return fields_of(text, self.delimiter, origin), origin


class PicturedRows(RecordSource):
    """Rows of a file or several, and the folder with the pictures that they name."""

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        allow_outside: bool = False,
        columns: list[str] | None = None,
    ) -> None:
        self.rows = rows_of(path, columns)
        self.files = self.rows.files
        self.noted = unread_files(path, (*TABLES, *ENDINGS))
        self.pictures = pictures_beside(self.files, images, allow_outside)

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> tuple[dict[str, Any], str]:
        """Fields and origin of a row."""
        return self.rows[index]

    def picture(self, value: Any, origin: str) -> ImageSource:
        """A picture by its path, or as the row itself holds it (bytes, base64, a struct of both).
        DataError: something else, a path that leaves the folder, a picture that is not there."""
        if (held := find_held_source(value, origin)) is not None:
            return held
        name = picture_of_part(value) if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            expected, given = "the path of a picture", shorten(value)
            raise DataError("bad image", expected=expected, given=given, origin=origin)
        return self.pictures.picture(name, origin)


def field_of(record: dict[str, Any], name: str, origin: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise DataError(f"no field `{name}`", origin=origin, remedy=suggestion(name, record))
    return record[name]
