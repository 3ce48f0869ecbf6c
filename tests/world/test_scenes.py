"""Scenes: deterministic, disjoint between splits, and drawn as they say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.world import scenes
from lucida.world.drawing import PAINT, draw
from lucida.world.scenes import HELD_OUT, SPLITS, make_scene, owner

splits = st.sampled_from(SPLITS)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), splits, st.integers(0, 10**9), st.sampled_from([64, 96]), st.booleans()
)
def test_a_scene_is_a_function_of_its_numbers(seed, split, index, size, labelled):
    first = make_scene(seed, split, index, size, labelled=labelled)
    again = make_scene(seed, split, index, size, labelled=labelled)
    assert first == again
    assert np.array_equal(np.asarray(draw(first)), np.asarray(draw(again)))
    assert max(first.width, first.height) == size


@settings(max_examples=60, deadline=None)
@given(splits, st.integers(0, 10**6))
def test_things_do_not_overlap_and_lie_inside(split, index):
    scene = make_scene(0, split, index)
    boxes = [t.box for t in scene.things] + ([scene.sign.box] if scene.sign else [])
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        assert 0 <= x0 < x1 <= scene.width
        assert 0 <= y0 < y1 <= scene.height
        for a, b, c, d in boxes[:number]:
            assert x0 >= c or a >= x1 or y0 >= d or b >= y1
    names = [(t.colour, t.shape) for t in scene.things]
    assert len(set(names)) == len(names) >= 1


def test_splits_are_disjoint_by_content_and_novel_pairs_are_held_out():
    for split in SPLITS:
        for index in range(300):
            scene = make_scene(0, split, index)
            assert owner(scene.things[0], scene.width) == ("test" if split == "novel" else split)
            held = any((t.colour, t.shape) in HELD_OUT for t in scene.things)
            assert held == (split == "novel")


def test_pixels_are_where_the_box_says():
    checked = 0
    for index in range(80):
        scene = make_scene(1, "train", index)
        pixels = np.asarray(draw(scene)).astype(int)
        for thing in scene.things:
            if thing.texture != "plain":
                continue
            painted = np.abs(pixels - PAINT[thing.colour]).sum(-1) < 12
            x0, y0, x1, y1 = thing.box
            rows, columns = np.nonzero(painted[y0:y1, x0:x1])
            assert rows.min() <= 2
            assert rows.max() >= y1 - y0 - 3
            assert columns.min() <= 2
            assert columns.max() >= x1 - x0 - 3
            checked += 1
    assert checked > 50


def test_every_word_fits_on_its_sign():
    seen = set()
    for index in range(2000):
        scene = make_scene(0, "train", index)
        if scene.sign is None or scene.sign.word in seen:
            continue
        seen.add(scene.sign.word)
        x0, y0, x1, y1 = scene.sign.box
        board = np.asarray(draw(scene))[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].astype(int)
        dark = board.sum(-1) < 200
        assert dark.any()
        assert not dark[:, 0].any()
        assert not dark[:, -1].any()
    assert seen == set(scenes.WORDS)
