"""What "equal up to rounding" means in these tests.

To the bit are equal only results of the same arithmetic on the same shapes: a product of other
sizes takes another way through the kernels of a processor, sums in another order, and differs in
its last bits here and not there. `make elsewhere` makes them differ on any machine (rounding.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNITS = {torch.float64: 2**12, torch.float32: 2**8, torch.bfloat16: 2**3, torch.float16: 2**3}
"""By dtype, how many units in the last place of the largest number any may be off: for fp32 3e-5
of it. A few layers of a tiny model lose 2 to 30; mistakes cost thousands."""

LEAST = 2**-5
"""What the largest number counts as at least: a gradient that is zero on paper is noise."""


def close(
    found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], msg: str | None = None
) -> None:
    """Assert that tensors are equal up to the order of sums, measured by the largest number."""
    if not isinstance(expected, Tensor):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other, msg)
        return
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    off = UNITS[expected.dtype] * torch.finfo(expected.dtype).eps * max(largest, LEAST)
    torch.testing.assert_close(found, expected, atol=off, rtol=0, msg=msg)
