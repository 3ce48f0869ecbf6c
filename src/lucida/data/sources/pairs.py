"""One picture and one text a row, from CSV, TSV, JSON or JSONL; or files of one name in a folder.

image,text                     photos/kite.jpg
a.jpg,"A kite, flying."        photos/kite.txt
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import Sample
from lucida.data.sources.conversation import captioned, shortened, text_of
from lucida.data.sources.pictures import ENDINGS, PictureFolder
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.records import Records, files_of

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class PairsSource:
    """Rows with the path of a picture and a text.

    CSV follows quotes, also over line ends; TSV has none (a quote is text). DataError: a column
    that is missing, a row with more or fewer fields, an empty text, a picture that cannot be found.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        image: str = "image",
        text: str = "text",
        columns: list[str] | None = None,
        prompts: list[str] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        files = files_of(path)
        endings = {file.suffix.lower() for file in files}
        if len(endings) > 1:
            given = ", ".join(sorted(endings))
            raise DataError("files of several formats in one source", given=given, origin=path)
        self.delimiter = DELIMITERS.get(endings.pop())
        table = self.delimiter is not None
        self.records = Records(files, lines=table, quoted=self.delimiter == ",")
        root = files[0].parent if images is None else Path(images)
        self.pictures = PictureFolder(root, allow_outside)
        self.image, self.text, self.prompts = image, text, prompts_of(prompts)
        self.columns = columns
        self._headers: list[int] = []
        if table and columns is None:
            self._headers = list(self.records.starts)
            self.columns = self._fields(0)[0]
            for name in (image, text):
                if name not in self.columns:
                    remedy = f"{suggestion(name, self.columns)}; set `image` and `text`, or "
                    remedy += "`columns` for a file without a header line"
                    raise DataError(f"no column `{name}`", origin=files[0], remedy=remedy)

    def __len__(self) -> int:
        return len(self.records) - len(self._headers)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = index
        for header in self._headers:
            place += header <= place
        record, origin = self._record(place)
        for name in (self.image, self.text):
            if name not in record:
                remedy = suggestion(name, record)
                raise DataError(f"no field `{name}`", origin=origin, remedy=remedy)
        name = text_of(record[self.image], self.image, origin)
        return captioned(
            origin,
            self.pictures.picture(name, origin),
            record[self.text],
            self.prompts,
            index,
        )

    def _record(self, place: int) -> tuple[dict[str, Any], str]:
        if self.delimiter is None:
            record, origin = self.records.value(place)
            if not isinstance(record, dict):
                expected, given = "an object", shortened(record)
                raise DataError("bad record", expected=expected, given=given, origin=origin)
            return record, origin
        fields, origin = self._fields(place)
        if len(fields) != len(self.columns):
            raise DataError(
                "another number of fields than columns",
                expected=f"{len(self.columns)} ({', '.join(self.columns)})",
                given=len(fields),
                origin=origin,
                remedy="quote texts that hold the delimiter or a line end",
            )
        return dict(zip(self.columns, fields, strict=True)), origin

    def _fields(self, place: int) -> tuple[list[str], str]:
        text, origin = self.records[place]
        text = text.removesuffix("\r")
        if self.delimiter == "\t":
            return text.split("\t"), origin
        try:
            rows = list(csv.reader(text.splitlines(keepends=True), strict=True))
        except csv.Error as error:
            remedy = "a quote inside a quoted field is written twice"
            raise DataError(f"broken CSV: {error}", origin=origin, remedy=remedy) from error
        return rows[0] if rows else [], origin


class FolderSource:
    """Pictures of a folder, in the order of their paths, each with the `.txt` of its name.

    A picture without a text, and a text without a picture, are records that raise `DataError`.
    """

    def __init__(
        self,
        path: str | Path,
        prompts: list[str] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.root, self.prompts = Path(path), prompts_of(prompts)
        self.pictures = PictureFolder(self.root, allow_outside)
        found: dict[str, list[str]] = {}
        for folder, inner, names in os.walk(self.root):
            inner.sort()
            for name in names:
                path = Path(folder, name).relative_to(self.root)
                ending = path.suffix
                if ending.lower() in (*ENDINGS, ".txt"):
                    found.setdefault(str(path.with_suffix("")), []).append(ending)
        self.names = sorted(found)
        self.endings = [sorted(found[name]) for name in self.names]
        if not self.names:
            remedy = f"pictures ({', '.join(ENDINGS)}) stand beside texts (.txt)"
            raise DataError("no pictures in the folder", origin=path, remedy=remedy)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name, endings = self.names[index], self.endings[index]
        origin = f"{self.root}: {name}"
        pictures = [ending for ending in endings if ending != ".txt"]
        if len(pictures) != 1 or ".txt" not in endings:
            expected, given = "one picture and one .txt", ", ".join(endings)
            message = "files of one name that are no pair"
            raise DataError(message, expected=expected, given=given, origin=origin)
        image = self.pictures.picture(name + pictures[0], origin)
        try:
            text = (self.root / f"{name}.txt").read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the text: {error}", origin=origin) from error
        return captioned(origin, image, text.strip(), self.prompts, index)
