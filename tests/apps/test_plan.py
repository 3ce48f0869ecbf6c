"""A plan says what training then does: arithmetic against a counted step, parts, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lucida.apps import cli
from lucida.apps.plan.devices import DEVICES, GIB, Device, find_device
from lucida.apps.plan.estimate import plan_recipe
from lucida.core.errors import RecipeError
from lucida.core.recipe import load_recipe
from lucida.data.collate import collate
from lucida.data.sources import open_source
from lucida.model.checkpoint import build
from lucida.train.objective import supervised_loss
from lucida.train.stage import apply_plan, plan_stage

SLOW = Device("a slow one", "fp32", 1e12, 0.5, 8 * GIB, gpu=False)
SMALL = ["stages.sft.batch.samples=8", "stages.sft.batch.cache_features=false"]


@pytest.fixture(scope="module")
def planned():
    return plan_recipe(load_recipe("mini", SMALL), SLOW)


def counted(recipe):
    """FLOPs of one real step, forward and backward, of the recipe's first stage."""
    torch.manual_seed(0)
    model, processor = build(recipe.model)
    stage = recipe.stages[0]
    (source,) = (open_source(each) for each in stage.mixture.sources.values())
    every = len(source) // 8
    samples = [processor.encode(source[every * index]) for index in range(8)]
    batch = collate(samples, True, processor.tokenizer.pad_token_id, processor.pixels)
    apply_plan(model, plan_stage(model, stage.train, "test").trained)
    # The counter knows the fused attention of GPUs, not the CPU's.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    missing = {
        fused: lambda q, k, v, *rest, **more: sdpa_flop_count(q, k, v),
        backward: lambda g, q, k, v, *rest, **more: sdpa_backward_flop_count(g, q, k, v),
    }
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        loss, _ = supervised_loss(model, batch)
        loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "change",
    [
        [],
        ["stages.sft.train={projector: 1e-3, language: frozen, vision: frozen}"],
        ["stages.sft.train={projector: 1e-3, language: 1e-3, vision: 1e-3}"],
    ],
    ids=["language", "projector", "everything"],
)
def test_arithmetic_is_what_a_real_step_computes(change):
    recipe = load_recipe("mini", [*SMALL, *change])
    expected = counted(recipe)
    given = plan_recipe(recipe, SLOW)["stages"][0]["flops_per_step"]
    assert given == pytest.approx(expected, rel=0.15)


def test_parts_and_tokens_are_those_of_the_model(planned):
    model, _ = build(load_recipe("mini").model)
    for name in ("vision", "projector"):
        size = sum(each.numel() for each in getattr(model, name).parameters())
        assert planned["modules"][name] == size
    assert planned["tokens_per_image"]["one_view"] == model.config.visual_tokens
    (stage,) = planned["stages"]
    trained = stage["trained_by_part"]
    assert set(trained) == {"projector", "language"} and stage["trained"] == sum(trained.values())
    assert stage["steps"] == load_recipe("mini").stages[0].budget.steps
    seconds = stage["flops_per_step"] / (SLOW.peak * SLOW.share)
    assert stage["seconds_per_step"] == pytest.approx(seconds)


def test_memory_follows_what_trains_and_how(planned):
    def memory(*change, count=1, gpu=False):
        device = Device("one", "fp32", 1e12, 0.5, 8 * GIB, gpu)
        return plan_recipe(load_recipe("mini", [*SMALL, *change]), device, count)["stages"][0][
            "memory"
        ]

    usual = planned["stages"][0]["memory"]["single"]
    assert usual["optimizer"] == 2 * usual["gradients"]
    assert usual["gradients"] == 4 * planned["stages"][0]["trained"]
    less = memory("stages.sft.batch.checkpointing=full")["single"]
    assert less["activations"] < 0.5 * usual["activations"]
    spread = memory(count=2)
    assert spread["fsdp"]["optimizer"] < spread["ddp"]["optimizer"]
    assert spread["ddp"]["activations"] < 0.7 * usual["activations"]
    assert memory(gpu=True)["single"]["activations"] < usual["activations"]  # no attention weights


def test_a_cached_frozen_encoder_costs_nothing():
    cached = plan_recipe(load_recipe("mini", SMALL[:1]), SLOW)["stages"][0]
    assert cached["features_cached"] and "vision" not in cached["flops_by_part"]


def test_exports_are_said_with_reasons(planned):
    assert planned["exports"]["formats"] == ["remote-code"]
    reasons = " ".join(planned["exports"]["no_llava_because"])
    assert "letterbox" in reasons and "position" in reasons and "maps" in reasons


def test_a_published_recipe_is_planned_without_its_weights():
    plan = plan_recipe(load_recipe("qwen2.5-1.5b-lora"), DEVICES["v100-32g"], 4)
    assert plan["modules"]["language"] == pytest.approx(1.54e9, rel=0.01)
    align, sft = plan["stages"]
    assert set(align["trained_by_part"]) == {"projector"} and "adapters" in sft["trained_by_part"]
    assert "assumed" in align["lengths"]["found"] and align["steps"] is None


def test_unknown_devices_are_refused():
    with pytest.raises(RecipeError, match="did you mean `a100-80g`"):
        find_device("a100-80")


def test_the_verb_prints_tables_and_json(capsys, monkeypatch):
    monkeypatch.setattr("lucida.apps.plan.devices.this_cpu", lambda: SLOW)
    for extra, check in (
        ([], lambda text: "memory of one device" in text and "exports to: remote-code" in text),
        (["--json"], lambda text: json.loads(text)["recipe"] == "mini"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["plan", "mini", "stages.sft.batch.samples=2", *extra])
        assert not caught.value.code
        assert check(capsys.readouterr().out)
