"""Web pages with pictures between their sentences: MMC4 and OBELICS, as JSONL or parquet.

    mmc4     {"text_list": ["...", ...],
              "image_info": [{"image_name", "raw_url", "matched_text_index", "matched_sim"}, ...]}
    obelics  {"texts": ["...", null, ...], "images": [null, "https://...", ...]}

Pictures stand in a folder or in tar files (read in place), found by name or by the address that
they were loaded from, or in the record (`image_base64`; bytes in a table). What becomes of a page
is decided by `lucida.data.transforms`. `<image>` in web text is text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from lucida.core.errors import DataError, shorten
from lucida.data.encoded import encoded_bytes
from lucida.data.images import bytes_source
from lucida.data.sample import ImageSource, Sample, Turn
from lucida.data.source import IGNORED, RecordSource, Shape
from lucida.data.sources.arrow import TABLES, TableRows
from lucida.data.sources.conversation import text_of
from lucida.data.sources.records import Records, files_of, unread_files
from lucida.data.sources.stores import By, MissingError, Store, open_stores
from lucida.data.sources.values import number_in
from lucida.data.transforms import (
    Item,
    Order,
    Shown,
    arrange_items,
    document,
    match_sentences,
    thin_out,
)

_PICTURE = dict.fromkeys(("image_name", "raw_url", "image_base64", "bytes", "path"))
_PLACE = dict.fromkeys(("matched_text_index", "matched_sim"))
MMC4 = {"text_list": None, "image_info": _PICTURE | _PLACE}
OBELICS = {"texts": None, "images": _PICTURE}


@dataclass(frozen=True, slots=True)
class _Page:
    """A page while it is read: its record, its pictures so far, and what was left out."""

    record: dict[str, Any]
    origin: str
    store: Store
    sources: list[ImageSource] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def values(self, name: str) -> list[Any]:
        """A field of the record that must be a list."""
        value = self.record.get(name)
        if not isinstance(value, list):
            remedy = "check `layout` of the source"
            given = shorten(value)
            raise DataError(
                f"bad `{name}`", expected="a list", given=given, origin=self.origin, remedy=remedy
            )
        return value


class InterleavedSource(RecordSource):
    """One document a page. `explained` tells as well what was left out of it, and which keys of
    the record are not read.

    DataError: a record of another shape, a sentence number that does not exist, a picture that is
    missing (unless `missing` is `drop`), a page without text.
    """

    uses: ClassVar = {"mmc4": MMC4, "obelics": OBELICS}
    """By layout."""
    ignores = IGNORED | {"similarity_matrix", "could_have_url_duplicate", "face_detections",
                         "metadata", "general_metadata"}  # fmt: skip

    def __init__(
        self,
        path: str | Path,
        layout: Literal["mmc4", "obelics"] = "mmc4",
        images: str | Path | None = None,
        find: By = "name",
        order: Order = "matched",
        max_images: int = 6,
        choose: Literal["first", "similar"] = "first",
        min_similarity: float | None = None,
        min_bytes: int = 0,
        missing: Literal["error", "drop"] = "error",
        drop_trailing: bool = True,
        allow_outside: bool = False,
    ) -> None:
        files = files_of(path, TABLES)
        self.table = TableRows(files) if files[0].suffix.lower() in TABLES else None
        self.records = Records(files) if self.table is None else self.table
        self.layout, self.order, self.max_images, self.choose = layout, order, max_images, choose
        self.min_similarity, self.min_bytes = min_similarity, min_bytes
        self.missing, self.drop_trailing, self.find = missing, drop_trailing, find
        self.stores: list[Store] = open_stores(files, images, find, allow_outside)
        self.noted: Counter[str] = Counter(unread_files(path, TABLES))
        for store in {id(each): each for each in self.stores}.values():
            self.noted.update(store.noted)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> tuple[Any, str]:
        """A page as it stands in its file, and where it stands."""
        return self.records.value(index) if self.table is None else self.table[index]

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The keys that the layout uses."""
        return self.uses[self.layout]

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """The document of a page."""
        return self._read(record, origin, index)[0]

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """The document of a page, and how much of it was left out for which reason."""
        record, origin = self.record(index)
        sample, left_out = self._read(record, origin, index)
        return sample, left_out + self.unread(record)

    def _read(self, record: Any, origin: str, index: int) -> tuple[Sample, Counter[str]]:
        if not isinstance(record, dict):
            expected, given = "an object", shorten(record)
            raise DataError("bad page", expected=expected, given=given, origin=origin)
        page = _Page(record, origin, self.stores[self.records.file_of(index)])
        items = self._mmc4(page) if self.layout == "mmc4" else self._obelics(page)
        items, thinned_out = thin_out(
            items, self.max_images, self.choose, self.min_similarity, self.min_bytes
        )
        items, left_out = arrange_items(items, self.order, self.drop_trailing)
        parts, numbers = document(items, " " if self.layout == "mmc4" else "\n\n")
        if not any(isinstance(part, str) for part in parts):
            raise DataError("no text is left of this page", origin=origin)
        images = tuple(page.sources[number] for number in numbers)
        sample = Sample(origin, images, (), ((Turn("text", parts),),))
        return sample, page.lost + thinned_out + left_out

    def _mmc4(self, page: _Page) -> list[Item]:
        origin = page.origin
        sentences = [text_of(each, "text_list", origin) for each in page.values("text_list")]
        found: list[tuple[Shown, int]] = []
        for info in page.values("image_info"):
            if not isinstance(info, dict):
                expected, given = "an object", shorten(info)
                raise DataError("bad image_info", expected=expected, given=given, origin=origin)
            place = info.get("matched_text_index")
            if type(place) is not int or not 0 <= place < len(sentences):
                raise DataError(
                    "bad `matched_text_index`",
                    expected=f"0 to {len(sentences) - 1}",
                    given=shorten(place),
                    origin=origin,
                )
            likeness = info.get("matched_sim")
            likeness = None if likeness is None else number_in(likeness, "matched_sim", origin)
            shown = self._shown(page, info, likeness)
            if shown is not None:
                found.append((shown, place))
        return match_sentences(sentences, found)

    def _obelics(self, page: _Page) -> list[Item]:
        texts, images = page.values("texts"), page.values("images")
        if len(texts) != len(images):
            expected, given = len(texts), len(images)
            message = "`texts` and `images` differ in length"
            raise DataError(message, expected=expected, given=given, origin=page.origin)
        items: list[Item] = []
        for text, name in zip(texts, images, strict=True):
            if text is not None:
                items.append(text_of(text, "texts", page.origin))
            if name is not None:
                shown = self._shown(page, _name_picture(name))
                if shown is not None:
                    items.append(shown)
        return items

    def _shown(
        self, page: _Page, info: dict[str, Any], likeness: float | None = None
    ) -> Shown | None:
        if self.order == "text_only":
            page.lost["pictures left out (text_only)"] += 1
            return None
        try:
            source, size = self._picture(page, info)
        except MissingError as gone:
            if self.missing == "error":
                raise DataError(str(gone), remedy="or set `missing: drop`") from gone
            page.lost["pictures that are missing"] += 1
            return None
        page.sources.append(source)
        return Shown(len(page.sources) - 1, likeness, size)

    def _picture(self, page: _Page, info: dict[str, Any]) -> tuple[ImageSource, int | None]:
        origin = page.origin
        if (encoded := info.get("image_base64")) is not None:
            content = encoded_bytes(text_of(encoded, "image_base64", origin), origin)
            return bytes_source(content, f"{origin}: picture in the record"), len(content)
        if isinstance(content := info.get("bytes"), bytes):
            return bytes_source(content, f"{origin}: picture"), len(content)
        called = "image_name" if self.find == "name" or "raw_url" not in info else "raw_url"
        name = text_of(info.get(called), called, origin)
        return page.store.picture(name, origin, sized=self.min_bytes > 0)


def _name_picture(value: Any) -> dict[str, Any]:
    """What stands for a picture in a list of them: a name, an address, bytes, or a struct."""
    if isinstance(value, bytes):
        return {"bytes": value}
    if isinstance(value, dict):
        return {"image_name": value.get("path"), "bytes": value.get("bytes")}
    return {"image_name": value}
