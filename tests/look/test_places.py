"""Which pixels a visual token stands for: planted pictures, and encoders that see nothing else."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import encoder_folder, language_folder, tiny_model

from lucida.data.policies import make_policy
from lucida.data.tiles import fit_inside
from lucida.interpretability.places import Places, find_places
from lucida.model.encoders import encoders_of

torch.set_num_threads(1)
WIDTH, HEIGHT = 120, 70
LONG = {"path": language_folder(), "max_length": 900}


def design(image, projector="mlp", vision=None, **more):
    """A model each of whose patches knows its own pixels only."""
    vision = vision or {"path": encoder_folder("siglip"), "size": 32}
    spec = projector if isinstance(projector, dict) else {"kind": projector}
    model, processor = tiny_model(vision, LONG, image=image, projector=spec, **more)
    with torch.no_grad():
        for encoder in encoders_of(model.vision):
            for layer in encoder.model.encoder.layers:
                layer.self_attn.out_proj.weight.zero_()
                layer.self_attn.out_proj.bias.zero_()
    return model, processor


@torch.no_grad()
def visual(model, processor, image):
    from lucida.data.images import make_image_source

    pixels = processor.pixels([make_image_source(image, "planted")])
    found = model.visual(pixels, None)
    return found[0]


TWO = {
    "path": encoder_folder("siglip"),
    "size": 32,
    "more": [{"path": encoder_folder("siglip"), "size": 32}],
}
DESIGNS = {
    "resize": ({"policy": "resize"}, {}),
    "letterbox": ({"policy": "letterbox"}, {}),
    "padded first": ({"policy": "letterbox", "pad": "first"}, {}),
    "crop": ({"policy": "crop"}, {}),
    "split": ({"policy": "split"}, {}),
    "nanovlm": ({"policy": "split", "layout": "nanovlm"}, {}),
    "anyres": ({"policy": "anyres"}, {}),
    "native": ({"policy": "native", "size": 64}, {}),
    "native, joined": ({"policy": "native", "size": 64}, {"projector": "downsample"}),
    "downsample": ({"policy": "letterbox"}, {"projector": "downsample"}),
    "by three": ({"policy": "resize"}, {"projector": {"kind": "downsample", "factor": 3}}),
    "pixel shuffle in tiles": ({"policy": "split"}, {"projector": "pixel_shuffle"}),
    "pool by three": ({"policy": "crop"}, {"projector": {"kind": "pool", "factor": 3}}),
    "channels": ({"policy": "crop"}, {"vision": {**TWO, "fusion": "channels"}}),
    "tokens": ({"policy": "letterbox"}, {"vision": {**TWO, "fusion": "tokens"}}),
    "interleaved": ({"policy": "letterbox"}, {"vision": {**TWO, "fusion": "interleaved"}}),
    "tokens in tiles": ({"policy": "split"}, {"vision": {**TWO, "fusion": "tokens"}}),
}


def overlaps(boxes, box):
    x0, y0, x1, y1 = boxes.T
    return (x0 < box[2]) & (x1 > box[0]) & (y0 < box[3]) & (y1 > box[1])


def grown(box, by):
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


@pytest.mark.parametrize("name", DESIGNS)
def test_tokens_change_where_the_picture_does(name):
    image, more = DESIGNS[name]
    model, processor = design(image, **more)
    places = find_places(model, processor, WIDTH, HEIGHT)
    white = Image.new("RGB", (WIDTH, HEIGHT), "white")
    before = visual(model, processor, white)
    assert len(places.boxes) == len(before)
    assert places.why is None
    spread = 9  # pixels of the picture that the scaling filters mix, at a quarter of its size
    for box in [(0, 0, 34, 30), (40, 20, 75, 60), (88, 40, 120, 70), (50, 0, 72, 70)]:
        planted = white.copy()
        planted.paste((0, 0, 90), box)
        changed = ((visual(model, processor, planted) - before).abs().amax(1) > 1e-3).numpy()
        inside = overlaps(places.boxes, grown(box, -spread))
        near = overlaps(places.boxes, grown(box, spread))
        assert (changed | ~inside).all(), f"{box}: tokens {np.flatnonzero(inside & ~changed)}"
        assert (near | ~changed).all(), f"{box}: tokens {np.flatnonzero(changed & ~near)}"


def test_what_a_crop_cuts_away_is_not_seen():
    model, processor = design({"policy": "crop"})
    places = find_places(model, processor, 100, 50)
    assert places.seen == (25, 0, 75, 50)
    assert find_places(model, processor, 50, 100).seen == (0, 25, 50, 75)
    model, processor = design({"policy": "letterbox"})
    places = find_places(model, processor, 100, 50)
    assert places.seen == (0, 0, 100, 50)
    assert places.boxes[0].tolist() == [0, -25, 25, 0]  # a patch of padding


def test_tokens_of_no_patch_have_no_place():
    model, processor = design({"policy": "anyres"})
    places = find_places(model, processor, WIDTH, HEIGHT)
    rows, _ = model.arrangement.policy.kept(WIDTH, HEIGHT, math.isqrt(model.arrangement.tokens))
    assert (~places.known).sum() == rows  # the ends of lines
    assert places.names[0] == "overview"
    vision = {"path": encoder_folder("clip"), "take": "cls_patches"}
    model, processor = tiny_model(vision, LONG)
    assert find_places(model, processor, 30, 30).known.tolist() == [False, *[True] * 4]
    for take, projector in (("cls", {"kind": "expand", "tokens": 3}), ("mean", {"kind": "mlp"})):
        vision = {"path": encoder_folder("clip"), "take": take}
        model, processor = tiny_model(vision, LONG, projector=projector)
        places = find_places(model, processor, 30, 30)
        assert places.why and not places.known.any()
        assert places.seen == (0, 0, 30, 30)


@pytest.mark.parametrize("kind", ["perceiver", "qformer"])
def test_learned_queries_have_no_place(kind):
    projector = {"kind": kind, "queries": 3, "heads": 2}
    model, processor = tiny_model("siglip", LONG, projector=projector)
    places = find_places(model, processor, 30, 20)
    assert len(places.boxes) == 3 and not places.known.any()
    assert kind in places.why


def test_an_abstractors_bins_cover_the_square():
    vision = {"path": encoder_folder("siglip"), "size": 40}  # 5 x 5 patches in 2 x 2 bins
    projector = {"kind": "c_abstractor", "side": 2, "depth": 1}
    model, processor = tiny_model(vision, LONG, image={"policy": "resize"}, projector=projector)
    boxes = find_places(model, processor, 50, 50).boxes
    assert boxes == pytest.approx(
        np.array([[0, 0, 30, 30], [20, 0, 50, 30], [0, 20, 30, 50], [20, 20, 50, 50]])
    )


def test_painted_amounts_are_kept():
    boxes = np.array([[1, 0, 3, 1], [0, 0, 2, 1], [np.nan] * 4], np.float64)
    places = Places(2, 1, boxes, np.zeros(3, int), ("the picture",), (0, 0, 2, 1))
    maps, rest = places.paint(np.array([[4.0, 1.0, 7.0]]), (1, 2))
    assert maps.tolist() == [[[0.5, 2.5]]]
    assert rest.tolist() == [9.0]
    average = places.average(np.array([4.0, 1.0, 7.0]), (1, 2))
    assert average.tolist() == [[1.0, 2.5]]
    random = np.random.default_rng(0)
    corner = random.uniform(-20, 60, (40, 2))
    boxes = np.hstack([corner, corner + random.uniform(1, 30, (40, 2))])
    places = Places(50, 37, boxes, np.zeros(40, int), ("the picture",), (0, 0, 50, 37))
    values = random.normal(size=(3, 2, 40))
    for shape in ((37, 50), (9, 13), (1, 1)):
        maps, rest = places.paint(values, shape)
        assert maps.shape == (3, 2, *shape)
        assert maps.sum((-1, -2)) + rest == pytest.approx(values.sum(-1))


def test_a_picture_is_fitted_as_before():
    assert fit_inside((96, 64), (32, 32)) == (0, 5, 32, 22)
    policy = make_policy("anyres", 16, (0.5,) * 3, (0.5,) * 3)
    views = policy.views(Image.new("RGB", (96, 64), "white"), (2, 2))
    left = [np.asarray(views[n])[:, 8, 0] for n in (1, 3)]
    assert np.flatnonzero(np.concatenate(left) > 128).tolist() == list(range(5, 27))
