"""Attention inside projectors: vectors that read other vectors, or each other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError


class Reading(nn.Module):
    """Multi-head attention of `asking` [images, m, width] to `read` [images, n, source].

    width: of what asks and of the result. source: width of what is read.
    """

    def __init__(self, width: int, source: int, heads: int, bias: bool) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(source, width, bias=bias)
        self.value = nn.Linear(source, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, asking: Tensor, read: Tensor) -> Tensor:
        """What each asking vector takes from what it reads: [images, m, width]."""
        query, key, value = (
            rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(asking), self.key(read), self.value(read))
        )
        taken = functional.scaled_dot_product_attention(query, key, value)
        return self.out(taken.transpose(1, 2).flatten(2))


def check_heads(width: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the width."""
    if width % heads:
        usual = [number for number in (1, 2, 4, 6, 8, 12, 16) if width % number == 0]
        raise ModelError(
            "the projector's heads do not divide the width they work in",
            expected=f"a divisor of {width}, such as {usual[-1]}",
            given=heads,
            remedy="set model.projector.heads",
        )
