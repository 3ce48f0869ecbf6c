"""Fuller scenes: deterministic, disjoint between splits, unskewed, and drawn as they say."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.world.crowds import SIDES, make_crowd, make_signs
from lucida.world.drawing import PAINT, draw
from lucida.world.phrases import caption_phrases, short_caption, sign_name
from lucida.world.questions import tell_scene
from lucida.world.scenes import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    make_scene,
    owner,
)

makers = pytest.mark.parametrize("make", [make_crowd, make_signs])


@makers
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 10**9), st.sampled_from([64, 96])
)
def test_a_scene_is_a_function_of_its_numbers_and_nothing_overlaps(make, seed, split, index, size):
    scene = make(seed, split, index, size)
    assert scene == make(seed, split, index, size)
    assert draw(scene).size == (scene.width, scene.height) == (size, size)
    boxes = [each.box for each in (*scene.things, *scene.signs)]
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        assert 0 < x0 < x1 < size
        assert 0 < y0 < y1 < size
        for a, b, c, d in boxes[:number]:
            assert x0 > c or a > x1 or y0 > d or b > y1
    names = [(t.colour, t.shape) for t in scene.things]
    assert len(set(names)) == len(names)
    for thing in scene.things:
        low, high = SIDES[thing.size]
        sides = {round(side * size / 64) for side in range(low, high + 1)}
        assert thing.box[2] - thing.box[0] == thing.box[3] - thing.box[1] in sides


@makers
def test_splits_are_disjoint_by_content_and_novel_pairs_are_held_out(make):
    for split in SPLITS:
        for index in range(150):
            scene = make(0, split, index)
            assert owner(scene.things[0], scene.width) == ("test" if split == "novel" else split)
            held = any((t.colour, t.shape) in HELD_OUT for t in scene.things)
            assert held == (split == "novel")


def test_crowds_are_crowded_and_signs_are_several():
    crowds = Counter(len(make_crowd(0, "train", index).things) for index in range(400))
    assert set(crowds) <= {5, 6, 7, 8, 9}
    assert min(crowds[n] for n in (6, 7, 8, 9)) > 60
    for index in range(200):
        scene = make_signs(0, "test", index)
        assert len(scene.things) <= 3
        assert len({sign.word for sign in scene.signs}) == len(scene.signs) >= 2
        assert scene.sign is None  # "the sign" would name none


def test_no_value_is_more_frequent_than_another():
    things = [t for index in range(1200) for t in make_crowd(0, "train", index).things]
    for field, values in (
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("size", SIZES),
        ("texture", TEXTURES),
    ):
        counts = Counter(getattr(t, field) for t in things)
        # Six pairs are held out, two of them of no one colour or shape alone.
        assert all(0.7 < counts[v] * len(values) / len(things) < 1.4 for v in values), counts
    textures = Counter((t.size, t.texture) for t in things)
    assert max(textures.values()) < 1.15 * min(textures.values())


@makers
def test_pixels_are_where_the_boxes_say(make):
    for index in range(60):
        scene = make(1, "train", index)
        pixels = np.asarray(draw(scene)).astype(int)
        for thing in scene.things:
            if thing.texture == "plain":
                x0, y0, x1, y1 = thing.box
                painted = np.abs(pixels[y0:y1, x0:x1] - PAINT[thing.colour]).sum(-1) < 12
                rows, columns = np.nonzero(painted)
                assert rows.min() <= 2
                assert rows.max() >= y1 - y0 - 3
                assert columns.min() <= 2
                assert columns.max() >= x1 - x0 - 3
        for sign in scene.signs:
            x0, y0, x1, y1 = sign.box
            dark = pixels[y0:y1, x0:x1].sum(-1) < 200
            assert dark[[0, -1]].all()
            assert dark[:, [0, -1]].all()
            assert dark[1:-1, 1:-1].any()
            assert not dark[1:-1, [1, -2]].any()


def test_a_word_looks_the_same_on_the_second_sign_as_on_the_only_one():
    alone = {}
    for index in range(2000):
        scene = make_scene(0, "train", index)
        if scene.sign is not None and scene.sign.word not in alone:
            alone[scene.sign.word] = draw(scene).crop(scene.sign.box).tobytes()
    for index in range(60):
        scene = make_signs(0, "train", index)
        picture = draw(scene)
        for sign in scene.signs:
            assert picture.crop(sign.box).tobytes() == alone[sign.word]


def test_what_tells_a_whole_scene_leaves_out_no_sign():
    scene = make_signs(0, "train", 0)
    spoken = tell_scene(scene, None)
    for sign in scene.signs:
        assert sign.box in spoken
        for text in (short_caption(scene), " ".join(caption_phrases(scene)), repr(spoken)):
            assert sign_name(sign) in text
