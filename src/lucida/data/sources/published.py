"""Reading published annotation files: records with where they stand, pickles without their code.

Every error names the file and the record. Nothing that can run code is read: pickles are opened
only as far as they hold plain values.
"""

from __future__ import annotations

import csv
import io
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lucida.core.errors import DataError, shorten
from lucida.data.sources.lines import LONGEST_FIELD
from lucida.data.sources.values import json_value, number_in, read_text


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an annotation file with where it stands, for errors. `id` is the publisher's
    and unique in its file."""

    id: str
    value: Mapping[str, object]
    origin: str

    def __getitem__(self, field: str) -> object:
        if field not in self.value:
            known = shorten(list(self.value), 400)
            raise DataError(
                f"the record has no `{field}`",
                given=known,
                origin=self.origin,
                remedy="download the file again, or take the release that its layout means",
            )
        return self.value[field]

    def get(self, field: str, default: object = None) -> object:
        """A field that need not be there."""
        return self.value.get(field, default)

    def text(self, field: str) -> str:
        """A field that must be text; numbers are written out, as publishers mix them."""
        value = self[field]
        try:
            is_nan = isinstance(value, float) and value != value  # a hole in the publisher's table
            if isinstance(value, str | int | float) and not isinstance(value, bool) and not is_nan:
                return value if isinstance(value, str) else str(value)
        except ValueError:  # more digits than Python writes
            pass
        raise self.wrong(field, "text", value)

    def whole(self, field: str) -> int:
        """A field that must be a whole number, also when it is written as text."""
        value = self[field]
        try:
            if isinstance(value, str | int) and not isinstance(value, bool):
                return int(str(value))
            raise ValueError
        except ValueError:
            raise self.wrong(field, "a whole number", value) from None

    def number(self, field: str) -> float:
        """A field that must be a finite number."""
        return number_in(self[field], field, self.origin)

    def sequence(self, field: str) -> list:
        """A field that must be a list."""
        value = self[field]
        if not isinstance(value, list | tuple):
            raise self.wrong(field, "a list", value)
        return list(value)

    def texts(self, field: str) -> list[str]:
        """A field that must be a list of texts."""
        values = self.sequence(field)
        for value in values:
            if not isinstance(value, str):
                raise self.wrong(field, "a list of texts", value)
        return values

    def answers(self, field: str, count: int, inside: str | None = None) -> tuple[str, ...]:
        """The answers of `count` people: a list of texts, or of objects with a text `inside`."""
        given = self.sequence(field)
        if len(given) != count:
            raise self.wrong(field, f"{count} answers", f"{len(given)} answers")
        if inside is None:
            return tuple(self.texts(field))
        try:
            found = tuple(each[inside] for each in given)
        except (TypeError, KeyError):
            found = (None,)
        if any(not isinstance(each, str) for each in found):
            raise self.wrong(field, f"objects with a text `{inside}`", given)
        return found

    def numbers(self, field: str, count: int) -> list[float]:
        """A field that must be a list of `count` numbers."""
        values = self.sequence(field)
        if len(values) != count:
            raise self.wrong(field, f"{count} numbers", values)
        return [number_in(value, field, self.origin) for value in values]

    def inside(self, field: str, place: str = "") -> Record:
        """A field that must be an object, as a record."""
        return as_record(self[field], self.id, f"{self.origin}, {place or field}")

    def records(self, field: str) -> list[Record]:
        """A field that must be a list of objects, as records."""
        values = self.sequence(field)
        return [
            as_record(value, f"{self.id}/{n}", f"{self.origin}, {field} {n}")
            for n, value in enumerate(values)
        ]

    def wrong(self, field: str, expected: str, given: object) -> DataError:
        """The error for a field of another kind than it must be."""
        message, shown = f"`{field}` is of the wrong kind", shorten(given, 60)
        return DataError(message, expected=expected, given=shown, origin=self.origin)


def as_record(value: object, name: str, origin: str) -> Record:
    """An object of a file as a record; DataError when it is something else."""
    if not isinstance(value, Mapping):
        given = type(value).__name__
        raise DataError("this is no record", expected="an object", given=given, origin=origin)
    return Record(name, value, origin)


def read_records(values: object, path: Path, identity: str, where: str = "record") -> list[Record]:
    """The objects of a list as records, named by their field `identity`; twice the same is an
    error, because stored predictions are found again by it."""
    if not isinstance(values, list):
        given = type(values).__name__
        raise DataError("the file holds no list", expected="a list", given=given, origin=path)
    records = []
    for number, value in enumerate(values):
        origin = f"{path}: {where} {number}"
        records.append(Record(as_record(value, "", origin).text(identity), value, origin))
    return unique(records, path)


def unique(records: list[Record], path: Path) -> list[Record]:
    """The records, when no two have the same id."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.id in seen:
            raise DataError(
                f"the id {record.id} is that of {seen[record.id].origin} too",
                origin=record.origin,
                remedy=f"download {path.name} again",
            )
        seen[record.id] = record
    return records


def read_json(path: Path) -> object:
    """What a JSON file holds."""
    return json_value(read_text(path), path, "download the file again")


def read_object(path: Path) -> Record:
    """What a JSON file holds, which must be an object, as a record."""
    return as_record(read_json(path), path.stem, str(path))


def read_json_lines(path: Path) -> list[object]:
    """The values of a file with one JSON value on every line that is not empty."""
    values = []
    # split("\n") and not splitlines(): U+2028 may stand inside a value.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            values.append(json_value(line, f"{path}: line {number}", "download the file again"))
    return values


def read_table(path: Path, delimiter: str = ",", header: bool = True) -> list[Record]:
    """The rows of a CSV or TSV file as records named by their number; without a header the columns
    are called "0", "1", ..."""
    csv.field_size_limit(LONGEST_FIELD)
    # Like `lines.fields_of`: a line ends at a line feed, and what csv finds odd is an error.
    text = io.StringIO(read_text(path), newline="\n")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1  # where the next one begins; a quoted field holds line ends
    except csv.Error as error:
        raise _make_damage_error(path, f"line {reader.line_num}", str(error)) from None
    if not rows:
        raise DataError("the file is empty", origin=path, remedy="download it again")
    names = rows.pop(0)[1] if header else [str(number) for number in range(len(rows[0][1]))]
    records = []
    for number, (line, row) in enumerate(rows):
        origin = f"{path}: record {number} (line {line})"
        if len(row) != len(names):
            given = f"{len(row)} columns"
            raise DataError("damaged row", expected=len(names), given=given, origin=origin)
        records.append(Record(str(number), dict(zip(names, row, strict=True)), origin))
    return records


_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    MemoryError, OverflowError, RecursionError, AssertionError, NameError, struct.error,
)  # fmt: skip
"""What the standard library raises for pickles that are cut or made up."""


class _PlainValues(pickle._Unpickler):
    """Reads pickles of plain values only: whatever would import something is refused.

    By the library's Python code: its C code gives a damaged pickle, which says that it remembers
    its two-billionth value, the memory for so many. It takes 2 s for the largest set (RefCOCO+).
    Byte arrays are refused too: one is made as long as it says it is. So are sets, and keys of
    dictionaries that are no texts or numbers: the hash of tuples that hold one another takes for
    ever.
    """

    # An opcode that is not in the table is a KeyError, which `_DAMAGE` makes an error of the file.
    dispatch: ClassVar = {
        opcode: read
        for opcode, read in pickle._Unpickler.dispatch.items()
        if opcode not in (pickle.BYTEARRAY8[0], pickle.ADDITEMS[0], pickle.FROZENSET[0])
    }
    plain = str | int | float | bytes | None

    def load_setitems(self) -> None:
        self._refuse_keys(self.stack[::2])
        super().load_setitems()

    def load_setitem(self) -> None:
        self._refuse_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_dict(self) -> None:
        self._refuse_keys(self.stack[::2])
        super().load_dict()

    dispatch |= {
        pickle.SETITEMS[0]: load_setitems,
        pickle.SETITEM[0]: load_setitem,
        pickle.DICT[0]: load_dict,
    }

    def _refuse_keys(self, keys: list) -> None:
        if any(not isinstance(key, self.plain) for key in keys):
            raise pickle.UnpicklingError("a dictionary whose keys are no texts or numbers")

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")


def read_pickle(path: Path) -> object:
    """What a pickle of lists, dictionaries, texts and numbers holds. No code of it can run: a
    pickle that names any class or function is refused."""
    try:
        with path.open("rb") as stream:
            return _PlainValues(stream, encoding="utf-8").load()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", origin=path) from error
    except _DAMAGE as error:
        raise _make_damage_error(path, "pickle", str(error) or type(error).__name__) from None


def _make_damage_error(path: Path, place: str, why: str) -> DataError:
    return DataError(f"{place} is damaged: {why}", origin=path, remedy="download the file again")
