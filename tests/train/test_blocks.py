"""The last k layers of anything, and gradients that end where training does."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    ResNetConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

from lucida.core.errors import RecipeError
from lucida.core.spec import Recipe
from lucida.data.collate import collate
from lucida.data.stage import parts as parts_of
from lucida.model.checkpoint import build
from lucida.training.blocks import blocks
from lucida.training.objective import supervised_loss
from lucida.training.stage import apply_plan, plan_stage

WIDE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SQUARE = {"image_size": 16, "patch_size": 8}
TRANSFORMERS = [
    SiglipVisionConfig(**WIDE, **SQUARE),
    CLIPVisionConfig(**WIDE, **SQUARE),
    Dinov2Config(**WIDE, **SQUARE),
    ViTConfig(**WIDE, **SQUARE),
    LlamaConfig(**WIDE, vocab_size=30),
    Qwen2Config(**WIDE, vocab_size=30, num_key_value_heads=2),
    GPTNeoXConfig(**WIDE, vocab_size=30),
    PhiConfig(**WIDE, vocab_size=30),
    OPTConfig(
        hidden_size=16, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2, vocab_size=30
    ),
    GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=30),
    MixtralConfig(**WIDE, vocab_size=30, num_key_value_heads=2, num_local_experts=4),
]
TWO_STAGES = [
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2]),
    ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2),
    SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 2]),
]


def made(config) -> nn.Module:
    language = hasattr(config, "vocab_size")
    return (AutoModelForCausalLM if language else AutoModel).from_config(config)


@pytest.mark.parametrize("config", TRANSFORMERS, ids=lambda config: config.model_type)
def test_the_layers_of_a_transformer(config):
    found = list(blocks(made(config)))
    assert [name.rsplit(".", 1)[1] for name in found] == ["0", "1", "2"]
    assert len({name.rsplit(".", 1)[0] for name in found}) == 1


@pytest.mark.parametrize("config", TWO_STAGES, ids=lambda config: config.model_type)
def test_blocks_count_through_the_stages(config):
    found = list(blocks(made(config)))
    numbers = [[part for part in name.split(".") if part.isdigit()] for name in found]
    assert numbers == [["0", "0"], ["1", "0"], ["1", "1"]]


class Pair(nn.Module):
    """Two encoders side by side, a module without layers, and a language model."""

    def __init__(self):
        super().__init__()
        self.vision = nn.ModuleList([nn.Sequential(made(TRANSFORMERS[i])) for i in (0, 1)])
        self.projector = nn.Linear(3, 4)
        self.language = made(TRANSFORMERS[4])


def test_the_last_layers_are_a_pattern():
    train = {"language": 1e-5, "language.last(2)": 1e-4, "language.last( 1 )": "frozen"}
    plan = plan_stage(Pair(), train, "stage")
    rates = {name: rate for name, (_, rate) in plan.trained.items()}
    assert {name.split(".")[3] for name, rate in rates.items() if rate == 1e-4} == {"1"}
    assert "language.model.norm.weight" in rates  # no layer
    assert not any(".layers.2." in name for name in rates)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("language.last(4)", "at most 3, got 4"),
        ("language.last(0)", "from 1 on.*got 0"),
        ("language.last()", "from 1 on.*got nothing"),
        ("language.last(-1)", "from 1 on.*got -1"),
        ("langage.last(1)", "nearest names: language"),
        ("projector.last(1)", "at most 0, got 1"),
        ("vision.last(1)", r"holds 2 models.*vision\.0\.0\.last\(1\), vision\.1\.0\.last\(1\)"),
    ],
)
def test_last_layers_that_are_not_there_are_refused(pattern, words):
    with pytest.raises(RecipeError, match=words):
        plan_stage(Pair(), {pattern: 1e-4}, "stage")


@pytest.fixture
def tiny(recipe):
    """A tiny VLM and a packed batch of pictures."""
    model, processor = build(recipe.model)
    source, _ = parts_of(recipe.stages[0].mixture.sources["pictures"], "pictures")
    tokens = [processor.encode(source[index]) for index in range(3)]
    batch = collate(tokens, True, processor.tokenizer.pad_token_id, processor.pixels)
    return model, batch


def leaves(loss: torch.Tensor) -> set[int]:
    """Identities of the parameters that the graph of a loss accumulates gradients for."""
    found, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [each for each, _ in node.next_functions]
    return found


@pytest.mark.parametrize(
    "train",
    [
        {"projector": 1e-3},
        {"language.last(1)": 1e-3},
        {"vision.last(1)": 1e-3, "*norm*": "frozen"},
        {"language.model.norm": 1e-3},
    ],
    ids=str,
)
def test_only_what_trains_is_in_the_graph(tiny, train):
    model, batch = tiny
    plan = plan_stage(model, train, "stage")
    apply_plan(model, plan.trained)
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    loss, _ = supervised_loss(model, batch)
    assert leaves(loss) == {id(parameter) for parameter, _ in plan.trained.values()}
    first, second = (seen[f"language.model.layers.{layer}"] for layer in (0, 1))
    differentiated = [each.requires_grad for each in (first, second)]
    if "projector" in train or "vision.last(1)" in train:
        assert differentiated == [True, True]  # the gradient has to pass through
    else:
        assert differentiated == [False, "language.last(1)" in train]
    assert seen["vision.model.encoder.layers.0"].requires_grad is False
    loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_a_stage_leaves_frozen_weights_alone_to_the_bit(tiny):
    model, batch = tiny
    before = copy.deepcopy(model.state_dict())
    plan = plan_stage(model, {"vision.last(1)": 1e-2, "language.last(1)": 1e-2}, "stage")
    apply_plan(model, plan.trained)
    optimizer = torch.optim.AdamW([p for p, _ in plan.trained.values()], lr=1e-2)
    for _ in range(3):
        supervised_loss(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(optimizer.state) == len(plan.trained)
    unchanged = [name for name, value in model.state_dict().items() if before[name].equal(value)]
    assert {name for name in before if name not in plan.trained} == set(unchanged)


def test_a_recipe_may_name_them(recipe):
    values = recipe.model_dump(mode="json")
    values["stages"][1]["train"] = {"vision.last(2)": 2e-6, "language": 2e-5}
    assert Recipe.model_validate(values).stages[1].train["vision.last(2)"] == 2e-6
