"""Stages with a template, a mask, a budget of their own; and somebody who looks on."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import watching

from lucida.core.errors import DataError, RecipeError
from lucida.core.spec import BudgetSpec, OptimSpec, Recipe
from lucida.data.sources.world import WorldSource
from lucida.model.checkpoint import load
from lucida.model.vlm import LucidaModel
from lucida.training import stage_run
from lucida.training.budget import Horizon, horizon
from lucida.training.loop import train_run
from lucida.training.optim import schedule, schedule_by_share
from lucida.training.state import Position


def changed(recipe: Recipe, *stages: dict, **values) -> Recipe:
    """The recipe with other values of each stage; a value that is a dict replaces the old one."""
    whole = recipe.model_dump(mode="json") | values
    for stage, more in zip(whole["stages"], stages, strict=True):
        stage |= more
    return Recipe.model_validate(whole)


def records(folder, key="loss") -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def same_bits(a, b) -> bool:
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


# Templates and masks.


def test_a_stage_writes_its_own_template(recipe, tmp_path):
    plain = train_run(changed(recipe, {"template": "plain"}, {}), tmp_path / "plain")
    usual = train_run(recipe, tmp_path / "usual")
    lengths = [[record["tokens"] for record in records(folder)] for folder in (plain, usual)]
    first, second = ([b - a for a, b in itertools.pairwise([0, *each])] for each in lengths)
    assert all(a != b for a, b in zip(first[:5], second[:5], strict=True))
    assert first[5:] == second[5:]
    _, processor = load(plain)
    assert processor.template == recipe.model.language.template  # the last stage's is the model's


def test_the_saved_model_is_asked_as_it_was_last_trained(recipe, tmp_path):
    last = {"template": "vicuna", "attention_mask": "image_block"}
    language = recipe.model.language.model_copy(update={"max_length": 300})
    model = recipe.model.model_copy(update={"language": language})
    ours = changed(recipe.model_copy(update={"model": model}), {}, last)
    folder = train_run(ours, tmp_path / "run")
    model, processor = load(folder)
    assert (processor.template, model.mask) == ("vicuna", "image_block")
    spec = model.config.model_spec
    assert (spec.language.template, spec.attention_mask) == ("vicuna", "image_block")
    assert set(processor.end_tokens()) <= set(model.generation_config.eos_token_id)


def test_a_stage_attends_by_its_own_mask(recipe, tmp_path, monkeypatch):
    seen, hidden = [], LucidaModel.hidden

    def watched(model, batch, mask=None, **more):
        seen.append(mask)
        return hidden(model, batch, mask, **more)

    monkeypatch.setattr(LucidaModel, "hidden", watched)
    ours = changed(recipe, {"attention_mask": "image_block"}, {})
    folder = train_run(ours, tmp_path / "run")
    assert list(dict.fromkeys(seen)) == ["image_block", "causal"]
    assert load(folder)[0].mask == "causal"
    model = recipe.model.model_copy(update={"attention_mask": "image_block"})
    other = train_run(recipe.model_copy(update={"model": model}), tmp_path / "other")
    first, same = records(folder), records(other)
    assert [a["loss"] for a in first[:5]] == [b["loss"] for b in same[:5]]


def test_a_template_that_the_tokenizer_cannot_write_is_refused_before_training(recipe, tmp_path):
    with pytest.raises(DataError, match=r"`chatml` needs a token.*im_start"):
        train_run(changed(recipe, {}, {"template": "chatml"}), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("mask", ["prefix", "mutual"])
def test_shared_images_under_a_mask_that_asks_whole_are_refused_before_the_first_stage(
    recipe, tmp_path, mask
):
    world = {"kind": "world", "tasks": ["presence"], "count": 8, "questions": 3}
    last = {"attention_mask": mask, "mixture": {"sources": {"world": world}}}
    name = recipe.stages[1].name
    with pytest.raises(RecipeError) as refused:
        train_run(changed(recipe, {}, last), tmp_path / "run")
    key = f"stages.{name}.mixture.sources.world.questions=1"
    assert f"set {key}, or choose another stages.{name}.attention_mask" in str(refused.value)
    assert "3 questions behind an image" in str(refused.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    # What is refused, asked one by one, is not; nor is the same under the model's usual mask.
    world["questions"] = 1
    one, three = ({"world": WorldSource(["presence"], questions=count)} for count in (1, 3))
    stage_run.check_mask(changed(recipe, {}, last), 1, "stage", one)
    stage_run.check_mask(recipe, 1, "stage", three)
    model = recipe.model.model_copy(update={"attention_mask": mask})
    with pytest.raises(RecipeError, match=r"another model\.attention_mask"):
        stage_run.check_mask(recipe.model_copy(update={"model": model}), 1, "stage", three)


# Budgets.


def test_a_budget_of_tokens_ends_with_the_step_that_reaches_it(recipe, tmp_path):
    folder = train_run(changed(recipe, {"budget": {"tokens": 900}}, {}), tmp_path / "run")
    align = [record for record in records(folder) if record["stage"] == "align"]
    assert align[-2]["tokens"] < 900 <= align[-1]["tokens"]
    rates = [record["lr"] for record in align]
    assert rates[-1] < rates[1] < 1e-2


def test_a_budget_of_minutes_follows_the_clock(recipe, tmp_path, monkeypatch):
    """A clock that moves a second at every look: the stage ends with the time, at its last rate."""
    now = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setattr(stage_run, "time", clock)
    ours = changed(recipe, {"budget": {"minutes": 1}}, {"budget": {"steps": 1}})
    folder = train_run(ours, tmp_path / "run")
    align = [record for record in records(folder) if record["stage"] == "align"]
    rates = [record["lr"] for record in align]
    assert len(align) == 15  # four looks at the clock in a step of 60 seconds in all
    assert rates[-1] < 0.1 * max(rates) and rates.index(max(rates)) <= 1
    assert [record["step"] for record in records(folder)][-1] == 1


def test_a_run_by_the_clock_goes_on_with_the_time_that_is_left(recipe, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(*arguments):
        raise Stopped

    now = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setattr(stage_run, "time", clock)
    ours = changed(
        recipe,
        {"budget": {"minutes": 1}, "evaluate_every": 7, "checkpoint_every": 6},
        {"budget": {"steps": 1}},
    )
    with pytest.raises(Stopped):
        train_run(ours, tmp_path / "run", observers=watching(stop))
    folder = train_run(ours, tmp_path / "run", observers=watching(lambda *_: None))
    assert sum(record["stage"] == "align" for record in records(folder)) == 15


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]))
def test_the_two_schedules_agree(step, final, shape):
    spec = OptimSpec(schedule=shape, warmup=0.0, final=final)
    assert schedule_by_share(step / 200, step, spec) == pytest.approx(
        schedule(step, 200, spec) if step < 200 else (1.0 if shape == "constant" else final)
    )


def test_a_warm_up_of_steps_counts_steps_by_the_clock_too():
    spec = OptimSpec(schedule="constant", warmup=4)
    factors = [schedule_by_share(0.01 * step, step, spec) for step in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    spec = OptimSpec(schedule="linear", warmup=0.5)
    assert [schedule_by_share(share, 9, spec) for share in (0, 0.25, 0.5, 0.75, 1)] == (
        pytest.approx([0.01, 0.5, 1, 0.5, 0])
    )


def test_the_end_of_a_stage():
    assert horizon(BudgetSpec(steps=4), 4) == Horizon(steps=4)
    assert horizon(BudgetSpec(tokens=9), None) == Horizon(tokens=9)
    assert horizon(BudgetSpec(minutes=1.5), None) == Horizon(seconds=90)
    position = Position(step=2, stage_tokens=9, stage_seconds=45.0, tokens=100, seconds=1e6)
    shares = [Horizon(steps=4), Horizon(tokens=9), Horizon(seconds=90)]
    assert [each.share(position) for each in shares] == [0.5, 1, 0.5]
    assert [each.over(position) for each in shares] == [False, True, False]
    assert [str(each) for each in shares] == ["4 steps", "9 tokens", "1.5 minutes"]


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 2}, {"tokens": 0}, {"minutes": -1}])
def test_a_budget_is_one_number_above_zero(budget):
    with pytest.raises(ValueError, match=r"exactly one|greater than 0"):
        BudgetSpec.model_validate(budget)


# Looks.


def test_who_looks_on_leaves_no_trace(recipe, tmp_path):
    seen = []

    def watch(model, processor, step):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(step)
        model.train()
        seen.append((step, processor.template))
        return {"score": torch.tensor(0.5)} if step < 8 else None

    often = {"evaluate_every": 2}
    ours = changed(recipe, often | {"template": "plain"}, often)
    watched = train_run(ours, tmp_path / "watched", observers=watching(watch))
    alone = train_run(changed(recipe, {"template": "plain"}, {}), tmp_path / "alone")
    assert same_bits(watched, alone)
    assert seen == [(2, "plain"), (4, "plain"), (7, "qa"), (9, "qa"), (11, "qa")]
    found = records(watched, "evaluation")
    assert [(each["total_step"], each["evaluation"]) for each in found] == [
        (step, {"score": 0.5}) for step in (2, 4, 7)
    ]


def test_nobody_looking_on_is_said(recipe, tmp_path, capfd):
    train_run(changed(recipe, {"evaluate_every": 2}, {}), tmp_path / "run")
    assert "evaluate_every has no effect" in capfd.readouterr().err
