"""Exact match and boxes: worked examples, properties, wrong input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.eval.metrics.boxes import area, box_hit, intersection_over_union
from lucida.eval.metrics.exact import exact_match, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Star.", "red star"),
        ("two", "2"),
        ("None", "0"),
        ("light-blue", "light blue"),
        ("1,000", "1000"),
        ("0.5 m.", "0.5 m"),
        ("yes!\n", "yes"),
        ("yes , it is", "yes it is"),
        ("  a  ", "a"),
        ("A.", "a"),
        ("?!", ""),
        ("Tom's", "tom's"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_exact_match():
    assert exact_match("Two.", ["3", "2"]) == 1.0
    assert exact_match("red", ["blue"]) == 0.0
    assert exact_match("A", ["a"]) == 1.0
    assert exact_match("?", ["!"]) == 0.0
    assert exact_match("", [""]) == 0.0


@given(st.text(max_size=30))
def test_normalise_ignores_case_of_ascii_and_outer_space(text):
    assert normalise(f"  {text}\n") == normalise(text)


def test_iou_worked_example():
    assert intersection_over_union((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert intersection_over_union((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
    assert intersection_over_union((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
    assert box_hit((1, 0, 5, 4), (0, 0, 4, 4)) == 1.0
    assert box_hit((2, 0, 6, 4), (0, 0, 4, 4)) == 0.0
    assert box_hit(None, (0, 0, 4, 4)) == 0.0
    assert box_hit((4, 0, 0, 4), (0, 0, 4, 4)) == 0.0


coordinate = st.floats(0, 100, allow_nan=False, width=32)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(first, second):
    value = intersection_over_union(first, second)
    assert value == intersection_over_union(second, first)
    assert 0.0 <= value <= 1.0 + 1e-9


@given(boxes)
def test_iou_with_itself_is_one(box):
    if area(box) > 1e-6:
        assert intersection_over_union(box, box) == pytest.approx(1.0)
