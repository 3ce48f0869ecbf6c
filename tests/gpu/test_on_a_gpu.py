"""What only a GPU can show, on the tiny recipe: each way of training there learns what fp32 learns
on the CPU. `make gpu` runs these first.

Every one of them calls the same few functions, which `test_the_ways_run_on_a_cpu` runs wherever a
CPU can follow; none has run on a GPU yet.
"""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_recipe

from lucida.core.spec import Recipe
from lucida.training.loop import train_run

gpu = pytest.mark.gpu
LOOSE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.02}
"""How far the loss of a step may be off, relative to fp32's on a CPU."""


def changed(parts, precision="fp32", stage=None, **engine) -> Recipe:
    """The tiny recipe, one stage without dropout, computed another way."""
    values = tiny_recipe(parts, language="language-plain").model_dump(mode="json")
    values["stages"] = [values["stages"][1] | {"checkpoint_every": None} | (stage or {})]
    return Recipe.model_validate(values | {"precision": precision, "engine": engine})


def losses(recipe: Recipe, folder) -> list[float]:
    """Of every step of a run."""
    train_run(recipe, folder)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def on_cpu(recipe: Recipe, folder, monkeypatch) -> list[float]:
    """The same in fp32 on the CPU, whatever else is here."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        return losses(recipe, folder)


WAYS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "dense": {"attention": "dense"},
    "flex": {"attention": "flex"},
    "compiled": {"compile": True},
    "computed-again": {"stage": {"batch": {"samples": 4, "checkpointing": "full"}}},
    "features": {"stage": {"train": {"projector": 1e-3, "language": 1e-3}}},
    "muon": {"stage": {"optim": {"kind": "muon"}}},
    "lora": {"stage": {"train": {"projector": 1e-3}, "lora": {"rate": 1e-3, "rank": 2}}},
}


def compare(parts, tmp_path, monkeypatch, way):
    """A way on the device that is chosen beside plain fp32 of the same stage on the CPU."""
    wanted = dict(way)
    plain = on_cpu(changed(parts, stage=wanted.get("stage")), tmp_path / "cpu", monkeypatch)
    found = losses(changed(parts, **wanted), tmp_path / "way")
    assert found == pytest.approx(plain, rel=LOOSE[wanted.get("precision", "fp32")])
    return found


@gpu
@pytest.mark.parametrize("name", WAYS)
def test_training_there_is_training_here(parts, tmp_path, monkeypatch, name):
    compare(parts, tmp_path, monkeypatch, WAYS[name])
    told = json.loads((tmp_path / "way" / "environment.json").read_text())
    assert "cuda" in json.dumps(told)


@pytest.mark.parametrize("name", ["dense", "bf16"])
def test_the_ways_run_on_a_cpu(parts, tmp_path, monkeypatch, name):
    """Not marked: what the tests above do, as far as a CPU can."""
    assert len(compare(parts, tmp_path, monkeypatch, WAYS[name])) == 7


@gpu
def test_sharded_on_one_gpu(parts, tmp_path, monkeypatch):
    """FSDP2 with a world of one: NCCL, gathering and cutting, checkpoints of parts."""
    from torch import distributed

    from lucida.training import loop
    from lucida.training.sharding import Sharded

    monkeypatch.setitem(os.environ, "MASTER_ADDR", "127.0.0.1")
    plain = on_cpu(changed(parts), tmp_path / "cpu", monkeypatch)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl", store=distributed.HashStore(), rank=0, world_size=1
    )
    try:
        monkeypatch.setattr(loop, "choose_engine", lambda *_: Sharded())
        found = losses(changed(parts, kind="fsdp"), tmp_path / "sharded")
    finally:
        distributed.destroy_process_group()
    assert found == pytest.approx(plain, rel=LOOSE["fp32"])


@gpu
def test_quantised_with_adapters(parts, tmp_path):
    pytest.importorskip("bitsandbytes")
    values = changed(parts, **WAYS["lora"]).model_dump(mode="json")
    values["model"]["language"]["quantize"] = "nf4"
    found = losses(Recipe.model_validate(values), tmp_path / "run")
    assert found[-1] < found[0] * 1.1 and all(map(torch.isfinite, torch.tensor(found)))
    assert load_file(tmp_path / "run" / "model.safetensors")
