"""Devices that a plan can be made for: memory, peak arithmetic, and what training gets of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucida.core.errors import RecipeError, suggestion

if TYPE_CHECKING:
    import torch

GIB = 2**30
SIDE = 1024
"""Of the matrices whose product is timed."""


@dataclass(frozen=True, slots=True)
class Device:
    """precision: of its matrix products. peak: FLOPs per second in it, as published (dense).
    share: of the peak that a training step of this kind reaches (MFU), an estimate from published
    runs, not measured by us. memory: bytes, None where it is the machine's."""

    name: str
    precision: str
    peak: float
    share: float
    memory: float | None
    gpu: bool = True


DEVICES = {
    "v100-32g": Device("V100 32 GB", "fp16", 125e12, 0.30, 32 * GIB),
    "a100-80g": Device("A100 80 GB", "bf16", 312e12, 0.45, 80 * GIB),
    "h100": Device("H100 80 GB", "bf16", 989e12, 0.40, 80 * GIB),
    "l4": Device("L4 24 GB", "bf16", 121e12, 0.35, 24 * GIB),
    "4090": Device("RTX 4090 24 GB", "bf16", 165e12, 0.40, 24 * GIB),
}
CPU = "cpu"


def find_device(name: str) -> Device:
    """The device of that name; `cpu` is this machine, measured in half a second."""
    if name.casefold() == CPU:
        return this_cpu()
    if name.casefold() not in DEVICES:
        raise RecipeError(f"no device `{name}` is known", remedy=suggestion(name, [*DEVICES, CPU]))
    return DEVICES[name.casefold()]


def this_cpu() -> Device:
    """This machine: its peak is what a large product of matrices reaches now, with the threads that
    torch has. A step reaches about half of it."""
    import torch

    from lucida.training.precision import choose_precision

    where = torch.device("cpu")
    precision = choose_precision("auto", where)
    peak = 2 * SIDE**3 / time_product(precision.dtype, where)
    return Device("this CPU", precision.name, peak, 0.5, memory_here(), gpu=False)


def time_product(dtype: torch.dtype, where: torch.device) -> float:
    """Seconds of one product of two matrices of `SIDE` x `SIDE`, the best of eight."""
    import torch

    left = torch.randn(SIDE, SIDE, device=where).to(dtype)
    best = math.inf
    for _ in range(9):  # the first one also starts threads and kernels
        begun = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for an accelerator
        best = min(best, time.perf_counter() - begun)
    return best


def memory_here() -> float | None:
    """Bytes of this machine's memory, None where the system does not say."""
    import os

    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None
