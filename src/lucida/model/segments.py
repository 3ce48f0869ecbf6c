"""Attention by segment: those of similar length side by side, each under its own mask.

    packed row        [ seg 1 | seg 2 | seg 3 | padding ]
    every layer       rows ──gather──▶ [segments, longest] ──attend──▶ ──scatter──▶ rows

Nothing is computed between two segments, and the same code runs on every device. The cost of a long
segment is that of its whole square, also where its mask is empty; flex.py does better there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lucida.model.masks import MASKS, Fields

WASTE = 0.15
"""Largest share of padded positions inside one block; longer segments start their own block."""

BAND = 256
"""Queries that are scored together where a block is at least twice as long: a training step of
segments of up to 790 positions became 5 to 8% faster; 128 gains less, 64 nothing."""

EAGER_LENGTH = {torch.float32: 256, torch.bfloat16: 1024}
"""On a CPU, blocks up to this length take plain matmul and softmax, longer ones SDPA.

Measured forward and backward, one core with AMX, milliseconds (eager / SDPA with a mask):

    48 segments of 170, 4 heads of 48   fp32  45 / 50    bf16  28 / 120
    48 segments of 170, 6 heads of 32   fp32  57 / 53    bf16  36 / 151
    8 segments of 600, 8 heads of 64    fp32 330 / 194   bf16 132 / 214

Beyond 1024 the scores would take too much memory. A GPU always takes SDPA, and so does a CPU
without gradients (with the mask as a bias; forward only, milliseconds, eager / SDPA):

    48 segments of 85, 4 heads of 48    fp32 6.9 / 6.3
    32 segments of 300, 8 heads of 64   bf16  89 / 34 (2 heads with keys)

Tried and dropped:
scoring stem and branches apart (2.7 times fewer scores) gained 10% of a step in fp32, 0 in bf16.
"""


@dataclass(slots=True, eq=False)
class Block:
    """Segments of similar length, padded to the longest.

    allowed [segments, 1, length, length]: the mask; an empty slot sees itself only.
    bias: the same as 0 and -inf, made once for each dtype. seen: `bands()`, once they are known.
    """

    segments: int
    length: int
    allowed: Bool[Tensor, "segments 1 length length"]
    bias: dict[torch.dtype, Tensor] = field(default_factory=dict)
    seen: list[tuple[int, int, int]] | None = None

    def bands(self) -> list[tuple[int, int, int]]:
        """Queries from, to, and the end of what any of them may see: under a causal mask the first
        of two bands needs half of the keys."""
        if self.length < 2 * BAND:
            return [(0, self.length, self.length)]
        if self.seen is None:
            self.seen = []
            for first in range(0, self.length, BAND):
                last = min(first + BAND, self.length)
                # Never empty: each position sees itself, empty slots too (`make_block`).
                some = self.allowed[:, :, first:last].flatten(0, 2).any(0)
                self.seen.append((first, last, int(some.nonzero()[-1]) + 1))
        return self.seen

    def additive(self, dtype: torch.dtype) -> Tensor:
        """The mask as a bias on the scores."""
        if dtype not in self.bias:
            zeros = torch.zeros(self.allowed.shape, dtype=dtype, device=self.allowed.device)
            self.bias[dtype] = zeros.masked_fill_(~self.allowed, float("-inf"))
        return self.bias[dtype]


class Moved(torch.autograd.Function):
    """rows[there], where `back` undoes it: the gradient is read instead of added up.

    Between rows and slots `back` also reads empty slots, or gives them what belongs to another
    place. An empty slot sees itself only and nothing sees it, so neither goes any further.
    """

    @staticmethod
    def forward(ctx, rows, there, back):
        ctx.save_for_backward(back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx, gradient):
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


class Segments:
    """Where every segment stands and what its positions may see.

    Worked example: one row with segments of 4, 2 and 4 positions and 1 padding. The blocks are
    2 x 4 slots (the segments of 4), 1 x 2 and 1 x 1: a padding position is a segment of its own,
    attends to itself and costs one slot.

    slots [all slots]: the flat position of the batch that each slot shows (position 0 where empty).
    place [rows x length]: the slot of each flat position, the inverse of `slots`.
    """

    def __init__(self, fields: Fields, mask: str) -> None:
        self.rows, self.length = fields.segment.shape
        self.blocks: list[Block] = []
        device = fields.segment.device
        flat = Fields(*(value.reshape(-1) for value in fields))
        order, starts, counts = segments_of(fields)
        slots, taken = [], []
        for first, last in blocks_of(counts.tolist()):
            inside = torch.arange(int(counts[first]), device=device)
            real = inside < counts[first:last, None]  # [segments, length]
            # Slot → flat position; an empty slot shows position 0, whose fields `make_block` puts
            # to 0.
            shown = order[torch.where(real, starts[first:last, None] + inside, 0)] * real
            slots.append(shown.flatten())
            taken.append(real.flatten())
            self.blocks.append(make_block(flat, shown, real, mask))
        self.slots = torch.cat(slots)
        # Every position, padding too, has exactly one slot that is no empty one: `place` is filled
        # whole.
        self.place = torch.empty_like(self.slots[: self.rows * self.length])
        real = torch.cat(taken).nonzero().squeeze(1)
        self.place[self.slots[real]] = real

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Float[Tensor, "rows length heads size"]:
        """Attention of packed rows. query, key, value: [rows, heads, length, size]."""
        gathered = []
        for tensor in (query, key, value):
            # [positions, heads x size]: one gather moves all heads.
            rows = tensor.transpose(1, 2).reshape(self.rows * self.length, -1)
            gathered.append(Moved.apply(rows, self.slots, self.place))
        heads, size = query.shape[1], value.shape[-1]
        results, start = [], 0
        for block in self.blocks:
            stop = start + block.segments * block.length
            parts = []
            for rows, tensor in zip(gathered, (query, key, value), strict=True):
                shape = (block.segments, block.length, tensor.shape[1], tensor.shape[-1])
                parts.append(rows[start:stop].view(shape).transpose(1, 2))
            result = attend(*parts, block, scale, dropout)
            results.append(result.transpose(1, 2).reshape(stop - start, -1))
            start = stop
        rows = Moved.apply(torch.cat(results), self.place, self.slots)
        return rows.view(self.rows, self.length, heads, size)


def segments_of(fields: Fields) -> tuple[Tensor, Tensor, Tensor]:
    """Flat positions grouped by segment, longest first: (positions, starts, lengths)."""
    rows, _ = fields.segment.shape
    segment = fields.segment
    row = torch.arange(rows, device=segment.device)[:, None]
    number = row * (int(segment.max()) + 1) + segment
    # Every padding position gets a number of its own, behind those of all segments: a block of
    # length 1, which `attend` answers without scores.
    alone = int(number.max()) + 1 + torch.arange(segment.numel(), device=segment.device)
    number = torch.where(segment > 0, number, alone.view_as(segment)).flatten()
    positions = number.argsort(stable=True)  # stable: in their order within a segment
    counts = number[positions].unique_consecutive(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    counts, longest_first = counts.sort(descending=True, stable=True)
    return positions, starts[longest_first], counts


def blocks_of(lengths: list[int]) -> list[tuple[int, int]]:
    """Ranges of similar lengths: each at most `WASTE` empty. `lengths` falls."""
    ranges, first, real = [], 0, 0
    for index, length in enumerate(lengths):
        slots = lengths[first] * (index - first + 1)  # if this one came in as well
        if real + length < (1 - WASTE) * slots:
            ranges.append((first, index))
            first, real = index, 0
        real += length
    return [*ranges, (first, len(lengths))]


def make_block(flat: Fields, shown: Tensor, real: Tensor, mask: str) -> Block:
    """One block and its mask. shown, real: [segments, length]."""
    fields = Fields(*(value[shown] * real for value in flat))
    allowed = MASKS[mask](fields.queries(), fields.keys())
    itself = torch.eye(shown.shape[1], dtype=torch.bool, device=shown.device)
    empty = (fields.segment == 0).unsqueeze(-1) & itself  # padding, and slots that show nothing
    return Block(*shown.shape, (allowed | empty).unsqueeze(1))


def attend(
    query: Float[Tensor, "segments heads length size"],
    key: Float[Tensor, "segments heads length size"],
    value: Float[Tensor, "segments heads length size"],
    block: Block,
    scale: float,
    dropout: float,
) -> Float[Tensor, "segments heads length size"]:
    """Masked attention inside one block, by the faster of two ways (see `EAGER_LENGTH`). Keys and
    values may have fewer heads."""
    groups = query.shape[1] // key.shape[1]
    if block.length == 1 and not dropout:  # padding, above all; the softmax over one score is 1
        return value.repeat_interleave(groups, dim=1)
    if query.device.type == "cpu" and not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=block.additive(query.dtype),
            dropout_p=dropout,
            scale=scale,
            enable_gqa=groups > 1,
        )
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if query.device.type != "cpu" or block.length > EAGER_LENGTH.get(query.dtype, 0):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=block.allowed, dropout_p=dropout, scale=scale
        )
    bias, query, key = block.additive(query.dtype), query * scale, key.transpose(-1, -2)
    attended = []
    for first, last, seen in block.bands():
        scores = torch.matmul(query[:, :, first:last], key[..., :seen])
        scores += bias[:, :, first:last, :seen]  # in place: scores are the most memory of all
        weights = functional.dropout(scores.softmax(-1), dropout)
        attended.append(torch.matmul(weights, value[:, :, :seen]))
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)
