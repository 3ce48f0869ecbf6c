"""Full-scale presets without weights: published numbers of parameters, tokens, and what trains."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import AutoModelForCausalLM

from lucida.core.errors import ModelError
from lucida.core.recipe import load_recipe, presets
from lucida.core.spec import ModelSpec
from lucida.model.blueprint import skeleton
from lucida.model.configs import find_known_config, find_known_preprocessing, known
from lucida.model.encoders.encoder import new_model
from lucida.training.stage import plan_stage

PUBLISHED = {
    # Millions of parameters; SigLIP with its pooling head, the others without one.
    "openai/clip-vit-large-patch14": 303.2,
    "openai/clip-vit-large-patch14-336": 303.5,
    "google/siglip-so400m-patch14-384": 428.2,
    "google/siglip-base-patch16-224": 92.9,
    "facebook/dinov2-with-registers-large": 304.4,
    "timm:vit_large_patch16_224.augreg_in21k_ft_in1k": 303.3,
    "lmsys/vicuna-7b-v1.5": 6738.4,
    "meta-llama/Llama-2-13b-hf": 13015.9,
    "mistralai/Mistral-7B-v0.1": 7241.7,
    "microsoft/phi-2": 2779.7,
    "princeton-nlp/Sheared-LLaMA-2.7B": 2701.6,
    "Qwen/Qwen2-7B-Instruct": 7615.6,
    "Qwen/Qwen2.5-1.5B-Instruct": 1543.7,
    "Qwen/Qwen2.5-0.5B": 494.0,
    "HuggingFaceTB/SmolLM2-135M": 134.5,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361.8,
}
PROJECTORS = {
    # Millions, and visual tokens of one image or tile.
    "llava-1.5-7b": (21.0, 576),
    "siglip-384px-letterbox+7b": (21.5, 729),
    "dinosiglip-384px-letterbox+7b": (71.4, 729),
    "vila-7b-linear": (4.2, 576),
    "vila1.5-3b": (18.4, 196),
    "nvila-lite-8b": (61.1, 121),
    "nanovlm-222m": (1.8, 49),
    "nanovlm-450m": (11.8, 64),
    "qwen2.5-1.5b-lora": (3.9, 256),
}
FULL_SCALE = [name for name in presets() if not name.startswith("mini") and "-mini" not in name]


def millions(module):
    unique = {id(weight): weight.numel() for weight in module.parameters()}
    return sum(unique.values()) / 1e6


@functools.cache
def bones(model_json):
    return skeleton(ModelSpec.model_validate_json(model_json))


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_known_checkpoint_has_the_published_size(path):
    config = find_known_config(path)
    with torch.device("meta"):
        if "pixels" in known()[path]:
            model = new_model(config)
        else:
            model = AutoModelForCausalLM.from_config(config)
    assert millions(model) == pytest.approx(PUBLISHED[path], abs=0.06 + PUBLISHED[path] * 2e-5)


@pytest.mark.parametrize("name", FULL_SCALE)
def test_the_parts_of_a_preset_are_known_and_fit_and_its_patterns_meet_them(name):
    recipe = load_recipe(name)
    model = bones(recipe.model.model_dump_json())
    assert next(model.parameters()).device.type == "meta"
    if name in PROJECTORS:
        size, tokens = PROJECTORS[name]
        assert millions(model.projector) == pytest.approx(size, abs=0.06)
        assert model.blueprint.visual_tokens == tokens
    assert model.blueprint.visual_tokens < recipe.model.language.max_length
    for stage in recipe.stages:
        rates = {k: v for k, v in stage.train.items() if "last(" not in k}
        planned = plan_stage(model, rates, name)
        assert any(each.startswith("projector.") for each in planned.trained)


def test_fused_encoders_bring_their_widths_together():
    model = bones(load_recipe("prism-dinosiglip+7b").model.model_dump_json())
    assert model.projector.state_dict()[next(iter(model.projector.state_dict()))].shape[1] == 2176
    assert model.blueprint.patches == 729


def test_an_entry_is_named_by_a_preset_and_the_other_way_round():
    named = set()
    for name in FULL_SCALE:
        model = load_recipe(name).model
        named |= {model.language.path, model.vision.path, *(e.path for e in model.vision.more)}
    assert named == set(known())


def test_what_is_not_known_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match="did you mean `microsoft/phi-2`"):
        find_known_config("microsoft/phi2")
    with pytest.raises(ModelError, match="no preprocessing"):
        find_known_preprocessing("microsoft/phi-2")
