"""Masks, and the layout that must mean the same in less time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lucida.core.errors import ModelError
from lucida.model.attention import Layout, blocks_of, layout_attention
from lucida.model.masks import MASKS, Fields, dense_mask

torch.set_num_threads(1)


def fields(segment: list, branch: list, image: list) -> Fields:
    """Fields of one row."""
    order = torch.arange(len(segment))[None]
    return Fields(torch.tensor([segment]), torch.tensor([branch]), order, torch.tensor([image]))


def drawn(mask: Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0]]


def test_causal_as_drawn_in_its_docstring():
    one = fields([1] * 6, [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0])
    expected = ["x.....", "xx....", "xxx...", "xxxx..", "xx..x.", "xx..xx"]
    assert drawn(dense_mask(one, "causal")) == expected


def test_image_block_as_drawn_in_its_docstring():
    two = fields([1] * 5, [0, 0, 0, 1, 1], [1, 1, 2, 0, 0])
    assert drawn(dense_mask(two, "image_block")) == ["xx...", "xx...", "xxx..", "xxxx.", "xxxxx"]


def test_segments_and_padding_keep_to_themselves():
    row = fields([1, 1, 2, 2, 0, 0], [1] * 4 + [0, 0], [1, 1, 1, 1, 0, 0])
    for name, block in (("causal", "x."), ("image_block", "xx")):
        expected = [f"{block}....", "xx....", f"..{block}..", "..xx..", "....x.", ".....x"]
        assert drawn(dense_mask(row, name)) == expected


def test_unknown_mask_suggests_the_nearest():
    with pytest.raises(ModelError, match="did you mean `causal`"):
        dense_mask(fields([1], [0], [0]), "casual")


@st.composite
def random_fields(draw: st.DrawFn) -> Fields:
    """Rows of segments with a stem and branches; runs of visual tokens anywhere; padding behind."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        segment, branch, image = [], [], []
        for number in range(1, draw(st.integers(0, 4)) + 1):
            pictures = 0
            for part in range(draw(st.integers(0, 3)) + 1):
                length = draw(st.integers(0 if part else 1, 5))
                seen = draw(st.integers(0, length))
                pictures += seen > 0
                segment += [number] * length
                branch += [part] * length
                image += [pictures] * seen + [0] * (length - seen)
        rows.append((segment, branch, image))
    longest = max(1, *(len(row[0]) for row in rows)) + draw(st.integers(0, 3))
    padded = [[values + [0] * (longest - len(values)) for values in row] for row in rows]
    segment, branch, image = (torch.tensor(column) for column in zip(*padded, strict=True))
    return Fields(segment, branch, torch.arange(longest).expand_as(segment), image)


@settings(max_examples=60, deadline=None)
@given(random_fields(), st.sampled_from(list(MASKS)), st.sampled_from([1, 2]), st.integers(0, 9))
def test_layout_equals_dense_mask_in_value_and_gradient(row, mask, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, length = row.segment.shape

    def random(heads: int) -> Tensor:
        made = torch.randn(rows, heads, length, 4, generator=generator, dtype=torch.float64)
        return made.requires_grad_()

    query, key, value = random(2 * groups), random(2), random(2)
    wanted = torch.randn(rows, length, 2 * groups, 4, generator=generator, dtype=torch.float64)
    wanted *= (row.segment > 0)[:, :, None, None]  # padding is never supervised

    layout = Layout(row, mask)
    result = layout_attention(query, key, value, layout, 0.5, 0.0)
    assert torch.isfinite(result).all()
    gradients = torch.autograd.grad((result * wanted).sum(), (query, key, value))

    allowed = dense_mask(row, mask)
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (0.5 * query @ keys.transpose(-1, -2)).masked_fill(~allowed, float("-inf"))
    dense = (scores.softmax(-1) @ values).transpose(1, 2)
    expected = torch.autograd.grad((dense * wanted).sum(), (query, key, value))

    torch.testing.assert_close(result, dense)
    for got, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, reference)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_blocks_cover_all_segments_with_little_waste(lengths):
    lengths = sorted(lengths, reverse=True)
    ranges = blocks_of(lengths)
    assert [index for first, last in ranges for index in range(first, last)] == [
        *range(len(lengths))
    ]
    for first, last in ranges:
        assert sum(lengths[first:last]) >= 0.85 * lengths[first] * (last - first)


def test_layout_of_unequal_segments_is_cut_into_blocks():
    row = fields([1] * 4 + [2] * 2 + [3] * 4 + [0], [1] * 10 + [0], [0] * 11)
    layout = Layout(row, "causal")
    assert [(block.segments, block.length) for block in layout.blocks] == [(2, 4), (1, 2), (1, 1)]
    assert torch.equal(layout.slots[layout.place], torch.arange(11))
