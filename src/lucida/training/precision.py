"""Which numbers the matrix products use: fp32, bf16 or fp16, chosen by what is fast and said.

Weights and optimizer state stay fp32; autocast rounds the operands of matrix products. fp16 has too
few exponents for small gradients, so it comes with loss scaling; bf16 does not need it.

On a CPU a trial decides: flags tell what the processor could do, not what the libraries under torch
make of it. A run that goes on keeps the precision that it began with, on any machine; where torch
would emulate its products, they are computed as in widened.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from lucida.training.machine import Machine, choose_kind, describe_machine
from lucida.training.widened import widen_products

Name = Literal["fp32", "bf16", "fp16"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """A choice, the device it is for, and the sentence that says why."""

    name: Name
    device: torch.device
    reason: str

    @property
    def sums(self) -> torch.dtype:
        """Of long sums, of which nothing but what is recorded depends."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products round their operands to."""
        return DTYPES.get(self.name, torch.float32)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass; backward passes run outside of it."""
        with self.multiply(), self.rounding():
            yield

    def rounding(self) -> AbstractContextManager:
        """torch's autocast alone."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def multiply(self) -> AbstractContextManager:
        """The context of all that multiplies: forward, backward and what the optimizer does."""
        if self.device.type != "cpu" or self.name == "fp32":
            return nullcontext()
        return widen_products() if compare(self.name).emulated else nullcontext()

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


def choose_device(machine: Machine | None = None) -> torch.device:
    """The accelerator when there is one, else the CPU, with a bound on the kernels kept for it and
    large pages for its tensors (unless the environment says otherwise). torch reads both once, at
    its first product and its first tensor: to be called before those. RunError: see `choose_kind`.
    """
    machine = machine or describe_machine()
    kind = choose_kind(machine, int(os.environ.get("WORLD_SIZE", "1")))
    if kind == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CPU_KERNELS)
    if LARGE_PAGES.is_file() and "[madvise]" in LARGE_PAGES.read_text():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    return torch.device(kind)


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"],
    device: torch.device,
    begun: Name | None = None,
    machine: Machine | None = None,
) -> Precision:
    """What the recipe asks for; else `begun`, which the run has had so far; else the fastest here.

    The reason tells when one that was not free to choose is slow on this device. `machine`: that
    has the device, None for the one at hand.
    """
    machine = machine or describe_machine()
    if wanted != "auto":
        slow = slowness(wanted, device, machine)
        return Precision(wanted, device, f"the recipe asks for it{slow}")
    if begun is not None:
        slow = slowness(begun, device, machine)
        return Precision(begun, device, f"the run began with it{slow}")
    if device.type == "cuda":
        if machine.has_bf16:
            return Precision("bf16", device, f"{machine} multiplies bf16 natively")
        return Precision("fp16", device, f"{machine} has no bf16; fp16 with loss scaling")
    if device.type == "mps":
        reason = f"{machine}; half precision was never tried there, precision=bf16 tries it"
        return Precision("fp32", device, reason)
    found = compare("bf16")
    return Precision("bf16" if found.worthwhile else "fp32", device, str(found))


def choose_unscaled(device: torch.device, machine: Machine | None = None) -> Precision:
    """As `auto` for a loop without loss scaling: fp32 where that would take fp16."""
    chosen = choose_precision("auto", device, machine=machine)
    if chosen.name == "fp16":
        return Precision("fp32", device, "bf16 is not native here, and nothing scales the loss")
    return chosen


def slowness(name: Name, device: torch.device, machine: Machine | None = None) -> str:
    """What to add to the reason of a precision that costs time on this device, else nothing."""
    if device.type == "cuda":
        native = name != "bf16" or (machine or describe_machine()).has_bf16
        return "" if native else ", although this GPU has no bf16"
    if device.type != "cpu" or name == "fp32":
        return ""
    found = compare(name)
    return "" if found.worthwhile else f", although {found}: precision=fp32 would be faster"


WORTHWHILE, EMULATED = 0.85, 1.5
"""Half precision is taken on a CPU if it needs at most the first share of fp32's time. Nearer to 1
the choice would hang on noise. Measured: 0.6 to 0.7 with AVX-512 BF16 (whole steps of `mini`:
0.65), 3 with plain AVX-512 and 10 with AVX2, which emulate it: beyond the second share, products
are widened where a recipe asks for half precision all the same."""

ROUNDS = 7
"""Times that a trial runs either side, in turns; the best of each are compared."""

WIDTH, HEADS, LENGTH, ROWS = 192, 4, 64, 4
"""Of the trial's layer: that of a small model, which is what is trained on CPUs."""

CLOCK = time.process_time if os.name == "posix" else time.perf_counter
"""CPU time, which does not hang on what else the machine does; Windows counts it in 16 ms."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Milliseconds that a trial step takes on this CPU in half precision `name` and in fp32;
    `emulated`: the processor cannot multiply in half precision, so products are widened."""

    name: Name
    half: float
    full: float
    emulated: bool = False

    @property
    def worthwhile(self) -> bool:
        """Does half precision save enough to be taken?"""
        return self.half <= WORTHWHILE * self.full

    def __str__(self) -> str:
        how = ", which this processor has no products in" if self.emulated else ""
        return (
            f"a trial step takes {self.half:.1f} ms in {self.name}{how}, {self.full:.1f} ms in fp32"
        )


@cache
def compare(name: Name) -> Comparison:
    """Time half precision against fp32 on this CPU, once a process: 0.1 s, or 0.2 s where it is
    emulated, which the first round shows. No random number of the process is used up.

    On one thread: several that wait for each other on a busy machine would time the machine.
    """
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    half, full = Precision(name, cpu, "trial"), Precision("fp32", cpu, "trial")
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            native, wide = time_in_turns(half, full)
            emulated = native > EMULATED * wide
            if emulated:
                with widen_products():
                    native, wide = time_in_turns(half, full)
    finally:
        torch.set_num_threads(threads)
    return Comparison(name, 1e3 * native, 1e3 * wide, emulated)


def time_in_turns(half: Precision, full: Precision) -> tuple[float, float]:
    """The best CPU seconds of a trial step under either; few rounds where one is far ahead."""
    tensors, best = layer_tensors(), {half: float("inf"), full: float("inf")}
    for number in range(ROUNDS + 1):
        for side in best:
            begun = CLOCK()
            trial_step(tensors, side)
            if number > 0:  # the first builds kernels
                best[side] = min(best[side], CLOCK() - begun)
        if number > 0 and best[half] > 3 * best[full]:
            break
    return best[half], best[full]


def layer_tensors() -> tuple[Tensor, ...]:
    """Tokens [rows, length, width], and four matrices of a decoder layer, which want gradients."""
    own = torch.Generator().manual_seed(0)
    shapes = ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (2 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
    matrices = [torch.randn(shape, generator=own) / WIDTH**0.5 for shape in shapes]
    tokens = torch.randn(ROWS, LENGTH, WIDTH, generator=own)
    return tokens, *(matrix.requires_grad_() for matrix in matrices)


def trial_step(tensors: tuple[Tensor, ...], precision: Precision) -> None:
    """Forward and backward of one decoder layer, its operands cast as they are in training."""
    tokens, inner, outer, up, down = tensors
    with precision.rounding():
        split = linear(tokens, inner).view(ROWS, LENGTH, 3 * HEADS, -1).transpose(1, 2)
        queries, keys, values = split.chunk(3, dim=1)
        read = (queries @ keys.mT).softmax(-1) @ values
        tokens = tokens + linear(read.transpose(1, 2).flatten(2), outer)
        tokens = tokens + linear(silu(linear(tokens, up)), down)
    torch.autograd.grad(tokens.square().mean(), tensors[1:])
