"""Matrices in llama.cpp's K forms, which the package gguf reads and cannot write.

256 neighbours in a row make a super-block; each of its blocks has a scale of a few bits (q4_k and
q5_k: and a minimum), counted in units of one half-precision number.

    form   bytes of 256   blocks     a value is            packed as
    q4_k   144            8 of 32    d s q - dmin m        d, dmin, s and m in 6 bits, q in 4
    q5_k   176            8 of 32    the same              …, fifth bits, the other four
    q6_k   210            16 of 16   d s (q - 32)          q's lower four bits, upper two, s in 8, d

Scales are searched for as ggml does without an importance matrix: a few candidates round the plain
one, each with the best scale (and minimum) for the integers that it gives, weighted towards large
values. Of random matrices, ggml (xllamacpp 2026.10.11549) writes the same bytes for 97 of 100
super-blocks of q4_k and q6_k and for 85 of q5_k; in the others two candidates are equally good up
to rounding, which decides in double precision for others again. Errors are equal to 1e-4.

Reference: ggml, src/ggml-quants.c (quantize_row_q4_K_ref, q5_K, q6_K; make_qkx2_quants,
make_qx_quants); llama.cpp, src/llama-quant.cpp (which tensor is kept how).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SUPER = 256
CHUNK = 2**9
"""Super-blocks that are packed at a time."""
SMALLEST = 1e-15
"""A block with no larger value is zero."""


@dataclass(frozen=True, slots=True)
class Search:
    """q4_k's and q5_k's scales. largest: integer. first, steps: candidates are a tenth apart."""

    largest: int
    first: float
    steps: int


SEARCHES = {"Q4_K": Search(15, -1.0, 20), "Q5_K": Search(31, -0.5, 15)}

PACKED = ("Q4_K", "Q5_K", "Q6_K")
MIXES = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q6_k": "Q6_K"}
"""llama-quantize's mixes -> the form of most of their matrices."""
INSTEAD = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What is kept where rows are no multiple of 256."""


def form_in_mix(mix: str, name: str, layers: int, row: int, tied: bool) -> str:
    """gguf's type of a matrix, as llama-quantize chooses it.

    name: llama.cpp's. layers: of the language model. row: length of its rows. tied: whether the
    embedding is the output matrix, too.
    """
    form = MIXES[mix]
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q8_0" if row % SUPER else "Q6_K"
    layer = name.removeprefix("blk.").partition(".")[0]
    if name.endswith(("attn_v.weight", "ffn_down.weight")) and is_precise(int(layer), layers):
        form = "Q6_K"
    return INSTEAD[form] if row % SUPER else form


def is_precise(layer: int, layers: int) -> bool:
    """Whether values and ffn_down of a layer get more bits: the first and last eighth of the
    layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def pack(values: np.ndarray, form: str) -> np.ndarray:
    """A matrix [..., row] of fp32 in a K form: uint8 [..., bytes of a row]. Rows are multiples of
    256."""
    blocks = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(-1, SUPER)
    packer = pack_q6 if form == "Q6_K" else pack_with_minima
    packed = torch.cat([packer(chunk, form) for chunk in blocks.split(CHUNK)])
    return packed.numpy().reshape(*values.shape[:-1], -1)


def pack_with_minima(values: Tensor, form: str) -> Tensor:
    """q4_k or q5_k: super-blocks [n, 256] to bytes [n, 144 or 176]."""
    search = SEARCHES[form]
    blocks = values.unflatten(1, (8, 32))
    scales, minima = search_affine(blocks, search)  # [n, 8], none below 0
    units, coarse = in_units(scales), in_units(minima)
    d, s = units
    dmin, m = coarse
    # Integers for the numbers that are stored, not for those that were searched: a unit that half
    # precision rounds moves the whole super-block.
    step = d.float()[:, None] * s
    shifted = blocks + (dmin.float()[:, None] * m)[..., None]
    q = torch.where(step[..., None] > 0, shifted / step[..., None], 0)
    q = q.round().clamp(0, search.largest).to(torch.uint8).unflatten(1, (4, 2))  # [n, 4, 2, 32]
    # Blocks come in pairs: of a byte the first has the lower four bits, the second the upper.
    lower = (q & 15)[:, :, 0] | (q & 15)[:, :, 1] << 4
    parts = [as_bytes(d), as_bytes(dmin), pack_six_bits(s, m)]
    if form == "Q5_K":
        places = torch.arange(8, dtype=torch.uint8)[:, None]
        fifth = (q >> 4).flatten(1, 2) << places  # [n, 8, 32]: a bit of a byte for each block
        parts.append(fifth.sum(1).to(torch.uint8))
    return torch.cat([*parts, lower.flatten(1)], dim=1)


def search_affine(blocks: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Scales and (negated) minima of blocks [n, 8, 32]."""
    x = blocks
    weights = x.square().mean(-1, keepdim=True).sqrt() + x.abs()
    low = x.amin(-1, keepdim=True).clamp(max=0)
    high = x.amax(-1, keepdim=True)
    sum_w, sum_x = weights.sum(-1, keepdim=True), (weights * x).sum(-1, keepdim=True)
    scale = (high - low) / search.largest
    flat = high == low

    def rounded(steps: float) -> Tensor:
        return (steps / (high - low) * (x - low)).round().clamp(0, search.largest)

    def error(scale: Tensor, low: Tensor, q: Tensor) -> Tensor:
        return (weights * (scale * q + low - x).square()).sum(-1, keepdim=True)

    best = error(scale, low, rounded(search.largest))
    for number in range(search.steps + 1):
        q = rounded(search.first + 0.1 * number + search.largest)
        sum_q = (weights * q).sum(-1, keepdim=True)
        sum_qq = (weights * q * q).sum(-1, keepdim=True)
        sum_xq = (weights * x * q).sum(-1, keepdim=True)
        # Least squares for scale q + low with these integers: two equations, by Cramer's rule.
        determinant = sum_w * sum_qq - sum_q * sum_q
        one_scale = (sum_w * sum_xq - sum_x * sum_q) / determinant
        one_low = (sum_qq * sum_x - sum_q * sum_xq) / determinant
        # A minimum is stored as what is taken away, so it cannot be above 0: there the line goes
        # through 0 instead, whose best scale is another.
        above = one_low > 0
        one_scale = torch.where(above, sum_xq / sum_qq, one_scale)
        one_low = one_low.clamp(max=0)
        found = error(one_scale, one_low, q)
        better = (determinant > 0) & (found < best)
        best = torch.where(better, found, best)
        scale, low = torch.where(better, one_scale, scale), torch.where(better, one_low, low)
    scale = torch.where(flat, 0, scale)
    return scale.squeeze(-1), low.squeeze(-1).abs()


def in_units(values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [n, 8], none below 0, as a unit in half precision [n] and multiples up to 63."""
    largest = values.amax(1, keepdim=True)
    multiples = torch.where(largest > 0, 63 / largest * values, 0).round().clamp(max=63)
    return (largest[:, 0] / 63).half(), multiples


def pack_six_bits(s: Tensor, m: Tensor) -> Tensor:
    """Multiples of scales and minima [n, 8], up to 63, in 12 bytes: four of each whole, with the
    upper two bits of the other four, whose lower four bits share four bytes."""
    s, m = s.to(torch.uint8), m.to(torch.uint8)
    front, behind = torch.stack([s[:, :4], m[:, :4]], 1), torch.stack([s[:, 4:], m[:, 4:]], 1)
    whole = front | behind >> 4 << 6  # [n, 2, 4]
    return torch.cat([whole.flatten(1), behind[:, 0] & 15 | (behind[:, 1] & 15) << 4], dim=1)


def pack_q6(values: Tensor, form: str) -> Tensor:
    """q6_k: super-blocks [n, 256] to bytes [n, 210]."""
    blocks = values.unflatten(1, (16, 16))
    scales = search_scales(blocks)  # [n, 16]
    largest = scales.gather(1, scales.abs().argmax(1, keepdim=True))
    zero = largest.abs() < SMALLEST
    # A signed byte reaches one further below 0: the largest scale becomes -128, and d has its sign.
    s = torch.where(zero, 0, -128 / largest * scales).round().clamp(max=127)
    d = torch.where(zero, 0, 1 / (-128 / largest))[:, 0].half()
    step = (d.float()[:, None] * s)[..., None]
    q = torch.where(step != 0, blocks / step, 0).round().clamp(-32, 31)
    q = torch.where(zero[..., None], 0, q + 32).to(torch.uint8)
    q = q.flatten(1).unflatten(1, (2, 4, 32))  # halves, quarters of them
    # The first and third quarter share bytes, and so do the second and fourth; all four share those
    # of the upper bits.
    lower, upper = q & 15, q >> 4
    lower = lower[:, :, :2] | lower[:, :, 2:] << 4  # [n, 2, 2, 32]
    upper = upper << torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    upper = upper.sum(2).to(torch.uint8)  # [n, 2, 32]
    return torch.cat(
        [lower.flatten(1), upper.flatten(1), s.to(torch.int8).view(torch.uint8), as_bytes(d)], dim=1
    )


def search_scales(blocks: Tensor) -> Tensor:
    """Scales of blocks [n, 16, 16] whose integers go from -32 to 31."""
    x = blocks
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    weights = x.square()
    scale = best = torch.zeros_like(largest)
    # The plain scale first, as in ggml: of equally good ones the earlier stays. The error is
    # sum(w x²) less what the scale explains, sum_xq² / sum_qq: the most is best, and no division is
    # needed to compare.
    for number in (0, *range(-9, 0), *range(1, 10)):
        q = (-(32 + 0.1 * number) / largest * x).round().clamp(-32, 31)
        sum_xq = (weights * x * q).sum(-1, keepdim=True)
        sum_qq = (weights * q * q).sum(-1, keepdim=True)
        better = (sum_qq > 0) & (sum_xq * sum_xq > best * sum_qq)
        scale = torch.where(better, sum_xq / sum_qq, scale)
        best = torch.where(better, scale * sum_xq, best)
    return torch.where(largest.abs() < SMALLEST, 0, scale).squeeze(-1)


def as_bytes(halves: Tensor) -> Tensor:
    """Half-precision numbers [n] as bytes [n, 2]."""
    return halves[:, None].view(torch.uint8)
