"""Every miniature twin trains: two steps of each of its stages, with tiny batches."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lucida.core.recipe import load_recipe, presets
from lucida.core.runs import RunFolder
from lucida.training.loop import train_alone

TWINS = [name for name in presets() if name.endswith("-mini") and name != "real-mini"]


FUSED = [
    "model.vision.more=[{path: 'lucida:siglip-mini', feature_layer: 1, size: 32}]",
    "model.projector={kind: fused_mlp}",
]


@pytest.mark.parametrize(
    ("name", "changes"), [*((name, []) for name in TWINS), ("prismatic-mini", FUSED)]
)
def test_a_twin_trains_through_all_its_stages(name, changes, tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    overrides = ["threads=1", "precision=fp32", *changes]
    for stage in load_recipe(name).stages:
        path = f"stages.{stage.name}"
        overrides += [f"{path}.budget={{steps: 2}}", f"{path}.batch.samples=8"]
        overrides += [f"{path}.checkpoint_every=null", f"{path}.optim.warmup=0"]
        for source in stage.mixture.sources:
            where = f"{path}.mixture.sources.{source}"
            overrides += [f"{where}.count=4", f"{where}.questions=1"]
    recipe = load_recipe(name, overrides)
    folder = train_alone(recipe, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "loss" in record]
    assert [record["stage"] for record in steps] == [s.name for s in recipe.stages for _ in "12"]
    assert all(math.isfinite(record["loss"]) and record["loss"] < 15 for record in steps)
    assert RunFolder(folder).recipe == recipe
    assert (folder / "config.json").is_file()
