"""Schedules have the shape they promise; groups carry the stage's rates and spare vectors decay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lucida.core.errors import RecipeError
from lucida.core.spec import OptimSpec
from lucida.training.optim import make_optimizer, schedule, set_learning_rate, warmup_steps
from lucida.training.stage import apply_plan, plan_stage


def test_the_worked_example_of_the_docstring():
    spec = OptimSpec(schedule="linear", warmup=0.2)
    factors = [schedule(step, 10, spec) for step in range(10)]
    assert factors[:5] == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75])
    assert factors[-1] == pytest.approx(0.125)


@given(
    st.integers(2, 500),
    st.sampled_from(["cosine", "linear", "constant"]),
    st.floats(0, 0.9),
    st.floats(0, 1),
)
def test_factors_rise_to_one_and_fall_to_final(total, shape, warmup, final):
    spec = OptimSpec(schedule=shape, warmup=warmup, final=final)
    warm = warmup_steps(total, spec) if round(warmup * total) < total else None
    if warm is None:
        return
    factors = [schedule(step, total, spec) for step in range(total)]
    assert max(factors) == pytest.approx(1.0)
    assert all(0 < factor <= 1 + 1e-9 for factor in factors)
    assert factors[:warm] == sorted(factors[:warm])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    floor = 1.0 if shape == "constant" else final
    assert factors[-1] >= floor - 1e-9


def test_warmup_counts_steps_when_one_or_more():
    assert warmup_steps(100, OptimSpec(warmup=7)) == 7
    assert warmup_steps(100, OptimSpec(warmup=0.07)) == 7
    assert warmup_steps(10, OptimSpec(warmup=0)) == 0


def test_warmup_that_swallows_the_stage_is_refused():
    with pytest.raises(RecipeError, match="50 steps of warm-up"):
        schedule(0, 20, OptimSpec(warmup=50))


def test_groups_by_rate_and_decay():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "b": nn.Linear(2, 2)})
    plan = plan_stage(model, {"*": 1e-3, "b": 1e-4}, "stage")
    optimizer = make_optimizer(plan.trained, OptimSpec(weight_decay=0.1), model)
    found = {tuple(g["names"]): (g["peak"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        ("a.weight",): (1e-3, 0.1),
        ("a.bias", "norm.weight", "norm.bias"): (1e-3, 0.0),
        ("b.weight",): (1e-4, 0.1),
        ("b.bias",): (1e-4, 0.0),
    }
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(5e-4)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5])


def test_frozen_parameters_have_no_optimizer_state():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    plan = plan_stage(model, {"b": 1e-2}, "stage")
    apply_plan(model, plan.trained)
    optimizer = make_optimizer(plan.trained, OptimSpec(), model)
    kept = model["a"].weight.clone()
    model["b"](model["a"](torch.ones(1, 2))).sum().backward()
    optimizer.step()
    assert torch.equal(kept, model["a"].weight)
    assert set(optimizer.state) == set(model["b"].parameters())
