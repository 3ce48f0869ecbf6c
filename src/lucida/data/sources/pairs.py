"""One picture and one text a row, from CSV, TSV, JSON or JSONL; or files of one name in a folder.

image,text                     photos/kite.jpg
a.jpg,"A kite, flying."        photos/kite.txt
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import Sample
from lucida.data.source import Shape, Source
from lucida.data.sources.conversation import make_captioned, text_of
from lucida.data.sources.pictures import ENDINGS, PictureFolder
from lucida.data.sources.prompts import prompts_of
from lucida.data.sources.records import JUNK, not_read
from lucida.data.sources.tables import PicturedRows, field_of
from lucida.data.sources.values import read_text

TEXT = ".txt"


class PairsSource(PicturedRows):
    """Rows with the path of a picture and a text; which columns they stand in is told.

    DataError: a column that is missing, a row with more or fewer fields, an empty text, a picture
    that cannot be found.
    """

    uses: ClassVar = {}

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
        super().__init__(path, images, allow_outside, columns)
        self.image, self.text, self.prompts = image, text, prompts_of(prompts)
        known = getattr(self.rows, "columns", None)
        for name in (image, text):
            if isinstance(known, list) and name not in known:
                remedy = f"{suggestion(name, known)}; set `image` and `text`, or `columns` for a "
                remedy += "file without a header line"
                raise DataError(f"no column `{name}`", origin=self.files[0], remedy=remedy)

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The two columns."""
        return {self.image: None, self.text: None}

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A row as a sample; with `words` in place of its own text."""
        name = text_of(field_of(record, self.image, origin), self.image, origin)
        said = field_of(record, self.text, origin) if words is None else words
        return make_captioned(
            origin, self.pictures.picture(name, origin), said, self.prompts, index
        )

    def key(self, index: int, field: str | None) -> str:
        """The path of a row's picture, or one of its fields, as text."""
        record, origin = self.rows[index]
        return str(field_of(record, field or self.image, origin))


def _refuse(error: OSError) -> None:
    message = f"cannot read the folder: {error.strerror or error}"
    raise DataError(message, origin=error.filename) from error


class FolderSource(Source):
    """Pictures of a folder, in the order of their paths, each with the `.txt` of its name.

    A picture without a text, and a text without a picture, are records that raise `DataError`.
    `noted` counts the other files, and the linked folders, which are not followed.
    """

    uses: ClassVar = dict.fromkeys((*ENDINGS, TEXT))
    """Endings of files."""
    ignores = JUNK

    def __init__(
        self,
        path: str | Path,
        prompts: list[str] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.root, self.prompts = Path(path), prompts_of(prompts)
        self.pictures = PictureFolder(self.root, allow_outside)
        found: dict[str, list[str]] = {}
        self.noted: Counter[str] = Counter()
        # os.walk follows no linked folders, and without `onerror` passes over those it may not
        # read.
        for folder, inner, names in os.walk(self.root, onerror=_refuse):
            inner.sort()
            if links := sum(Path(folder, each).is_symlink() for each in inner):
                self.noted["linked folders that are not followed"] += links
            for name in names:
                path = Path(folder, name).relative_to(self.root)
                ending = path.suffix
                if ending.lower() in self.uses:
                    found.setdefault(str(path.with_suffix("")), []).append(ending)
                elif name not in self.ignores:
                    self.noted[not_read(ending.lower())] += 1
        self.names = sorted(found)
        self.endings = [sorted(found[name]) for name in self.names]
        if not self.names:
            remedy = f"pictures ({', '.join(ENDINGS)}) stand beside texts (.txt)"
            raise DataError("no pictures in the folder", origin=path, remedy=remedy)

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; with `words` in place of the text beside the picture."""
        name, origin = self.names[index], f"{self.root}: {self.names[index]}"
        path = self.key(index, None)
        if words is None and ".txt" not in self.endings[index]:
            expected, given = "one picture and one .txt", ", ".join(self.endings[index])
            message = "files of one name that are no pair"
            raise DataError(message, expected=expected, given=given, origin=origin)
        image = self.pictures.picture(path, origin)
        if words is not None:
            return make_captioned(origin, image, words, self.prompts, index)
        text = read_text(self.pictures.path(f"{name}{TEXT}", origin), f"{origin}{TEXT}")
        return make_captioned(origin, image, text.strip(), self.prompts, index)

    def key(self, index: int, field: str | None) -> str:
        """The path of a picture below the folder; there are no fields."""
        name, endings = self.names[index], self.endings[index]
        origin = f"{self.root}: {name}"
        if field is not None:
            raise DataError(f"pictures of a folder have no field `{field}`", origin=origin)
        pictures = [ending for ending in endings if ending != ".txt"]
        if len(pictures) != 1:
            expected, given = "one picture and one .txt", ", ".join(endings)
            message = "files of one name that are no pair"
            raise DataError(message, expected=expected, given=given, origin=origin)
        return name + pictures[0]
