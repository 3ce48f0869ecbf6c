"""A plan says what training then does: arithmetic against a counted step, parts, refusals."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from tiny_training import tiny_recipe, write_parts

from lucida.apps import cli
from lucida.apps.fetch.needs import count_published
from lucida.apps.plan import depth
from lucida.apps.plan.depth import add
from lucida.apps.plan.devices import DEVICES, GIB, Device, find_device
from lucida.apps.plan.estimate import most_at_once, plan_recipe
from lucida.apps.plan.fitting import ROOM, cuts, fits
from lucida.apps.plan.step import FUSED
from lucida.core.errors import DataError, RecipeError
from lucida.core.recipe import load_recipe
from lucida.core.spec import Recipe
from lucida.data.collate import collate
from lucida.data.loader import Loader
from lucida.data.pack import fullness
from lucida.data.reader import draw_images
from lucida.data.sample import IGNORED
from lucida.data.sources import open_source
from lucida.data.stage import StageData, open_mixtures
from lucida.model.blueprint import make_blueprint
from lucida.model.checkpoint import build
from lucida.training.objective import supervised_loss
from lucida.training.stage import apply_plan, plan_stage

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
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
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
    # The frozen encoder is whole on every rank, the largest layers twice and the rest in halves.
    modules = planned["modules"]
    alone = 4 * modules["vision"] + 2 * (modules["projector"] + modules["language"])
    assert alone < spread["fsdp"]["weights"]
    assert spread["fsdp"]["gradients"] == pytest.approx(spread["ddp"]["gradients"] / 2)
    assert spread["ddp"]["activations"] < 0.7 * usual["activations"]
    assert memory(gpu=True)["single"]["activations"] < usual["activations"]  # no attention weights


def test_a_cached_frozen_encoder_costs_nothing():
    cached = plan_recipe(load_recipe("mini", SMALL[:1]), SLOW)["stages"][0]
    assert cached["features_cached"] and "vision" not in cached["flops_by_part"]


def test_exports_are_said_with_reasons(planned):
    assert planned["exports"]["formats"] == ["remote-code"]
    reasons = " ".join(planned["exports"]["no_llava_because"])
    assert "letterbox" in reasons and "position" in reasons and "maps" in reasons


def in_training(recipe):
    """FLOPs, tokens, positions and samples of the first real step of a recipe's first stage."""
    torch.manual_seed(0)
    model, processor = build(recipe.model)
    stage = recipe.stages[0]
    mixture, _ = open_mixtures(stage.mixture, recipe.seed, processor.encode)
    look = partial(draw_images, processor.draw)
    data = StageData(mixture, processor.encode, stage.batch, look=look)
    loader = Loader(data, pad_id=0)
    stream = loader.batches()
    passes = next(stream)
    stream.close()
    apply_plan(model, plan_stage(model, stage.train, "test").trained)
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        for batch in passes:
            supervised_loss(model, batch)[0].backward()
    tokens = sum(int((batch.segment > 0).sum()) for batch in passes)
    positions = sum(batch.segment.numel() for batch in passes)
    return counter.get_total_flops(), tokens, positions, sum(len(each.origins) for each in passes)


WAYS = {
    "rows": ["stages.sft.batch={tokens: 4096, row: 1024, cache_features: false}"],
    "passes": ["stages.sft.batch={tokens: 4000, accumulate: 2, cache_features: false}"],
    "anyres": [
        *SMALL, "model.image={policy: anyres, max_tiles: 4}",
        "model.projector={kind: downsample, factor: 2}", "stages.sft.mixture.sources.world.size=96",
    ],
    "native": [*SMALL, "model.image={policy: native, size: 128}", "model.projector={kind: mlp}"],
    "gated": [
        *SMALL, "model.cross_attention={every: 1, heads: 4}",
        "stages.sft.train={projector: 1e-3, cross_attention: 1e-3, language: 1e-3}",
    ],
    "two encoders": [*SMALL, "model.vision.more=[{path: 'lucida:clip-mini'}]"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_batch_and_picture_is_counted_as_it_is_trained(way):
    """Within 15% of one real step, whose samples are few: their lengths differ from the mean."""
    recipe = load_recipe("mini", [*WAYS[way], "stages.sft.mixture.sources.world.count=200"])
    plan = plan_recipe(recipe, SLOW)["stages"][0]
    flops, tokens, positions, samples = in_training(recipe)
    assert plan["flops_per_step"] == pytest.approx(flops, rel=0.15)
    assert plan["tokens_per_step"] == pytest.approx(tokens, rel=0.1)
    passes = recipe.stages[0].batch.accumulate
    assert plan["tokens_per_pass"] * passes == pytest.approx(positions, rel=0.1)
    assert plan["samples_per_step"] == pytest.approx(samples, rel=0.25)
    if recipe.stages[0].batch.row is not None:
        assert 0.8 < plan["lengths"]["rows_filled"] < 1
    else:
        assert plan["lengths"]["rows_filled"] <= 1


def test_tiles_are_counted_in_the_data_and_at_most_where_there_are_none(tmp_path):
    """Pictures of 64 pixels are one square under `split`, those of 96 four and an overview."""
    sources = "{a: {kind: world, tasks: [caption], count: 40, weight: 3}, "
    sources += "b: {kind: world, tasks: [caption], count: 40, size: 96}}"
    tiles = ["model.image={policy: split, max_tiles: 4}", *SMALL]
    plan = plan_recipe(load_recipe("mini", [*tiles, f"stages.sft.mixture.sources={sources}"]), SLOW)
    assert plan["tokens_per_image"]["most"] == 5 * 64
    lengths = plan["stages"][0]["lengths"]
    assert lengths["views_per_image"] == pytest.approx((3 * 1 + 5) / 4)
    assert lengths["tokens_per_image"] == pytest.approx((3 * 64 + 5 * 64) / 4)
    absent = f"stages.sft.mixture.sources={{a: {{kind: llava, path: '{tmp_path}/none.json'}}}}"
    unknown = plan_recipe(load_recipe("mini", [*tiles, absent]), SLOW)["stages"][0]["lengths"]
    assert unknown["tokens_per_sample"] == 100 + 5 * 64
    assert unknown["tokens_per_image"] is None
    assert "most visual tokens" in unknown["found"]


def test_a_budget_of_tokens_decides_steps_and_devices():
    rows = [
        "stages.sft.batch={tokens: 4096, row: 1024}",
        "stages.sft.mixture.sources.world.count=200",
    ]
    plan = plan_recipe(load_recipe("mini", [*rows, "stages.sft.budget={epochs: 2}"]), SLOW)
    stage = plan["stages"][0]
    assert stage["steps"] == -(-2 * 200 // stage["samples_per_step"])
    two = plan_recipe(load_recipe("mini", rows), SLOW, 2)["stages"][0]
    assert two["tokens_per_pass"] == pytest.approx(stage["tokens_per_pass"] / 2, rel=0.01)
    assert two["tokens_per_step"] == pytest.approx(stage["tokens_per_step"], rel=0.01)
    with pytest.raises(RecipeError, match="each rank needs a row"):
        plan_recipe(load_recipe("mini", rows), SLOW, 8)
    with pytest.raises(DataError, match="longer than a row"):
        plan_recipe(load_recipe("mini", ["stages.sft.batch={tokens: 400, row: 200}"]), SLOW)


def test_rows_of_the_docstring_are_as_full_as_it_says():
    assert fullness([5], 8) == pytest.approx(0.625)
    assert fullness([4, 4, 8], 8) == 1
    kept = {"language": 8, "projector": 0, "vision": 4}
    working = {"language": 3, "vision": 3}
    assert most_at_once(kept, working, {"language": 6, "vision": 1}, 2) == 15
    assert most_at_once(kept, working, {}, 5) == 17


@pytest.mark.parametrize("policy", ["anyres", "split", "native", "letterbox"])
def test_pictures_are_what_the_model_says(policy):
    changes = [f"model.image.policy={policy}", "model.projector={kind: downsample, factor: 2}"]
    changes += ["model.image.size=128"] if policy == "native" else []
    recipe = load_recipe("mini", changes)
    _, processor = build(recipe.model)
    blueprint = make_blueprint(recipe.model)
    assert blueprint.arrangement == processor.arrangement
    for size in ((64, 64), (300, 40), (100, 170), (20, 9)):
        views = processor.image_policy.views(Image.new("RGB", size))
        assert processor.arrangement.count(*size) <= blueprint.most_tokens
        assert len(views) <= blueprint.most_views
        area = sum(view.width * view.height for view in views)
        sides = blueprint.arrangement.policy.sides(*size)
        assert sum(side**2 for side in sides) == pytest.approx(area)


@pytest.mark.slow
def test_a_full_scale_design_of_two_encoders_or_gated_layers_is_planned():
    plan = plan_recipe(load_recipe("prism-dinosiglip+7b"), DEVICES["a100-80g"], 8)
    assert plan["stages"][0]["flops_by_part"]["vision"] > 0
    gated = ["model.cross_attention={every: 4, heads: 32}",
             "stages.align.train={projector: 1e-3, cross_attention: 1e-3}",
             "stages.sft.train={projector: 1e-3, cross_attention: 1e-3}"]  # fmt: skip
    plan = plan_recipe(load_recipe("llava-1.5-7b", gated), DEVICES["a100-80g"], 8)
    assert plan["modules"]["cross_attention"] == pytest.approx(8 * 12 * 4096**2, rel=0.01)
    assert plan["tokens_per_image"] == {"one_view": 576, "most": 576, "in_the_text": False}


@pytest.mark.slow
def test_layers_computed_again_outside_of_autocast_keep_what_they_kept_inside():
    processor = Device("a processor", "bf16", 1e12, 0.5, 8 * GIB, gpu=False)
    plan_recipe(load_recipe("llava-1.5-7b"), processor)


def test_a_published_recipe_is_planned_without_its_weights():
    plan = plan_recipe(load_recipe("qwen2.5-1.5b-lora"), DEVICES["v100-32g"], 4)
    assert plan["modules"]["language"] == pytest.approx(1.54e9, rel=0.01)
    align, sft = plan["stages"]
    assert set(align["trained_by_part"]) == {"projector"} and "adapters" in sft["trained_by_part"]
    assert "assumed" in align["lengths"]["found"]
    assert "558,000 records, as published" in align["lengths"]["found"]
    assert align["steps"] == math.ceil(558_000 / 128) and align["hours"] > 0


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Parts of 8 layers, as far as a plan reads them."""
    folder = write_parts(tmp_path_factory.mktemp("deep"))
    for part in ("vision", "language-plain"):
        file = folder / part / "config.json"
        values = json.loads(file.read_text())
        values.pop("layer_types", None)
        file.write_text(json.dumps(values | {"num_hidden_layers": 8}))
    return tiny_recipe(folder, "language-plain")


ADAPTERS = {"rate": 1e-3, "rank": 2, "targets": ["language.last(3)"]}
DEPTHS = {
    "all trains": (
        {"cross_attention": {"every": 4, "heads": 2}},
        {"train": dict.fromkeys(("projector", "cross_attention", "language", "vision"), 1e-3)},
    ),
    "adapters": (
        {},
        {
            "train": {"projector": 1e-3},
            "lora": ADAPTERS,
            "batch": {"samples": 4, "checkpointing": "selective"},
        },
    ),
}


@pytest.mark.parametrize("case", DEPTHS)
def test_a_few_layers_of_each_kind_cost_what_all_of_them_do(case, deep, monkeypatch):
    (model, stage), counted = DEPTHS[case], []
    values = deep.model_dump(mode="json")
    values["model"] |= model
    values["stages"] = [{**values["stages"][1], **stage}]
    recipe = Recipe.model_validate(values)
    device = SLOW if case == "all trains" else DEVICES["v100-32g"]
    monkeypatch.setattr(depth, "add", lambda base, ones: counted.append(ones) or add(base, ones))
    monkeypatch.setattr(depth, "DEEP", 8)
    few = plan_recipe(recipe, device)
    # As many as were left out, of 16 layers.
    assert sum(count for ones in counted for _, count in ones) == 13
    monkeypatch.setattr(depth, "DEEP", 1000)
    assert few == plan_recipe(recipe, device)


def test_records_that_nobody_publishes_stay_unknown():
    stages = {stage.name: stage for stage in load_recipe("improved-alignment").stages}
    assert count_published(stages["instruct"]) == 665_000
    assert count_published(stages["multitask"]) is None
    assert count_published(load_recipe("mini").stages[0]) is None


@settings(max_examples=200, deadline=None)
@given(
    fixed=st.floats(1, 200), each=st.floats(0.01, 8), samples=st.integers(1, 600),
    before=st.sampled_from([1, 2, 3]), limit=st.floats(10, 300),
)  # fmt: skip
def test_the_least_power_of_two_that_fits_is_found(fixed, each, samples, before, limit):
    def planned(stage):
        if stage.batch.samples < stage.batch.accumulate:
            raise RecipeError("each rank needs a sample in each pass of a step")
        moving = each * math.ceil(stage.batch.samples / stage.batch.accumulate)
        parts = {"activations": 0.8 * moving, "logits": 0.2 * moving, "weights": fixed / 4}
        return {"single": parts | {"peak": fixed + moving}}

    stage = load_recipe("mini").stages[0]

    def cut(passes):
        batch = {"samples": samples, "accumulate": passes}
        return stage.model_copy(update={"batch": stage.batch.model_copy(update=batch)})

    device = Device("one", "fp32", 1e12, 0.5, limit)
    powers = [before * 2**k for k in range(12) if before * 2**k <= samples]
    enough = [p for p in powers if planned(cut(p))["single"]["peak"] < ROOM * limit]
    if samples < before:
        return
    found = cuts(cut(before), planned(cut(before)), device, planned)
    if enough and enough[0] == before:
        assert found == {}
    else:
        assert found == {"single": min(enough, default=None)}


def test_what_is_advised_fits():
    tight = Device("a tight one", "fp32", 1e12, 0.5, GIB / 10)
    recipe = load_recipe("mini", ["stages.sft.batch.samples=48"])
    (stage,) = plan_recipe(recipe, tight)["stages"]
    (passes,) = stage["fits_with"].values()
    assert not fits(stage["memory"]["single"]["peak"], tight.memory)
    advised = load_recipe(
        "mini", ["stages.sft.batch.samples=48", f"stages.sft.batch.accumulate={passes}"]
    )
    (stage,) = plan_recipe(advised, tight)["stages"]
    assert fits(stage["memory"]["single"]["peak"], tight.memory) and stage["fits_with"] == {}


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


COUNTED = {
    "a template that leads, and boxes": ["model.language.template=vicuna"],
    "branches dropped for lack of room": ["model.language.max_length=110"],
    "everything supervised": ["stages.sft.loss=all", "model.language.template=llama2"],
}


@pytest.mark.parametrize("case", COUNTED)
def test_tokens_are_those_that_the_stage_encodes(case):
    """Not about as many: the same processor counts, without its weights."""
    source = "{kind: world, tasks: [boxes, spatial-pointed], count: 40, questions: 3}"
    changes = [*SMALL, *COUNTED[case], f"stages.sft.mixture.sources={{a: {source}}}"]
    recipe = load_recipe("mini", changes)
    _, processor = build(recipe.model)
    mixture, _ = open_mixtures(recipe.stages[0].mixture, recipe.seed)
    samples = (mixture.sources["a"][number] for number in range(40))
    every = [processor.encode(sample, loss=recipe.stages[0].loss) for sample in samples]
    found = plan_recipe(recipe, SLOW)["stages"][0]["lengths"]
    assert found["tokens_per_sample"] == pytest.approx(sum(map(len, every)) / 40)
    supervised = sum(int((tokens.target != IGNORED).sum()) for tokens in every)
    assert found["supervised_per_sample"] == pytest.approx(supervised / 40)
