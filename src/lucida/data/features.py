"""Features of a frozen vision encoder, computed once and kept on disk.

    FOLDER/SPEC_HASH/
        shape.json      patches, width, dtype
        features.bin    row after row, memory-mapped; an image has one row, or as many as it needs
        keys.bin        an entry for each image: the digest of its key (32 bytes), and of images of
                        several views or shapes also its rows, views, width and height

Entries stand in the order of their rows. Rows are written and flushed before their entries, so
whatever happens, an entry that can be read has all its rows; what lies behind the last entry's is
overwritten. One writer at a time holds a lock, which the system releases when its holder
dies; readers need none. `ImageSource.key` names the content, and the spec hash names everything
else that decides a feature (weights, feature layer, image policy), so an entry never goes stale.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lucida.core.errors import ModelError, RunError
from lucida.core.files import atomic_write, disk_errors, make_folder
from lucida.data.sample import ImageSource, Views

Compute = Callable[[list[ImageSource]], Views]
"""From images to their features."""

Kept = tuple[np.ndarray, tuple[int, ...]]
"""Rows of an image [rows, patches, width], and what its entry says besides the digest."""

_DIGEST = 32

T = TypeVar("T")


class FeatureCache:
    """Features of shape (patches, width) by image, for one encoder and image policy.

    `dtype` float16 halves disk and memory and rounds to 3 digits; float32 keeps every bit. What
    `get` gives was rounded the same whether it was on disk or has just been computed. With
    `limit_bytes`, features beyond that size are computed each time; `unstored` counts them.
    """

    ENTRY = struct.Struct(f"<{_DIGEST}s")

    def __init__(
        self,
        folder: str | Path,
        spec_hash: str,
        shape: tuple[int, int],
        dtype: Literal["float16", "float32"] = "float16",
        limit_bytes: int | None = None,
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = np.dtype(dtype)
        self.limit_bytes = limit_bytes
        self.unstored = 0
        self.path = make_folder(Path(folder) / spec_hash)
        self._features = self.path / "features.bin"
        self._keys = self.path / "keys.bin"
        self._lock = FileLock(self.path / "writer.lock")
        self._row_bytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self._images: dict[bytes, tuple[int, int, tuple[int, ...]]] = {}  # first row, rows, facts
        self._read = 0  # entries
        self._end = 0  # rows
        self._mapped = np.zeros((0, *self.shape), dtype=self.dtype)
        with self._lock:
            self._claim()
        self._refresh()

    def __len__(self) -> int:
        """Images on disk, as far as this process knows."""
        return len(self._images)

    def __str__(self) -> str:
        held = f"{format_bytes(self._end * self._row_bytes)} in {self.path}"
        if self.limit_bytes is None:
            return f"feature cache: {len(self):,} images, {held}"
        return (
            f"feature cache: {len(self):,} images, {held}, at most {format_bytes(self.limit_bytes)}"
        )

    def __contains__(self, image: ImageSource) -> bool:
        return _digest(image) in self._images

    def get(self, images: list[ImageSource], compute: Compute, batch: int = 64) -> Views:
        """Features in the order of `images`; what is missing goes through `compute` and is kept."""
        kept = list(self._kept(images, compute, batch))
        # Not by torch: autocast, which this may be called under, does not join fp16.
        values = np.concatenate([np.empty(0, self.dtype), *(rows.ravel() for rows, _ in kept)])
        told = [self._describe(rows, facts) for rows, facts in kept]
        shapes, sizes = tuple(shape for shape, _ in told), tuple(size for _, size in told)
        return Views(torch.from_numpy(values), (shapes,), sizes)

    def _describe(
        self, rows: np.ndarray, facts: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, int]]:
        """The shape of the features of an image, and the size of its picture."""
        return rows.shape, (0, 0)

    def _kept(self, images: list[ImageSource], compute: Compute, batch: int) -> Iterator[Kept]:
        """What is held of each image, in their order; what is missing is computed and stored."""
        digests = [_digest(image) for image in images]
        if any(digest not in self._images for digest in digests):
            self._refresh()
        missing = {
            digest: image
            for digest, image in zip(digests, images, strict=True)
            if digest not in self._images
        }
        passing: dict[bytes, Kept] = {}  # what there is no room to store, for this call alone
        for part in _parts(missing.items(), batch):
            found = self._computed([image for _, image in part], compute)
            computed = dict(zip((digest for digest, _ in part), found, strict=True))
            self._store(computed)
            passing |= {d: kept for d, kept in computed.items() if d not in self._images}
        self.unstored += len(passing)
        self._map()
        for digest in digests:
            if digest in passing:
                yield passing[digest]
            else:
                first, count, facts = self._images[digest]
                yield self._mapped[first : first + count], facts

    def fill(
        self,
        images: Iterable[ImageSource],
        compute: Compute,
        batch: int = 64,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Computes and keeps what is missing, and gives how many that were.

        `progress` is told after each batch how many images were looked at.
        """
        before = len(self)
        self._refresh()
        for part in _parts(images, batch):
            missing = {_digest(i): i for i in part if i not in self}
            if missing:
                found = self._computed(list(missing.values()), compute)
                self._store(dict(zip(missing, found, strict=True)))
            if progress is not None:
                progress(len(part))
        return len(self) - before

    def _computed(self, images: list[ImageSource], compute: Compute) -> list[Kept]:
        features = compute(images)
        if len(features) != len(images):
            raise self._other_shape(f"{len(images)} images", f"{len(features)}")
        return [
            (self._rounded(self._rows(given, size), image), self._facts(given, size))
            for given, size, image in zip(features.images(), features.sizes, images, strict=True)
        ]

    def _rows(self, given: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Features of an image as its rows [rows, patches, width]."""
        if given.shape != (1, *self.shape):
            raise self._other_shape((1, *self.shape), tuple(given.shape))
        return given.detach().float().cpu().numpy()

    def _facts(self, given: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
        """What the entry of an image says besides its digest and rows."""
        return ()

    def _other_shape(self, expected: object, given: object) -> ModelError:
        return ModelError(
            "the vision encoder gives features of another shape than the cache holds",
            expected=expected,
            given=given,
            origin=self.path,
        )

    def _rounded(self, rows: np.ndarray, image: ImageSource) -> np.ndarray:
        """The rows as they are kept; ModelError when they cannot be."""
        with np.errstate(over="ignore"):
            rounded = rows.astype(self.dtype)
        if not np.isfinite(rounded).all():
            finite = bool(np.isfinite(rows).all())
            raise ModelError(
                f"features do not fit {self.dtype}" if finite else "features are not finite",
                given=f"largest {np.abs(rows).max():g}",
                origin=image.origin,
                remedy="keep the cache in float32" if finite else "check the encoder's weights",
            )
        return rounded

    def _claim(self) -> None:
        """Writes what this folder holds, or refuses a folder that holds something else."""
        file = self.path / "shape.json"
        mine = {"patches": self.shape[0], "width": self.shape[1], "dtype": self.dtype.name}
        if self.ENTRY.size > _DIGEST:
            mine["entry"] = self.ENTRY.size
        if not file.exists():
            atomic_write(file, json.dumps(mine))
            return
        theirs = json.loads(file.read_text())
        if theirs != mine:
            raise RunError(
                "this folder caches other features",
                expected=mine,
                given=theirs,
                origin=self.path,
                remedy="delete the folder; it is computed again",
            )

    def _refresh(self) -> None:
        """Learns of images that were written since, by this process or another."""
        size = self.ENTRY.size
        with disk_errors(self._keys):
            if not self._keys.exists():
                return
            with self._keys.open("rb") as file:
                file.seek(self._read * size)
                # Entries behind those that this process knows; a torn one at the end is less than
                # an entry long.
                content = file.read()
            # Rows that a copy of the folder has lost do not exist, whatever the entries say.
            there = self._features.stat().st_size // self._row_bytes
        for digest, *facts in self.ENTRY.iter_unpack(content[: len(content) // size * size]):
            rows = facts[0] if facts else 1
            if self._end + rows > there:
                break
            self._images[digest] = (self._end, rows, tuple(facts[1:]))
            self._end += rows
            self._read += 1

    def _map(self) -> None:
        if len(self._mapped) < self._end:
            self._mapped = np.memmap(
                self._features, self.dtype, "r", shape=(self._end, *self.shape)
            )

    def _store(self, computed: dict[bytes, Kept]) -> None:
        """Appends rows, then their entries; on a full disk nothing counts that is not whole."""
        with disk_errors(self._features), self._lock:
            self._refresh()
            # Another process may have written these images meanwhile, hence `_refresh` in here.
            room = None if self.limit_bytes is None else self.limit_bytes // self._row_bytes
            end, rows, entries = self._end, [], []
            for digest, (features, facts) in computed.items():
                if digest in self._images or (room is not None and end + len(features) > room):
                    continue
                end += len(features)
                rows.append(features.tobytes())
                entries.append(self._entry(digest, len(features), facts))
            if not rows:
                return
            _write_at(self._features, self._end * self._row_bytes, b"".join(rows))
            _write_at(self._keys, self._read * self.ENTRY.size, b"".join(entries))
            self._refresh()

    def _entry(self, digest: bytes, rows: int, facts: tuple[int, ...]) -> bytes:
        return self.ENTRY.pack(digest)


class ViewCache(FeatureCache):
    """The same for images of several views, or of their own shapes.

    `patches` of a row are those of one view, or 1 where images have a shape of their own. Sizes of
    the pictures are kept too. Worked example: tiles of 4 patches, pictures of 3 views and of 1 take
    3 rows and 1 row of 4 patches; shapes of their own, pictures of 6 and of 8 patches take 6 and 8
    rows of 1.
    """

    ENTRY = struct.Struct(f"<{_DIGEST}s4q")

    def _describe(
        self, rows: np.ndarray, facts: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, int]]:
        views, width, height = facts
        return (views, len(rows) * self.shape[0] // views, self.shape[1]), (width, height)

    def _rows(self, given: Tensor, size: tuple[int, int]) -> np.ndarray:
        patches, width = self.shape
        if given.shape[-1] != width or given.numel() % (patches * width) or not given.numel():
            picture = f"{tuple(given.shape)} for a picture of {size[0]} x {size[1]}"
            raise self._other_shape(f"views of ({patches}, {width})", picture)
        return given.detach().float().cpu().numpy().reshape(-1, patches, width)

    def _facts(self, given: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
        return len(given), *size

    def _entry(self, digest: bytes, rows: int, facts: tuple[int, ...]) -> bytes:
        return self.ENTRY.pack(digest, rows, *facts)


def format_bytes(many: int) -> str:
    """Bytes as people read them.

    Worked example: 300 is `300 bytes`, 2,500,000 is `2.5 MB`, 1,000,000,000 is `1 GB`.
    """
    for size, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if many >= size:
            return (
                f"{many / size:.4g} {name}" if many < 1000 * size else f"{many / size:,.0f} {name}"
            )
    return f"{many} bytes"


def _write_at(file: Path, offset: int, content: bytes) -> None:
    """Writes `content` at `offset` as the end of the file, and waits until the disk has it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    with os.fdopen(descriptor, "r+b", buffering=0) as raw:
        raw.seek(offset)
        rest = memoryview(content)
        while rest:
            rest = rest[raw.write(rest) :]
        raw.truncate()
        os.fsync(descriptor)


def _digest(image: ImageSource) -> bytes:
    return hashlib.blake2b(image.key.encode(), digest_size=_DIGEST).digest()


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
