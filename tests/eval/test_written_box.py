"""Boxes as other models write them: each model's coordinates in one frame, for large and small."""

import pytest

from lucida.core.errors import ModelError
from lucida.eval.answerers.endpoint import EndpointAnswerer
from lucida.eval.answerers.written_box import UNITS, check_unit, read_written_box, write_box

WIDTH, HEIGHT = 640, 480


def read(text, unit="form"):
    found = read_written_box(text, WIDTH, HEIGHT, unit)
    return found and tuple(round(value, 3) for value in found)


SMALL, LARGE = (64, 48, 192, 144), (64, 48, 576, 432)


@pytest.mark.parametrize(
    ("form", "scale"),
    [
        ("<|object_ref_start|>2 dogs<|box_start|>({},{}),({},{})<|box_end|>", 1000),
        ("<ref>dog 7</ref><box>({},{}),({},{})</box>", 1000),
        ("({},{}),({},{})", 1000),
        ("It is at ({}, {}), ({}, {}).", 1000),
        ("<ref>dog</ref><box>[[{}, {}, {}, {}]]</box>", 1000),
        ("{{<{}><{}><{}><{}>}}", 100),
    ],
)
def test_small_and_large_things_of_one_model_are_in_one_frame(form, scale):
    for box in (SMALL, LARGE):
        parts = [round(v / side * scale) for v, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True)]
        assert read(form.format(*parts)) == box


def test_tokens_of_their_own_tell_their_places():
    # PaliGemma: y first, in 1024ths.
    assert read("<loc0256><loc0128><loc0768><loc0512> cat") == (80, 120, 320, 360)
    # Florence-2: the middle of one of 1000 places.
    assert read("dog<loc_100><loc_200><loc_299><loc_399>") == (64.32, 96.24, 191.68, 191.76)
    # Kosmos-2: from cell to cell of 32 x 32, row by row; within a row to the outer edges.
    assert read("<object><patch_index_0033><patch_index_0099></object>") == (30, 22.5, 70, 52.5)
    assert read("<patch_index_0032><patch_index_0035>") == (0, 15, 80, 30)


def test_shares_are_told_by_their_fractions():
    assert read("[0.1, 0.1, 0.3, 0.3]") == SMALL
    assert read("(0.1,0.1),(0.9,0.9)") == LARGE
    assert read("[0.0, 0, 1, 1]") == (0, 0, WIDTH, HEIGHT)


def test_bare_numbers_are_pixels_or_what_was_said():
    text = "[100, 100, 300, 300]"
    assert read(text) == (100, 100, 300, 300)
    assert read(text, "thousandths") == SMALL
    assert read("[100, 200, 300, 400]", "thousandths-yx") == (128, 48, 256, 144)
    assert read("[10, 10, 30, 30]", "hundredths") == SMALL
    # A known unit holds for small and for large numbers alike.
    assert read("[1, 1, 600, 400]", "pixels") == (1, 1, 600, 400)
    assert read("[0, 0, 1, 1]", "shares") == (0, 0, WIDTH, HEIGHT)
    assert read("[0, 0, 1, 1]", "pixels") == (0, 0, 1, 1)
    assert read("(100,100),(300,300)", "pixels") == (100, 100, 300, 300)
    assert read('[{"bbox_2d": [64, 48, 192, 144], "label": "2 dogs"}]') == SMALL


def test_boxes_in_words():
    assert read_written_box("[0.5, 0, 1, 1]", 200, 100) == (100, 0, 200, 100)
    assert read_written_box("20 10 60 90", 200, 100) == (20, 10, 60, 90)
    assert read_written_box("(500, 500), (1000, 1000)", 200, 100) == (100, 50, 200, 100)
    for wrong in (
        "", "1 2 3", "1 2 3 4 5", "5 5 5 9", "-1 0 5 5", "2000 0 3000 9", "x1 2 3 4", "9 9 1 1",
        "<box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>", "<loc0001><loc0002><loc0003>",
        "<loc0001><loc0002><loc0003><loc0004>" * 2, "nan nan nan nan", "[1, 2, 3, -4]",
    ):  # fmt: skip
        assert read_written_box(wrong, 200, 100) is None, wrong


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_written_is_read_back(unit):
    assert read(write_box(LARGE, WIDTH, HEIGHT, unit), unit) == LARGE


def test_the_unit_belongs_to_the_answerer():
    answerer = EndpointAnswerer("http://localhost/v1", "m", boxes="thousandths")
    assert answerer.read_box("[100, 100, 300, 300]", WIDTH, HEIGHT) == pytest.approx(SMALL)
    assert EndpointAnswerer("http://localhost/v1", "m").boxes == "form"
    with pytest.raises(ModelError, match="did you mean `pixels`"):
        check_unit("pixel")
