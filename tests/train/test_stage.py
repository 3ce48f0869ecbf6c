"""Patterns become learning rates; idle ones are refused; frozen means untouched."""

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lucida.core.errors import RecipeError
from lucida.training.stage import ancestry, apply_plan, describe, matches, plan_stage


class Small(nn.Module):
    """The module names of a VLM, a few weights each, with a tied head."""

    def __init__(self):
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.projector = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4))
        self.language = nn.ModuleDict(
            {
                "embed": nn.Embedding(7, 4),
                "layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
                "norm": nn.LayerNorm(4),
                "lm_head": nn.Linear(4, 7, bias=False),
            }
        )
        self.language["lm_head"].weight = self.language["embed"].weight


def rates(train):
    return {n: lr for n, (_, lr) in plan_stage(Small(), train, "stage").trained.items()}


def test_a_bare_name_covers_everything_below_and_the_rest_is_frozen():
    assert set(rates({"projector": 1e-3})) == {
        "projector.0.weight",
        "projector.0.bias",
        "projector.2.weight",
        "projector.2.bias",
    }


def test_the_last_match_wins():
    found = rates({"language": 1e-4, "language.norm": 5e-4, "*.bias": "frozen"})
    assert found["language.norm.weight"] == 5e-4
    assert found["language.layers.1.weight"] == 1e-4
    assert not any(name.endswith("bias") for name in found)


def test_wildcards_reach_single_layers():
    found = rates({"language.layers.[12]": 1e-4})
    assert {name.rsplit(".", 1)[0] for name in found} == {"language.layers.1", "language.layers.2"}


def test_tied_weights_answer_to_both_names_and_train_once():
    assert list(rates({"language.lm_head": 1e-4})) == ["language.embed.weight"]


@pytest.mark.parametrize(
    ("pattern", "near"), [("projektor", "projector"), ("language.layer", "language.layers")]
)
def test_an_idle_pattern_is_refused_with_the_nearest_names(pattern, near):
    with pytest.raises(RecipeError, match="matches no parameter") as error:
        rates({"language": 1e-4, pattern: 1e-3})
    assert pattern in str(error.value) and near in str(error.value)


def test_quantised_weights_do_not_train_by_themselves():
    model = Small()
    packed = torch.zeros(4, 2, dtype=torch.uint8)
    model.language["layers"][1].weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(
        RecipeError, match=r"language\.layers\.1\.weight is quantised.*uint8"
    ) as error:
        plan_stage(model, {"language": 1e-4}, "stage")
    assert "lora" in str(error.value)
    plan = plan_stage(model, {"language": 1e-4, "*.layers": "frozen"}, "stage")
    apply_plan(model, plan.trained)


@pytest.mark.parametrize("rate", [0.0, -1e-4, float("nan"), float("inf")])
def test_a_learning_rate_is_above_zero(rate):
    with pytest.raises(RecipeError, match="learning rate"):
        rates({"projector": rate})


def test_a_stage_in_which_nothing_trains_is_refused():
    with pytest.raises(RecipeError, match="nothing trains"):
        rates({"projector": 1e-3, "*": "frozen"})


def test_frozen_parts_need_no_gradient_and_leave_training_mode():
    model = Small().train()
    apply_plan(model, plan_stage(model, {"projector.2": 1e-3}, "stage").trained)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "projector.2.weight",
        "projector.2.bias",
    ]
    assert not any(module.training for module in model.vision.modules())
    assert model.projector.training and not model.projector[0].training
    before = model.vision[1].running_mean.clone()
    model.vision(torch.randn(5, 2))
    assert torch.equal(before, model.vision[1].running_mean)


def test_the_table_counts_each_parameter_once():
    model = Small()
    plan = plan_stage(model, {"*": "frozen", "language": 1e-4, "language.norm": 1e-3}, "stage")
    assert sum(row[3] for row in plan.rows) == sum(p.numel() for p in model.parameters())
    assert ("language.norm", "0.001", "2", "8") in describe(plan)


names = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=4), min_size=1, max_size=5)


@given(names, st.data())
def test_every_prefix_of_a_name_matches_it_and_a_cut_word_does_not(parts, data):
    name = ".".join(parts)
    for prefix in ancestry(name):
        assert matches(prefix, name)
        assert matches(prefix + "*", name)
    assert matches("*", name)
    assert not matches(name + "x", name)
    word = data.draw(st.sampled_from(parts))
    if name.startswith(word) and name != word and not name.startswith(word + "."):
        assert not matches(word, name)
