"""Text retention between stages: measured at every boundary once, refused where too much is lost,
and never felt by the training."""

import pytest
from test_loop import changed, records, weights
from tiny_training import watching

import lucida
from lucida.core.errors import RunError
from lucida.core.spec import Recipe
from lucida.eval.during_training import observers
from lucida.eval.retention import perplexity
from lucida.model.checkpoint import build, load
from lucida.training.loop import train_run
from lucida.training.observe import Observer


def guarded(recipe: Recipe, tmp_path, max_loss: float = 10.0) -> Recipe:
    """The recipe with a text whose perplexity may grow by so much."""
    text = tmp_path / "text.txt"
    text.write_text("A red star stands above two blue circles. " * 3)
    spec = {"file": str(text), "max_loss": max_loss, "each_stage": True}
    return changed(recipe, evaluation={"retention": spec})


def same(one, other) -> bool:
    one, other = weights(one), weights(other)
    return all(one[name].equal(other[name]) for name in one)


def test_text_is_measured_before_and_after_each_stage_without_a_trace(recipe, tmp_path):
    ours = guarded(recipe, tmp_path)
    folder = train_run(ours, tmp_path / "run", observers=observers(ours))
    assert same(folder, train_run(recipe, tmp_path / "alone"))
    found = records(folder, "retention")
    assert [(r["stage"], r["step"], r["total_step"]) for r in found] == [
        ("align", 0, 0),
        ("align", 5, 5),
        ("sft", 7, 12),
    ]
    first, align, sft = (each["retention"] for each in found)
    text = ours.evaluation.retention.file
    assert first["after"] == pytest.approx(perplexity(*build(ours.model), text), rel=1e-6)
    assert align["after"] == first["after"]  # the projector alone was trained
    assert sft["after"] == pytest.approx(perplexity(*load(folder), text), rel=1e-5)
    assert sft["after"] != first["after"]
    assert sft["before"] == first["after"] and sft["stage_before"] == align["after"]
    assert sft["lost"] == pytest.approx(sft["after"] / sft["before"] - 1)


class Losing(Observer):
    """Finds the next of its numbers at every boundary, and allows 1."""

    name, between_stages = "retention", True

    def __init__(self, *numbers):
        self.numbers, self.earlier = list(numbers), []

    def look(self, model, processor, step, earlier):
        assert not model.training
        self.earlier.append(len(earlier))
        return {"number": self.numbers.pop(0)}

    def require(self, found, origin):
        if found["number"] > 1:
            raise RunError("too much", given=found["number"], origin=origin)


def test_a_stage_that_loses_too_much_ends_the_run_before_the_next(recipe, tmp_path):
    folder = tmp_path / "run"
    losing = Losing(0, 2)
    with pytest.raises(RunError, match="too much"):
        train_run(recipe, folder, observers=[losing])
    assert losing.earlier == [0, 1]
    assert records(folder)[-1]["total_step"] == 5  # the second stage did not begin
    with pytest.raises(RunError, match="too much"):  # nor does it on a second try, unmeasured
        train_run(recipe, folder, observers=[Losing()])
    assert not (folder / "config.json").exists()


def test_after_the_last_stage_the_model_is_saved_first(recipe, tmp_path):
    with pytest.raises(RunError, match="too much"):
        train_run(recipe, tmp_path / "run", observers=[Losing(0, 0, 2)])
    load(tmp_path / "run")


def test_a_stopped_run_measures_no_boundary_again(recipe, tmp_path):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    ours = changed(recipe, {"evaluate_every": 4})
    with pytest.raises(Stopped):  # at step 4 of the first stage, behind the checkpoint of step 3
        train_run(ours, tmp_path / "run", observers=[*watching(stop), Losing(0)])
    gates = Losing(0.5, 1)
    folder = train_run(ours, tmp_path / "run", observers=[*watching(lambda *_: None), gates])
    assert gates.earlier == [1, 2]
    assert [r["retention"]["number"] for r in records(folder, "retention")] == [0, 0.5, 1]
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(RunError, match="no longer known"):
        train_run(ours, folder, observers=[*watching(lambda *_: None), Losing(0)])


def test_a_gate_that_nobody_keeps_is_refused(recipe, tmp_path):
    ours = guarded(recipe, tmp_path)
    with pytest.raises(RunError, match="nobody measures it here"):
        lucida.train(ours, tmp_path / "run")
    assert not any(each.between_stages for each in observers(recipe))
