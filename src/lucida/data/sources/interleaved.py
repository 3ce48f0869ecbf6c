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
from pathlib import Path
from typing import Any, Literal

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource, Sample, Turn
from lucida.data.sources.conversation import shortened, text_of
from lucida.data.sources.pictures import bytes_source, encoded_source
from lucida.data.sources.records import Records, files_of
from lucida.data.sources.stores import By, MissingError, Store, open_stores
from lucida.data.sources.tables import TABLES, TableRows
from lucida.data.transforms import Item, Order, Shown, arranged, document, matched, thinned


class InterleavedSource:
    """One document a page. `explained` tells as well what was left out of it.

    DataError: a record of another shape, a sentence number that does not exist, a picture that is
    missing (unless `missing` is `drop`), a page without text.
    """

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

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.explained(index)[0]

    def explained(self, index: int) -> tuple[Sample, Counter[str]]:
        """The document of a page, and how much of it was left out for which reason."""
        record, origin = self._record(index)
        if not isinstance(record, dict):
            expected, given = "an object", shortened(record)
            raise DataError("bad page", expected=expected, given=given, origin=origin)
        lost: Counter[str] = Counter()
        sources: list[ImageSource] = []
        read = self._mmc4 if self.layout == "mmc4" else self._obelics
        store = self.stores[self.records.file_of(index)]
        items = read(record, origin, store, sources, lost)
        items, more = thinned(
            items, self.max_images, self.choose, self.min_similarity, self.min_bytes
        )
        lost += more
        items, more = arranged(items, self.order, self.drop_trailing)
        lost += more
        parts, numbers = document(items, " " if self.layout == "mmc4" else "\n\n")
        if not any(isinstance(part, str) for part in parts):
            remedy = "drop it with mixture.on_error=skip"
            raise DataError("no text is left of this page", origin=origin, remedy=remedy)
        images = tuple(sources[number] for number in numbers)
        return Sample(origin, images, (), ((Turn("text", parts),),)), lost

    def _mmc4(
        self,
        record: dict[str, Any],
        origin: str,
        store: Store,
        sources: list[ImageSource],
        lost: Counter[str],
    ) -> list[Item]:
        sentences = [text_of(t, "text_list", origin) for t in _list(record, "text_list", origin)]
        found: list[tuple[Shown, int]] = []
        for info in _list(record, "image_info", origin):
            if not isinstance(info, dict):
                expected, given = "an object", shortened(info)
                raise DataError("bad image_info", expected=expected, given=given, origin=origin)
            place = info.get("matched_text_index")
            if type(place) is not int or not 0 <= place < len(sentences):
                raise DataError(
                    "bad `matched_text_index`",
                    expected=f"0 to {len(sentences) - 1}",
                    given=shortened(place),
                    origin=origin,
                )
            likeness = info.get("matched_sim")
            likeness = float(likeness) if isinstance(likeness, int | float) else None
            shown = self._shown(info, likeness, origin, store, sources, lost)
            if shown is not None:
                found.append((shown, place))
        return matched(sentences, found)

    def _obelics(
        self,
        record: dict[str, Any],
        origin: str,
        store: Store,
        sources: list[ImageSource],
        lost: Counter[str],
    ) -> list[Item]:
        texts, images = _list(record, "texts", origin), _list(record, "images", origin)
        if len(texts) != len(images):
            expected, given = len(texts), len(images)
            message = "`texts` and `images` differ in length"
            raise DataError(message, expected=expected, given=given, origin=origin)
        items: list[Item] = []
        for text, name in zip(texts, images, strict=True):
            if text is not None:
                items.append(text_of(text, "texts", origin))
            if name is not None:
                shown = self._shown(_named(name), None, origin, store, sources, lost)
                if shown is not None:
                    items.append(shown)
        return items

    def _shown(
        self,
        info: dict[str, Any],
        likeness: float | None,
        origin: str,
        store: Store,
        sources: list[ImageSource],
        lost: Counter[str],
    ) -> Shown | None:
        if self.order == "text_only":
            lost["pictures left out (text_only)"] += 1
            return None
        try:
            source, size = self._picture(info, origin, store)
        except MissingError as gone:
            if self.missing == "error":
                raise DataError(str(gone), remedy="or set `missing: drop`") from gone
            lost["pictures that are missing"] += 1
            return None
        sources.append(source)
        return Shown(len(sources) - 1, likeness, size)

    def _picture(
        self, info: dict[str, Any], origin: str, store: Store
    ) -> tuple[ImageSource, int | None]:
        if (encoded := info.get("image_base64")) is not None:
            text = text_of(encoded, "image_base64", origin)
            return encoded_source(text, origin), len(text) * 3 // 4
        if isinstance(content := info.get("bytes"), bytes):
            return bytes_source(content, f"{origin}: picture"), len(content)
        field = "image_name" if self.find == "name" or "raw_url" not in info else "raw_url"
        name = text_of(info.get(field), field, origin)
        return store.picture(name, origin, sized=self.min_bytes > 0)

    def _record(self, index: int) -> tuple[Any, str]:
        return self.records.value(index) if self.table is None else self.table[index]


def _named(value: Any) -> dict[str, Any]:
    """What stands for a picture in a list of them: a name, an address, bytes, or a struct."""
    if isinstance(value, bytes):
        return {"bytes": value}
    if isinstance(value, dict):
        return {"image_name": value.get("path"), "bytes": value.get("bytes")}
    return {"image_name": value}


def _list(record: dict[str, Any], name: str, origin: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list):
        remedy = "check `layout` of the source"
        given = shortened(value)
        raise DataError(
            f"bad `{name}`", expected="a list", given=given, origin=origin, remedy=remedy
        )
    return value
