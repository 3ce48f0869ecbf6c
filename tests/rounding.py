"""A pytest plugin: products of other shapes round otherwise, as they may on any machine.

    python -m pytest -p rounding        with this folder on PYTHONPATH (`make elsewhere` does it)

Of every product on the CPU each number stays or moves by one unit in its last place. Which does
follows from the shapes of the operands and the place in the result alone: the same arithmetic gives
the same bits again, as on one machine, and two ways to one result part in their last bits, as they
do between machines. Whole numbers stay: counts are exact everywhere (so do large half-precision
numbers, which are all whole). A test that fails only here asks for more than the arithmetic
promises; one marked `kernels` is about the kernels at hand, and runs without.

`ROUNDING="SEED UNITS"` draws other moves, and larger ones: how much room a tolerance has.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator
from contextlib import nullcontext
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

SEED, UNITS = os.environ.get("ROUNDING", "0 1").split()

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.mv.default,
    aten.dot.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}


@lru_cache(500)
def moves(operands: tuple[tuple[int, ...], ...], shape: tuple[int, ...], dtype: torch.dtype):
    """What a result of this shape is multiplied by."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{SEED} {operands} {shape}".encode()))
    signs = torch.randint(-1, 2, shape, generator=generator, dtype=torch.float64)
    return (1 + int(UNITS) * torch.finfo(dtype).eps * signs).to(dtype)


class Rounding(TorchDispatchMode):
    """Moves the results of products while it is entered."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        result = out[0] if isinstance(out, tuple) else out
        if func in PRODUCTS and type(result) is Tensor and result.is_floating_point():
            operands = tuple(tuple(each.shape) for each in args if isinstance(each, Tensor))
            with _disable_current_modes(), torch.no_grad():
                moved = result * moves(operands, tuple(result.shape), result.dtype)
                result.copy_(moved.where(result != result.round(), result))
        return out


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, None, None]:
    """Every other test runs inside, with what is made for it before."""
    with nullcontext() if item.get_closest_marker("kernels") else Rounding():
        yield
