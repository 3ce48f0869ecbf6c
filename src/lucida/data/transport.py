"""From a worker process to the one that trains: batches in shared memory, copied once or never.

    worker   Drawn ─normalise─▶ room in shared memory ────┐
             integers of a batch ─copied─▶ one block ─────┴─Parcel─▶ queue ─▶ open ─▶ Batch

Every block of shared memory that crosses costs both processes a file descriptor and a handshake, so
a batch crosses as two: its pixels, which were written where they can be seen from both sides, and
one block for all the rest.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing import process, util

import torch
from torch.utils.data import get_worker_info

from lucida.core.errors import RunError
from lucida.data.sample import Batch

ALIGNED = 8
"""Bytes of a number: every tensor of a block begins at a multiple of them."""

LONGEST_FOLDER = 70
"""Bytes of a folder's path in which processes can meet: that of a socket may have some 100 (108 on
Linux, 104 on macOS), its name included."""


def keep_addresses_short(short: str = "/tmp") -> None:
    """Let the processes that this one starts meet in a folder of `short` where TMPDIR is long.

    Descriptors of shared memory are handed over at a socket below TMPDIR. Where its path is too
    long for the system a worker cannot send a batch, says so on standard error at most, and the
    process that trains would wait for ever. RunError when `short` cannot be written either.
    """
    if os.name != "posix" or len(os.fsencode(util.get_temp_dir())) <= LONGEST_FOLDER:
        return
    try:
        folder = tempfile.mkdtemp(prefix="pymp-", dir=short)
    except OSError as error:
        raise RunError(
            "data workers cannot meet: the path of the folder for temporary files is too long",
            expected=f"at most {LONGEST_FOLDER} bytes, or {short} to fall back on",
            given=f"{util.get_temp_dir()}, and of {short}: {error.strerror}",
            remedy="set TMPDIR to a folder with a shorter path, or batch.workers=0",
        ) from error
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)
    process.current_process()._config["tempdir"] = folder  # where Python itself keeps it


def room(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that nothing was written to, in shared memory if this is a worker process."""
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    # What torch's own collating does; sharing a tensor later would copy it.
    block = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=dtype).set_(block).view(tuple(shape))


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch on its way: `block` has all tensors of `batch` but its pixels; those that stand in
    it are given by dtype, shape and first byte, under their names or numbers."""

    batch: dict[str, object]
    block: torch.Tensor
    places: dict[str, tuple[torch.dtype, tuple[int, ...], int]]

    @staticmethod
    def of(batch: Batch) -> Parcel:
        """Pack a batch; its tensors are copied, except the pixels."""
        values = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        small = {name: value for name, value in values.items() if torch.is_tensor(value)}
        places, size = {}, 0
        for name, tensor in small.items():
            places[name] = tensor.dtype, tuple(tensor.shape), size
            # Rounded up, since a view of int64 has to begin at a multiple of 8.
            size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        block = room((size,), torch.uint8)
        for name, tensor in small.items():
            _at(block, *places[name]).copy_(tensor)
        return Parcel({n: v for n, v in values.items() if n not in small}, block, places)

    def open(self) -> Batch:
        """The batch; its tensors are views of the block."""
        found = {name: _at(self.block, *place) for name, place in self.places.items()}
        return Batch(**self.batch, **found)


def _at(
    block: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], begin: int
) -> torch.Tensor:
    size = math.prod(shape) * dtype.itemsize
    return block[begin : begin + size].view(dtype).view(shape)
