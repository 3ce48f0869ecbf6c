"""Which numbers the matrix products use: fp32, bf16 or fp16, chosen from the hardware and said.

Weights and optimizer state stay fp32; autocast rounds the operands of matrix products. fp16 has too
few exponents for small gradients, so it comes with loss scaling; bf16 does not need it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Name = Literal["fp32", "bf16", "fp16"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """A choice, the device it is for, and the sentence that says why."""

    name: Name
    device: torch.device
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products round their operands to."""
        return DTYPES.get(self.name, torch.float32)

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass; backward passes run outside of it."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def __str__(self) -> str:
        return f"{self.name} on {self.device.type}: {self.reason}"


CPU_KERNELS = "128"
"""Kernels that oneDNN keeps ready on a CPU. Batches of new lengths make ever new ones, and with
its default of 1,024 the process grows by gigabytes over thousands of steps (`mini`: 1.9 instead of
1.4 GB after 60, at the same speed). One step of the tiny models needs some 50."""

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says `[madvise]`, torch can ask for pages of 2 MB for its larger tensors: each step
makes them anew, and touching them first at 4 KB a page took 12% of a step of the benchmarks' small
models. Asked in vain, torch warns."""


def choose_device() -> torch.device:
    """The accelerator when there is one, else the CPU, with a bound on the kernels kept for it and
    large pages for its tensors (unless the environment says otherwise). torch reads both once, at
    its first product and its first tensor: to be called before those."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CPU_KERNELS)
    if LARGE_PAGES.is_file() and "[madvise]" in LARGE_PAGES.read_text():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    return torch.device("cpu")


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """What the recipe asks for, or the fastest that the hardware multiplies natively."""
    if wanted != "auto":
        return Precision(wanted, device, "the recipe asks for it")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)}, capability {major}.{minor}"
        if major >= 8:
            return Precision("bf16", device, f"{name} multiplies bf16 natively")
        return Precision("fp16", device, f"{name} has no bf16; fp16 with loss scaling")
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        for feature in ("amx_bf16", "avx512_bf16"):
            if able.get(feature):
                return Precision("bf16", device, f"the CPU multiplies bf16 natively ({feature})")
        return Precision("fp32", device, "the CPU has neither amx_bf16 nor avx512_bf16")
    return Precision("fp32", device, f"no rule for {device.type}")
