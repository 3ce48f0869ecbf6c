"""Features of a frozen vision encoder, computed once and kept on disk.

    FOLDER/SPEC_HASH/
        shape.json      patches, width, dtype
        features.bin    row after row, memory-mapped
        keys.bin        32 bytes for each row: the digest of its image's key

Row i of one file belongs to digest i of the other. Rows are written and flushed before their
digests, so whatever happens, a digest that can be read has a whole row; what lies behind the last
digest is overwritten. One writer at a time holds a lock, which the system releases when its holder
dies; readers need none. `ImageSource.key` names the content, and the spec hash names everything
else that decides a feature (weights, feature layer, image policy), so an entry never goes stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from lucida.core.errors import ModelError, RunError
from lucida.core.files import atomic_write, disk_errors, make_folder
from lucida.data.sample import ImageSource

Compute = Callable[[list[ImageSource]], "np.ndarray | Tensor"]
"""From images to their features [images, patches, width]."""

_DIGEST = 32

T = TypeVar("T")


class FeatureCache:
    """Features of shape (patches, width) by image, for one encoder and image policy.

    `dtype` float16 halves disk and memory and rounds to 3 digits; float32 keeps every bit. What
    `get` gives was rounded the same whether it was on disk or has just been computed. With
    `limit_bytes`, features beyond that size are computed each time; `unstored` counts them.
    """

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
        self._rows: dict[bytes, int] = {}
        self._read = 0
        self._mapped = np.zeros((0, *self.shape), dtype=self.dtype)
        with self._lock:
            self._claim()
        self._refresh()

    def __len__(self) -> int:
        """Images on disk, as far as this process knows."""
        return len(self._rows)

    def __str__(self) -> str:
        held = f"{len(self) * self._row_bytes / 1e9:.2f} GB in {self.path}"
        if self.limit_bytes is None:
            return f"feature cache: {len(self):,} images, {held}"
        return f"feature cache: {len(self):,} images, {held}, at most {self.limit_bytes / 1e9:.2f}"

    def __contains__(self, image: ImageSource) -> bool:
        return _digest(image) in self._rows

    def get(
        self, images: list[ImageSource], compute: Compute, batch: int = 64
    ) -> Float[Tensor, "images patches width"]:
        """Features in the order of `images`; what is missing goes through `compute` and is kept."""
        digests = [_digest(image) for image in images]
        if any(digest not in self._rows for digest in digests):
            self._refresh()
        missing = {
            digest: image
            for digest, image in zip(digests, images, strict=True)
            if digest not in self._rows
        }
        passing: dict[bytes, np.ndarray] = {}
        for part in _parts(missing.items(), batch):
            rows = self._computed([image for _, image in part], compute)
            computed = dict(zip((digest for digest, _ in part), rows, strict=True))
            self._store(computed)
            passing |= {d: row for d, row in computed.items() if d not in self._rows}
        self.unstored += len(passing)
        self._map()
        given = np.empty((len(images), *self.shape), dtype=self.dtype)
        for place, digest in enumerate(digests):
            row = self._rows.get(digest)
            given[place] = passing[digest] if row is None else self._mapped[row]
        return torch.from_numpy(given)

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
                rows = self._computed(list(missing.values()), compute)
                self._store(dict(zip(missing, rows, strict=True)))
            if progress is not None:
                progress(len(part))
        return len(self) - before

    def _computed(self, images: list[ImageSource], compute: Compute) -> np.ndarray:
        features = compute(images)
        if isinstance(features, Tensor):
            features = features.detach().float().cpu().numpy()
        if features.shape != (len(images), *self.shape):
            raise ModelError(
                "the vision encoder gives features of another shape than the cache holds",
                expected=(len(images), *self.shape),
                given=tuple(features.shape),
                origin=self.path,
            )
        with np.errstate(over="ignore"):
            rounded = features.astype(self.dtype)
        whole = np.isfinite(rounded).all(axis=(1, 2))
        if not whole.all():
            first = int(np.argmin(whole))
            finite = bool(np.isfinite(features[first]).all())
            raise ModelError(
                f"features do not fit {self.dtype}" if finite else "features are not finite",
                given=f"largest {np.abs(features[first]).max():g}",
                origin=images[first].origin,
                remedy="keep the cache in float32" if finite else "check the encoder's weights",
            )
        return rounded

    def _claim(self) -> None:
        """Writes what this folder holds, or refuses a folder that holds something else."""
        file = self.path / "shape.json"
        mine = {"patches": self.shape[0], "width": self.shape[1], "dtype": self.dtype.name}
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
        """Learns of rows that were written since, by this process or another."""
        with disk_errors(self._keys):
            if not self._keys.exists():
                return
            with self._keys.open("rb") as file:
                file.seek(self._read * _DIGEST)
                content = file.read()
            # Rows that a copy of the folder has lost do not exist, whatever their digests say.
            there = self._features.stat().st_size // self._row_bytes
        for start in range(0, len(content) // _DIGEST * _DIGEST, _DIGEST):
            if self._read == there:
                break
            self._rows[content[start : start + _DIGEST]] = self._read
            self._read += 1

    def _map(self) -> None:
        if len(self._mapped) < self._read:
            self._mapped = np.memmap(
                self._features, self.dtype, "r", shape=(self._read, *self.shape)
            )

    def _store(self, computed: dict[bytes, np.ndarray]) -> None:
        """Appends rows, then their digests; on a full disk nothing counts that is not whole."""
        with disk_errors(self._features), self._lock:
            self._refresh()
            fresh = {d: row for d, row in computed.items() if d not in self._rows}
            if self.limit_bytes is not None:
                room = self.limit_bytes // self._row_bytes - self._read
                fresh = dict(islice(fresh.items(), max(0, room)))
            if not fresh:
                return
            end = self._read
            rows = np.stack(list(fresh.values())).tobytes()
            _write_at(self._features, end * self._row_bytes, rows)
            _write_at(self._keys, end * _DIGEST, b"".join(fresh))
            self._refresh()


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
