"""Exact match and boxes: worked examples, properties, wrong input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.eval.metrics.boxes import (
    OCID_THRESHOLD,
    OVERLAPS,
    area,
    as_box,
    box_hit,
    generalised_iou,
    inclusive_iou,
    iou,
)
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
    assert iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
    assert box_hit((1, 0, 5, 4), (0, 0, 4, 4)) == 1.0
    assert box_hit((2, 0, 6, 4), (0, 0, 4, 4)) == 0.0
    assert box_hit(None, (0, 0, 4, 4)) == 0.0
    assert box_hit((4, 0, 0, 4), (0, 0, 4, 4)) == 0.0


coordinate = st.floats(0, 100, allow_nan=False, width=32)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(first, second):
    value = iou(first, second)
    assert value == iou(second, first)
    assert 0.0 <= value <= 1.0 + 1e-9


@given(boxes)
def test_iou_with_itself_is_one(box):
    if area(box) > 1e-6:
        assert iou(box, box) == pytest.approx(1.0)


def test_variants_of_overlap():
    assert inclusive_iou((0, 0, 3, 3), (2, 0, 5, 3)) == pytest.approx(1 / 3)
    assert generalised_iou((0, 0, 1, 1), (2, 0, 3, 1)) == pytest.approx(-1 / 3)
    truth = (0, 0, 4, 4)
    assert box_hit((2, 0, 6, 4), truth, OCID_THRESHOLD) == 1.0
    # A diagonal shift leaves corners of the hull empty: IoU 9/16 is a hit, GIoU is not.
    shifted = (1, 1, 4, 4)
    assert box_hit(shifted, truth) == box_hit(shifted, truth, variant="giou") == 1.0
    diagonal = (1, 1, 5, 5)
    assert iou(diagonal, truth) == pytest.approx(9 / 23)
    assert generalised_iou(diagonal, truth) == pytest.approx(9 / 23 - 2 / 25)
    assert box_hit(diagonal, truth, 0.35) == 1.0
    assert box_hit(diagonal, truth, 0.35, "giou") == 0.0
    assert box_hit((2, 0, 3, 4), (2, 0, 4, 4), 0.55) == 0.0
    assert box_hit((2, 0, 3, 4), (2, 0, 4, 4), 0.55, "inclusive") == 1.0
    with pytest.raises(DataError, match="iou or inclusive or giou"):
        box_hit(truth, truth, variant="diou")
    with pytest.raises(DataError, match="true box is no box"):
        box_hit(truth, (4, 0, 0, 4))


@given(boxes, boxes)
def test_generalised_iou_is_never_more(first, second):
    if as_box(first) and as_box(second):
        value = generalised_iou(first, second)
        assert -1.0 <= value <= iou(first, second) + 1e-9
        assert value == pytest.approx(generalised_iou(second, first))


def slow_iou(first, second):
    """By counting the unit cells of a grid that integer boxes cover."""

    def cells(box):
        x0, y0, x1, y1 = box
        return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}

    ours, theirs = cells(first), cells(second)
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0


corner = st.integers(0, 6)
grid = st.tuples(corner, corner, corner, corner)


@given(grid, grid)
def test_iou_counts_cells(first, second):
    assert iou(first, second) == pytest.approx(slow_iou(first, second))


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "0 0 4 4",
        b"0044",
        "[0, 0, 4, 4]",
        [],
        [0, 0, 4],
        [0, 0, 4, 4, 4],
        [[0, 0, 4, 4]],
        ["0", "0", "4", "4"],
        [0, 0, float("nan"), 4],
        [0, 0, float("inf"), 4],
        [False, False, True, True],
        [4, 0, 0, 4],
        [0, 4, 4, 0],
        [2, 0, 2, 4],
        {0: 0, 1: 0, 2: 4, 3: 4},
        {0, 1, 4, 5},
        (0, 0, 10**400, 4),
        object,
        7,
    ],
    ids=repr,
)
def test_a_wrong_box_in_any_form_is_a_miss(wrong):
    for variant in OVERLAPS:
        assert box_hit(wrong, (0, 0, 4, 4), 0.0, variant) == 0.0
    assert as_box(wrong) is None


def test_a_right_box_in_any_form():
    assert as_box([0, 0, 2, 3]) == as_box((0.0, 0, 2.0, 3)) == (0.0, 0.0, 2.0, 3.0)
    assert box_hit([0, 0, 4, 4], (0, 0, 4, 4), 1.0) == 1.0
