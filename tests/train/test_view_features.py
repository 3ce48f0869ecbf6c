"""Features of tiles and of pictures of their own shape: cached = live, stopped = uninterrupted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_training import tiny_recipe

from lucida.core.spec import Recipe
from lucida.data.sources import open_source
from lucida.model.checkpoint import build
from lucida.training.feed import FrozenFeatures
from lucida.training.loop import train_run
from lucida.training.precision import choose_precision

POLICIES = {
    "anyres": {"policy": "anyres", "max_tiles": 3},
    "split": {"policy": "split", "max_tiles": 4},
    "native": {"policy": "native", "size": 40},
}
FP32 = choose_precision("fp32", torch.device("cpu"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Twenty pictures of all shapes and a question about each; every third has two pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    random, records = np.random.default_rng(3), []
    for number in range(20):
        width, height = random.integers(9, 70, 2)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        names = [f"{number}.png"] + ["0.png"] * (number % 3 == 0)
        asked = {"from": "human", "value": "<image>\n" * len(names) + "Wide?"}
        told = {"from": "gpt", "value": "yes" if width > height else "no"}
        records.append({"id": str(number), "image": names, "conversations": [asked, told]})
    (folder / "shapes.json").write_text(json.dumps(records))
    return str(folder / "shapes.json")


def designed(parts, shapes, name, cached=True, two=False) -> Recipe:
    values = tiny_recipe(parts).model_dump(mode="json")
    values["model"]["image"] = POLICIES[name]
    values["model"]["language"]["max_length"] = 400
    if two:
        values["model"]["vision"]["more"] = [{"path": values["model"]["vision"]["path"]}]
    values["stages"] = values["stages"][1:]
    stage = values["stages"][0]
    stage["mixture"]["sources"] = {"shapes": {"kind": "llava", "path": shapes}}
    stage["batch"]["cache_features"] = cached
    return Recipe.model_validate(values)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.parametrize(("name", "two"), [(n, False) for n in POLICIES] + [("native", True)])
def test_cached_views_train_like_live_ones(parts, shapes, name, two, tmp_path, monkeypatch):
    live = train_run(designed(parts, shapes, name, cached=False, two=two), tmp_path / "live")
    assert not list((tmp_path / "cache").rglob("features.bin"))
    recipe = designed(parts, shapes, name, two=two)
    first = train_run(recipe, tmp_path / "first")
    assert len(list((tmp_path / "cache").rglob("features.bin"))) == 1
    assert losses(first) == pytest.approx(losses(live), abs=2e-3)  # the cache rounds to fp16

    def never(self, images):
        raise AssertionError(f"computed again: {images[0].origin}")

    monkeypatch.setattr(FrozenFeatures, "compute", never)
    assert losses(train_run(recipe, tmp_path / "again")) == losses(first)


@pytest.mark.parametrize("name", ["anyres", "split"])
def test_cached_views_in_bf16(parts, shapes, name, tmp_path):
    """Not `native`: oneDNN's bf16 convolution of one column (8 x 40) gives NaN on some CPUs."""
    values = {"precision": "bf16"}
    found = [
        losses(train_run(designed(parts, shapes, name, cached).model_copy(update=values), folder))
        for cached, folder in ((True, tmp_path / "cached"), (False, tmp_path / "live"))
    ]
    assert found[0] == pytest.approx(found[1], abs=0.05)


@pytest.mark.parametrize("name", POLICIES)
def test_the_features_of_an_image_do_not_depend_on_its_company(parts, shapes, name):
    recipe = designed(parts, shapes, name)
    model, processor = build(recipe.model)
    source = open_source(recipe.stages[0].mixture.sources["shapes"])
    images = [source[i].images[0] for i in range(20)]
    features = FrozenFeatures(model, processor, FP32)
    together = features(images)
    assert len({tuple(each.shape) for each in together.images()}) > 1
    alone = FrozenFeatures(model, processor, FP32)
    for number in (0, 7, 19):
        assert torch.equal(
            alone.compute([images[number]]).values.half(), together.images()[number].flatten()
        )
    pixels = processor.pixels(images)
    assert together.sizes == pixels.sizes
    seen, kept = model.visual(pixels, None), model.visual(None, together)
    for a, b in zip(seen, kept, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 2e-3


@pytest.mark.parametrize("name", ["anyres", "native"])
def test_stopped_and_resumed_is_uninterrupted(parts, shapes, name, tmp_path, monkeypatch):
    recipe = designed(parts, shapes, name)
    whole = train_run(recipe, tmp_path / "whole")
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "another"))
    given = FrozenFeatures.__call__
    calls = []

    def cut(self, images):
        calls.append(len(images))
        if len(calls) > 5:
            raise KeyError("stopped here")
        return given(self, images)

    monkeypatch.setattr(FrozenFeatures, "__call__", cut)
    with pytest.raises(KeyError, match="stopped here"):
        train_run(recipe, tmp_path / "stopped")
    monkeypatch.setattr(FrozenFeatures, "__call__", given)
    assert len(list((tmp_path / "stopped").rglob("*.safetensors"))) > 0
    resumed = train_run(recipe, tmp_path / "stopped")
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
