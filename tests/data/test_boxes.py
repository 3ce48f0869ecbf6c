"""Boxes as tokens and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.data.boxes import box_tokens, format_box, parse_box

bins_of = st.integers(8, 1000)
inside = st.floats(0, 1)


@given(bins_of, inside, inside, inside, inside)
def test_a_box_survives_within_half_a_bin(bins, a, b, c, d):
    box = (min(a, c), min(b, d), max(a, c), max(b, d))
    back = parse_box(format_box(box, bins), bins)
    assert back is not None
    assert max(abs(x - y) for x, y in zip(box, back, strict=True)) <= 0.5 / bins + 1e-9
    assert format_box(back, bins) == format_box(box, bins)


@given(bins_of, st.tuples(*[st.floats(-9, 9)] * 4))
def test_outside_is_clamped(bins, box):
    names = format_box(box, bins).replace(">", "> ").split()
    assert len(names) == 4
    assert set(names) <= set(box_tokens(bins))


def test_widths():
    assert box_tokens(8)[-1] == "<b07>"
    assert box_tokens(100)[-1] == "<b99>"
    assert (box_tokens(1000)[0], box_tokens(1000)[-1]) == ("<b000>", "<b999>")
    assert format_box((0, 0.17, 0.3125, 1), 32) == "<b00><b05><b10><b31>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red",
        "<b01><b02><b03>",
        "<b01><b02><b03><b04><b05>",
        "<b01><b02><b03><b32>",
        "<b001><b002><b003><b004>",
        "<b05><b02><b03><b04>",
        "<b01><b06><b03><b04>",
        "at <b01><b02><b03><b04>",
        "<b01><b02><b03><b-4>",
        "<b٠١><b02><b03><b04>",
        "<b 1><b02><b03><b04>",
    ],
)
def test_anything_else_is_no_box(text):
    assert parse_box(text, 32) is None


def test_space_around_tokens_is_allowed():
    assert parse_box(" <b01> <b02><b03> <b04>\n", 32) == parse_box("<b01><b02><b03><b04>", 32)


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="four numbers"):
        format_box((0.0, float("nan"), 1.0, 1.0), 32)
