"""Web pages with pictures between their sentences: MMC4 and OBELICS as JSONL.

    mmc4     {"text_list": ["...", ...],
              "image_info": [{"image_name", "matched_text_index", "matched_sim"}, ...]}
    obelics  {"texts": ["...", null, ...], "images": [null, "a.jpg", ...]}

Pictures stand in a folder, in one tar file (read in place), or in the record (`image_base64`). What
becomes of a page is decided by `lucida.data.transforms`. `<image>` in web text is text.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource, Sample, Turn
from lucida.data.sources.conversation import shortened, text_of
from lucida.data.sources.pictures import PictureFolder, bytes_source, encoded_source
from lucida.data.sources.records import Records, files_of
from lucida.data.sources.tarindex import members, read_member
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
        order: Order = "matched",
        max_images: int = 6,
        choose: Literal["first", "similar"] = "first",
        min_similarity: float | None = None,
        min_bytes: int = 0,
        missing: Literal["error", "drop"] = "error",
        drop_trailing: bool = True,
        allow_outside: bool = False,
    ) -> None:
        files = files_of(path)
        self.records = Records(files)
        self.layout, self.order, self.max_images, self.choose = layout, order, max_images, choose
        self.min_similarity, self.min_bytes = min_similarity, min_bytes
        self.missing, self.drop_trailing = missing, drop_trailing
        root = files[0].parent if images is None else Path(images)
        self.tar = root if root.is_file() else None
        self._members: dict[str, tuple[int, int]] = {}
        self.pictures: PictureFolder | None = None
        if self.tar is not None:
            self._members = {name: (begin, size) for name, begin, size in members(self.tar)}
        else:
            self.pictures = PictureFolder(root, allow_outside)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.explained(index)[0]

    def explained(self, index: int) -> tuple[Sample, Counter[str]]:
        """The document of a page, and how much of it was left out for which reason."""
        record, origin = self.records.value(index)
        if not isinstance(record, dict):
            expected, given = "an object", shortened(record)
            raise DataError("bad page", expected=expected, given=given, origin=origin)
        lost: Counter[str] = Counter()
        sources: list[ImageSource] = []
        read = self._mmc4 if self.layout == "mmc4" else self._obelics
        items = read(record, origin, sources, lost)
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
        self, record: dict[str, Any], origin: str, sources: list[ImageSource], lost: Counter[str]
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
            shown = self._shown(info, likeness, origin, sources, lost)
            if shown is not None:
                found.append((shown, place))
        return matched(sentences, found)

    def _obelics(
        self, record: dict[str, Any], origin: str, sources: list[ImageSource], lost: Counter[str]
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
                shown = self._shown({"image_name": name}, None, origin, sources, lost)
                if shown is not None:
                    items.append(shown)
        return items

    def _shown(
        self,
        info: dict[str, Any],
        likeness: float | None,
        origin: str,
        sources: list[ImageSource],
        lost: Counter[str],
    ) -> Shown | None:
        if self.order == "text_only":
            lost["pictures left out (text_only)"] += 1
            return None
        try:
            source, size = self._picture(info, origin)
        except _MissingError as gone:
            if self.missing == "error":
                raise DataError(str(gone), remedy="or set `missing: drop`") from gone
            lost["pictures that are missing"] += 1
            return None
        sources.append(source)
        return Shown(len(sources) - 1, likeness, size)

    def _picture(self, info: dict[str, Any], origin: str) -> tuple[ImageSource, int | None]:
        if (encoded := info.get("image_base64")) is not None:
            text = text_of(encoded, "image_base64", origin)
            return encoded_source(text, origin), len(text) * 3 // 4
        name = text_of(info.get("image_name"), "image_name", origin)
        if self.tar is not None:
            if name not in self._members:
                raise _MissingError("no such member", given=name, origin=f"{origin}: {self.tar}")
            begin, size = self._members[name]
            identity = f"{self.tar.resolve()}|{self.tar.stat().st_mtime_ns}|{begin}|{size}"
            content = partial(read_member, self.tar, begin, size)
            return bytes_source(content, f"{origin}: {self.tar}: {name}", identity), size
        try:
            source = self.pictures.picture(name, origin)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise _MissingError(str(error)) from error
            raise
        # Only asked for where it matters: a look at each file of a page is not free.
        size = (self.pictures.root / name).stat().st_size if self.min_bytes else None
        return source, size


class _MissingError(DataError):
    """A picture that is not there, which `missing` may allow."""


def _list(record: dict[str, Any], name: str, origin: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list):
        remedy = "check `layout` of the source"
        given = shortened(value)
        raise DataError(
            f"bad `{name}`", expected="a list", given=given, origin=origin, remedy=remedy
        )
    return value
