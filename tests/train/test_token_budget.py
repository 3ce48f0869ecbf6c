"""Whole runs whose steps are budgets of tokens: rows of a fixed size change no loss."""

import json
import os
import signal

import pytest
from tiny_training import tiny_recipe, watching

from lucida.core.spec import Recipe
from lucida.data.order import Order
from lucida.training.loop import train_run
from lucida.training.stopping import Interrupted


def budget(parts, **batch) -> Recipe:
    """The tiny recipe, one stage of a few steps, with other batches."""
    values = tiny_recipe(parts, language="language-plain").model_dump(mode="json")
    values["stages"] = values["stages"][1:]
    values["stages"][0] |= {"budget": {"steps": 4}, "optim": {"warmup": 0.0}}
    values["stages"][0]["batch"] |= batch
    return Recipe.model_validate(values)


def steps(folder) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def test_rows_of_a_fixed_size_change_no_loss(parts, tmp_path):
    rows = steps(train_run(budget(parts, tokens=1024, row=512), tmp_path / "rows"))
    passes = steps(train_run(budget(parts, tokens=1024, accumulate=2), tmp_path / "passes"))
    assert [r["samples"] for r in rows] == [r["samples"] for r in passes]
    for one, other in zip(rows, passes, strict=True):
        assert abs(one["loss"] - other["loss"]) < 1e-5
        assert one["sources"] == other["sources"]
    assert rows[-1]["tokens"] <= 4 * 1024
    assert (tmp_path / "rows" / "lengths-sft.npz").exists()


def test_a_stopped_run_goes_on_as_if_it_had_not(parts, tmp_path):
    batch = {"tokens": 256, "row": 128}
    whole = steps(train_run(budget(parts, **batch), tmp_path / "whole"))
    recipe = budget(parts, **batch)
    calls = iter(range(9))

    def stop(*_):
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    stage = recipe.stages[0].model_copy(update={"evaluate_every": 1})
    watched = recipe.model_copy(update={"stages": [stage]})
    with pytest.raises(Interrupted):
        train_run(watched, tmp_path / "cut", observers=watching(stop))
    train_run(watched, tmp_path / "cut", observers=watching(stop))
    again = steps(tmp_path / "cut")
    assert [(r["loss"], r["sources"]) for r in again] == [(r["loss"], r["sources"]) for r in whole]


def test_a_resumed_run_plans_only_the_window_it_stands_in(parts, tmp_path, monkeypatch):
    """And a stage may end with its sources: pictures come twice, then there is nothing left."""
    monkeypatch.setattr("lucida.data.order.WINDOW", 8)
    recipe = budget(parts, tokens=256, row=128)
    values = recipe.model_dump(mode="json")
    values["stages"][0]["mixture"]["budgets"] = {"pictures": {"epochs": 2}}
    values["stages"][0] |= {"budget": {"steps": 500}, "checkpoint_every": 5, "evaluate_every": 8}
    recipe = Recipe.model_validate(values)

    def stop(*_):
        raise KeyError("stop here")

    with pytest.raises(KeyError):
        train_run(recipe, tmp_path / "cut", observers=watching(stop))
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").iterdir()
    position = json.loads((checkpoint / "state.json").read_text())["position"]
    assert position["window"] > 0 < position["window_rows"] <= 2 * position["step"]
    planned = []
    packed = Order._packed
    monkeypatch.setattr(Order, "_packed", lambda o, w: planned.append(w) or packed(o, w))
    again = steps(train_run(recipe, tmp_path / "cut", observers=watching(lambda *_: {})))
    assert planned[0] == position["window"] == min(planned)
    whole = steps(train_run(recipe, tmp_path / "whole", observers=watching(lambda *_: {})))
    assert [r["loss"] for r in again] == [r["loss"] for r in whole]
    assert 44 <= whole[-1]["samples"] <= 46  # 23 pictures twice, less the rows of no whole step
