"""Every preset: complete, honest about its sources, and what its family says it is."""

from __future__ import annotations

import re

import pytest

from lucida.core.recipe import load_recipe, presets, recipe_hash
from lucida.eval.benchmarks import PUBLISHED as PUBLISHED_BENCHMARKS
from lucida.eval.prompts import PROMPTS

SYSTEMS = {
    "LLaVA-1.5": ("llava-1.5-7b", "llava-1.5-13b"),
    "VILA": ("vila-7b", "vila-13b", "vila1.5-3b", "nvila-lite-8b"),
    "Improved Alignment": ("improved-alignment",),
    "Qwen2.5": ("qwen2.5-1.5b-lora",),
    "TinyLLaVA": ("tinyllava-base", "tinyllava-share"),
    "nanoVLM": ("nanovlm-222m", "nanovlm-450m"),
}
TWINS = {
    # twin: (the system's recipe, patterns of what each stage trains)
    "llava-mini": ("llava-1.5-7b", ["p", "pl"]),
    "prismatic-mini": ("one-stage+7b", ["pl"]),
    "vila-mini": ("vila-7b", ["p", "pl", "pl"]),
    "nvila-mini": ("nvila-lite-8b", ["p", "pv", "pl", "plv"]),
    "alignment-mini": ("improved-alignment", ["p", "pv", "pl", "pl"]),
    "qwen-lora-mini": ("qwen2.5-1.5b-lora", ["p", "pL"]),
    "tinyllava-mini": ("tinyllava-share", ["p", "plv", "pl"]),  # v: its encoder's last stage
    "nanovlm-mini": ("nanovlm-222m", ["plv"]),
}
PUBLISHED = [
    "reproduction-llava-v15+7b",
    "reproduction-llava-v15+13b",
    "one-stage+7b",
    "one-stage+13b",
    "full-ft-multi-stage+7b",
    "full-ft-one-stage+7b",
    "in1k-224px+7b",
    "dinov2-224px+7b",
    "clip-224px+7b",
    "siglip-224px+7b",
    "clip-336px-resize-crop+7b",
    "clip-336px-resize-naive+7b",
    "siglip-384px-letterbox+7b",
    "siglip-384px-resize-crop+7b",
    "siglip-384px-resize-naive+7b",
    "dinoclip-336px-letterbox+7b",
    "dinoclip-336px-resize-naive+7b",
    "dinosiglip-384px-letterbox+7b",
    "dinosiglip-384px-resize-naive+7b",
    "llama2+7b",
    "llama2+13b",
    "llama2-chat+7b",
    "llama2-chat+13b",
    "mistral-v0.1+7b",
    "mistral-instruct-v0.1+7b",
    "phi-2+3b",
    "vicuna-no-cotraining+7b",
    "llama2-no-cotraining+7b",
    "train-1.25-epochs+7b",
    "train-1.5-epochs+7b",
    "train-2-epochs+7b",
    "train-3-epochs+7b",
    "llava-lvis4v+7b",
    "llava-lrv+7b",
    "llava-lvis4v-lrv+7b",
    "prism-clip-controlled+7b",
    "prism-clip-controlled+13b",
    "prism-clip+7b",
    "prism-clip+13b",
    "prism-siglip-controlled+7b",
    "prism-siglip-controlled+13b",
    "prism-siglip+7b",
    "prism-siglip+13b",
    "prism-dinosiglip-controlled+7b",
    "prism-dinosiglip-controlled+13b",
    "prism-dinosiglip+7b",
    "prism-dinosiglip+13b",
    "prism-dinosiglip-224px-controlled+7b",
    "prism-dinosiglip-224px+7b",
]


def trained(stage):
    """Initials of what a stage trains; L for adapters."""
    rates = {}
    for pattern, rate in stage.train.items():
        top = re.split(r"[.*]", pattern)[0]
        rates[top] = rates.get(top, False) or rate != "frozen"
    letters = {name[0] for name, trains in rates.items() if trains}
    return letters | ({"L"} if stage.lora else set())


def test_all_models_of_prismatic_are_there_and_none_equals_another():
    assert len(PUBLISHED) == 49
    family = {name for name, preset in presets().items() if "Prismatic" in preset.family}
    twins = {name for name in family if name.startswith("prismatic-")}
    assert family - twins == set(PUBLISHED)
    hashes = {}
    for name in PUBLISHED:
        recipe = load_recipe(name).model_copy(update={"name": "x", "sources": {}})
        hashes.setdefault(recipe_hash(recipe), []).append(name)
    assert [names for names in hashes.values() if len(names) > 1] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_prismatic_name_says_what_the_recipe_is(name):
    recipe = load_recipe(name)
    model, last = recipe.model, recipe.stages[-1]
    two_stages = "reproduction" in name or "multi-stage" in name
    assert [stage.name for stage in recipe.stages] == (["align"] if two_stages else []) + ["sft"]
    assert ("v" in trained(last)) == name.startswith("full-ft")
    size = {"7b": "7b", "13b": "13b", "3b": "phi-2"}[name.rpartition("+")[2]]
    assert size in model.language.path.lower()
    encoders = [model.vision.path, *(each.path for each in model.vision.more)]
    assert ("dino" in name) == any("dinov2" in path for path in encoders)
    assert len(encoders) == (2 if re.search("dinoclip|dinosiglip", name) else 1)
    assert (len(encoders) == 2) == (model.projector.kind == "fused_mlp")
    if "siglip" in name:
        assert "siglip" in encoders[-1]
    naive = "naive" in name or name.startswith("prism-")
    policy = "resize" if naive else "crop" if "crop" in name else "letterbox"
    assert model.image.policy == policy
    if name.startswith("prism-"):
        controlled = "controlled" in name
        assert last.budget.epochs == (1 if controlled else 2)
        assert ("1231k" in last.mixture.sources["instructions"].path) != controlled


@pytest.mark.parametrize("name", [n for names in SYSTEMS.values() for n in names])
def test_a_system_is_there_at_full_scale(name):
    recipe = load_recipe(name)
    assert recipe.provenance != "own"
    assert not recipe.model.language.path.startswith("lucida:")


@pytest.mark.parametrize("name", presets())
def test_notes_about_numbers_point_at_something(name):
    recipe = load_recipe(name)
    if recipe.provenance != "own":
        assert len(recipe.sources) >= 5
    for dotted, note in recipe.sources.items():
        here = recipe.model_dump()
        for key in dotted.split("."):
            if isinstance(here, list):
                here = {item["name"]: item for item in here}
            assert key in here, f"{dotted}: nothing stands there"
            here = here[key]
        assert note.strip()


FULL_SCALE = [name for name in presets() if not name.startswith("mini") and "-mini" not in name]


@pytest.mark.parametrize("name", FULL_SCALE)
def test_a_full_scale_recipe_is_measured_on_published_benchmarks(name):
    spec = load_recipe(name).evaluation
    assert spec.tasks
    assert set(spec.tasks) <= set(PUBLISHED_BENCHMARKS)
    assert len(set(spec.tasks)) == len(spec.tasks)
    assert spec.prompts is None or spec.prompts in PROMPTS


def test_each_paper_has_its_benchmarks_and_words():
    llava, prism, vila = (
        load_recipe(name).evaluation for name in ("llava-1.5-13b", "prism-clip+7b", "vila-13b")
    )
    assert len({task.removesuffix("-random").partition("-popular")[0].partition("-adv")[0]
                for task in llava.tasks}) == 12  # fmt: skip
    assert (llava.prompts, prism.prompts, vila.prompts) == ("llava", "prismatic", "llava")
    assert {"refcoco+-val", "vsr", "tallyqa", "ocid-ref"} <= set(prism.tasks)
    assert {*llava.tasks, "okvqa", "mmlu", "bbh", "drop"} <= set(vila.tasks)
    assert load_recipe("vila-7b-linear").evaluation.prompts == "openflamingo"
    assert "pathvqa" in load_recipe("improved-alignment-causal").evaluation.tasks
    assert load_recipe("nanovlm-450m").evaluation.prompts == "lmms"


@pytest.mark.parametrize(
    "name", ["llava-1.5-7b-lora", "one-stage+7b", "siglip-384px-letterbox+7b", "vila-13b"]
)
def test_what_pads_does_so_in_llavas_order(name):
    image = load_recipe(name).model.image
    assert (image.policy, image.pad) == ("letterbox", "first")


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_has_the_stages_of_its_system(twin):
    mini, system = load_recipe(twin), load_recipe(TWINS[twin][0])
    wanted = [set(letters) for letters in TWINS[twin][1]]
    assert [trained(stage) for stage in mini.stages] == wanted
    if twin != "tinyllava-mini":
        assert [trained(stage) for stage in system.stages] == wanted
    assert mini.model.attention_mask == system.model.attention_mask
    assert mini.model.projector.kind == system.model.projector.kind
    if twin != "prismatic-mini":  # it stretches, as the Prisms do
        assert mini.model.image.policy == system.model.image.policy
    assert mini.evaluation.tasks
