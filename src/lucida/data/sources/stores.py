"""Where the pictures of web pages stand: a folder or tar files, by name or by address.

    name or address ─▶ (ImageSource, bytes)      MissingError where there is none

Tars are looked through once; what is remembered of a picture are 32 bytes, mapped: the hash of its
name, its tar, where it begins and how long it is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource
from lucida.data.sources.pictures import ENDINGS, PictureFolder
from lucida.data.sources.remote import is_remote
from lucida.data.sources.shards import (
    KINDS,
    Shard,
    explain_unused,
    json_record,
    key_of,
    name_of,
    open_shard,
    open_shards,
    picture_in,
)
from lucida.data.sources.sidecar import Sidecar
from lucida.data.sources.tarindex import stream_members

By = Literal["name", "url"]
SHARD = "{shard}"
_NUMBER = re.compile(r"shard_(\d+)")
NO_ADDRESS = "pictures without an address beside them"


class MissingError(DataError):
    """A picture that is not there."""


class Store(Protocol):
    """Pictures by name. The size is None where it is not asked for. `noted` counts what is there
    and not used."""

    noted: Mapping[str, int]

    def picture(self, name: str, origin: str, sized: bool) -> tuple[ImageSource, int | None]: ...


def open_stores(
    files: list[Path], images: str | Path | None, by: By, allow_outside: bool
) -> list[Store]:
    """The store of the pages of each file; the same one where `images` does not tell them apart.

    `images` is a folder (null: that of the file), or tars by pattern or address. `{shard}` in it
    stands for the number that MMC4 writes into the name of a file of pages.
    """
    pattern = str(images or "")
    if SHARD not in pattern:
        store = _store(str(images or files[0].parent), by, allow_outside)
        return [store] * len(files)
    found = []
    for file in files:
        number = _NUMBER.search(file.name)
        if number is None:
            expected = "a name with shard_NUMBER, because `images` says {shard}"
            raise DataError("no number in the name of the file", expected=expected, origin=file)
        found.append(_store(pattern.replace(SHARD, number[1]), by, allow_outside))
    return found


def _store(images: str, by: By, allow_outside: bool) -> Store:
    if Path(images).is_dir() and by == "name":
        return PicturesOfFolder(PictureFolder(Path(images), allow_outside))
    plain = not is_remote(images) and not any(sign in images for sign in "*?[{")
    if plain and not Path(images).exists():
        remedy = "set `images` of the source to a folder, or to tar files"
        raise DataError("the image folder does not exist", origin=images, remedy=remedy)
    return PicturesOfTars(open_shards(images), by)


class PicturesOfFolder:
    """Pictures of a folder by their path below it; what no record names is not looked at."""

    noted: ClassVar = {}

    def __init__(self, folder: PictureFolder) -> None:
        self.folder = folder

    def picture(self, name: str, origin: str, sized: bool) -> tuple[ImageSource, int | None]:
        """The picture, and its bytes where they are asked for: a look at each file is not free."""
        try:
            source = self.folder.picture(name, origin)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError) or is_remote(name):
                raise MissingError(str(error)) from error
            raise
        return source, (self.folder.root / name).stat().st_size if sized else None


class PicturesOfTars:
    """Pictures of tar files, by the names of their members or by the `url` that img2dataset writes
    into the JSON beside them. Of two with one name the first is taken, and the others are noted."""

    def __init__(self, tars: list[Shard], by: By) -> None:
        self.tars, self.by = tars, by
        self._places = Sidecar(f"pictures by {by}", tars, self._survey)
        self.noted = self._places.notes

    def picture(self, name: str, origin: str, sized: bool) -> tuple[ImageSource, int | None]:
        """The picture and its bytes."""
        places, wanted = self._places.array, hash_name(name)
        row = int(np.searchsorted(places[:, 0], wanted))
        if row == len(places) or places[row, 0] != wanted:
            where = name_of(self.tars[0]) + (", …" if len(self.tars) > 1 else "")
            raise MissingError("no such member", given=name, origin=f"{origin}: {where}")
        _, number, begin, size = places[row].tolist()
        tar = self.tars[number]
        return picture_in(tar, begin, size, f"{origin}: {name_of(tar)}: {name}"), size

    def _survey(self) -> tuple[np.ndarray, Counter[str]]:
        """Hash, tar, begin and size of each picture, int64 [pictures, 4], in order of the hash; and
        what is not used."""
        notes: Counter[str] = Counter()
        rows = [
            (hash_name(name), number, begin, size)
            for number, tar in enumerate(self.tars)
            for name, begin, size in pictures_of(tar, self.by, notes)
        ]
        if not rows:
            raise DataError("no pictures in the tar files", origin=name_of(self.tars[0]))
        places = np.array(rows, dtype=np.int64)
        places = places[np.argsort(places[:, 0], kind="stable")]
        if again := int((places[1:, 0] == places[:-1, 0]).sum()):
            notes[f"pictures whose {self.by} came before (passed over)"] = again
        return places, notes


def pictures_of(tar: Shard, by: By, notes: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """Name or address, begin and size of each picture of a tar file; `notes` counts the members
    that are not used."""
    waiting: dict[str, tuple[int, int]] = {}
    addresses: dict[str, str] = {}
    alone = 0
    with open_shard(tar) as (stream, size):
        for written, begin, length in stream_members(stream, size, name_of(tar), notes):
            name = written.removeprefix("./")
            stem, ending = key_of(name) if by == "url" else ("", name.rpartition(".")[2].lower())
            if f".{ending}" in ENDINGS:
                if by == "name":
                    yield name, begin, length
                    continue
                alone += stem in waiting
                waiting[stem] = begin, length
            elif by == "url" and ending == "json":
                stream.seek(begin)
                record = json_record(stream.read(length), f"{name_of(tar)}: {name}")
                if isinstance(record.get("url"), str):
                    addresses[stem] = record["url"]
            elif ending not in KINDS:  # txt and json stand beside the pictures of img2dataset
                notes[explain_unused(ending if by == "url" else ending.rpartition(".")[2])] += 1
            # Picture and JSON of one stem come in either order, and other members may stand between
            # them.
            if stem in waiting and stem in addresses:
                yield addresses.pop(stem), *waiting.pop(stem)
    if lost := alone + len(waiting):
        notes[NO_ADDRESS] += lost


def hash_name(name: str) -> int:
    """64 bits of a name, as a signed number."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
