"""The end of a stage: a named validation, the best weights, an early end, the mean of the last."""

import json

import pytest
import torch
from tiny_training import tiny_recipe, watching, write_pictures

from lucida.core.errors import RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.model.checkpoint import load
from lucida.training.ending import Ending, average
from lucida.training.loop import train_alone
from lucida.training.observe import Observer


def recipe_with(parts, steps=6, **changes):
    """One stage that trains the projector and the language model."""
    values = tiny_recipe(parts, "language-plain").model_dump(mode="json")
    stage = values["stages"][-1] | {"budget": {"steps": steps}, "checkpoint_every": None}
    stage["optim"] = {"schedule": "constant", "warmup": 0}
    values["stages"] = [stage | changes]
    values["evaluation"]["tasks"] = ["attribute"]
    return Recipe.model_validate(values)


def weights_of(folder):
    return dict(load(folder)[0].state_dict())


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Scripted(Observer):
    """Scores that a test makes up, by the number of the look."""

    def __init__(self, scores):
        self.scores = scores

    def look(self, model, processor, step, earlier=()):
        score = self.scores[step - 1]
        return {"step": step, "tasks": {"attribute": {"score": score, "interval": [0, 1], "n": 1}}}

    def is_higher_better(self, score):
        return True


def scored(parts, weights, patience=None, steps=6, **more):
    ending = {"weights": weights, "by": "attribute", "patience": patience} | more
    return recipe_with(parts, steps, evaluate_every=1, ending=ending)


def test_best_weights_are_those_of_the_best_look(parts, tmp_path):
    """Exactly the weights of a run that is over after that look."""
    looks = [Scripted([0.1, 0.5, 0.9, 0.2, 0.9, 0.3])]
    train_alone(scored(parts, "best"), tmp_path / "best", observers=looks)
    train_alone(recipe_with(parts, 3), tmp_path / "three")
    assert_equal(weights_of(tmp_path / "best"), weights_of(tmp_path / "three"))
    rows = RunFolder(tmp_path / "best").logged
    (told,) = [row["ending"] for row in rows if "ending" in row]
    assert told["steps"] == [3]
    assert not (tmp_path / "best" / "kept" / "sft").exists()


def test_patience_ends_the_stage(parts, tmp_path):
    looks = [Scripted([0.1, 0.5, 0.4, 0.3, 0.9, 0.9])]
    train_alone(scored(parts, "last", patience=2), tmp_path / "run", observers=looks)
    rows = RunFolder(tmp_path / "run").logged
    assert max(row["step"] for row in rows) == 4
    train_alone(recipe_with(parts, 4), tmp_path / "four")
    assert_equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "four"))


def test_the_mean_is_the_mean_of_the_last_weights(parts, tmp_path):
    ending = {"weights": "average", "last": 2, "every": 2}
    train_alone(recipe_with(parts, 7, ending=ending), tmp_path / "mean")
    for steps in (4, 6):
        train_alone(recipe_with(parts, steps), tmp_path / str(steps))
    given = weights_of(tmp_path / "mean")
    first, second = (weights_of(tmp_path / each) for each in ("4", "6"))
    for name, value in given.items():
        expected = ((first[name].double() + second[name].double()) / 2).to(value.dtype)
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("stopped_after", [2, 4, 5])
def test_a_stopped_run_ends_with_the_same_weights(parts, tmp_path, stopped_after):
    recipe = scored(parts, "best", patience=4, steps=8)
    stage = recipe.stages[0].model_copy(update={"checkpoint_every": 2})
    recipe = recipe.model_copy(update={"stages": [stage]})
    scores = [0.1, 0.2, 0.9, 0.2, 0.3, 0.3, 0.1, 0.95]
    train_alone(recipe, tmp_path / "whole", observers=[Scripted(scores)])

    class Stop(Exception):
        pass

    def stop(model, processor, step):
        if step > stopped_after:
            raise Stop
        return

    class Stopping(Scripted):
        def look(self, *args, **more):
            stop(None, None, args[2])
            return super().look(*args, **more)

    with pytest.raises(Stop):
        train_alone(recipe, tmp_path / "half", observers=[Stopping(scores)])
    train_alone(recipe, tmp_path / "half", observers=[Scripted(scores)])
    assert_equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "half"))


def test_the_validation_loss_is_of_the_named_records(parts, tmp_path):
    """Of all of them once: the loss of a file given as such is the mean of its records' losses."""
    file = write_pictures(tmp_path / "held", 7)
    named = {"source": {"kind": "llava", "path": str(file)}}
    run = train_alone(recipe_with(parts, 2, validation=named), tmp_path / "run")
    (loss,) = [row["validation_loss"] for row in RunFolder(run).logged if "validation_loss" in row]

    from lucida.data.collate import collate
    from lucida.data.sources import open_source
    from lucida.training.objective import supervised_loss

    recipe = RunFolder(run).recipe
    model, processor = load(run)
    processor = processor.for_stage(recipe.resolve(recipe.stages[0]))
    source = open_source(recipe.stages[0].validation.source)
    summed, count = 0.0, 0
    with torch.no_grad():
        for index in range(len(source)):
            tokens = processor.encode(source[index])
            batch = collate([tokens], True, processor.tokenizer.pad_token_id, processor.pixels)
            each, many = supervised_loss(model, batch)
            summed, count = summed + each.item(), count + many
    assert loss == pytest.approx(summed / count, rel=1e-5)
    assert json.loads((run / "inputs.json").read_text())["stages.sft.validation.source"]


def test_a_share_is_kept_out(parts, tmp_path, capsys):
    train_alone(recipe_with(parts, 1, validation={"share": 0.25}), tmp_path / "run")
    assert "validation loss: 6 samples, of records that do not train (6 of pictures)" in (
        capsys.readouterr().err
    )


def test_few_records_are_not_asked_again_and_again(parts, tmp_path, capsys):
    """One of 24 records is held out: a validation loss is of one batch, not of 64 draws of it."""
    train_alone(recipe_with(parts, 1), tmp_path / "run")
    assert "validation loss: 4 samples, of records that do not train (1 of pictures)" in (
        capsys.readouterr().err
    )


def test_looks_are_compared_by_the_margin():
    from lucida.core.spec import EndingSpec

    spec = EndingSpec(weights="best", margin=0.1, patience=2)
    ending = Ending(spec, None, higher=False)
    assert [ending.note(1, 1.0), ending.note(2, 0.95), ending.note(3, 0.85)] == [True, False, True]
    assert not ending.note(4, float("nan"))
    assert not ending.spent
    assert not ending.note(5, None)
    assert ending.spent
    assert ending.best == (3, 0.85)


def test_the_mean_rounds_once(tmp_path):
    from safetensors.torch import save_file

    values = [torch.tensor([1.0, 2.0]) / 3, torch.tensor([5.0, 7.0]) / 3, torch.tensor([0.1, 0.2])]
    files = []
    for number, value in enumerate(values):
        files.append(tmp_path / f"{number}.safetensors")
        save_file({"w": value, "count": torch.tensor(number)}, files[-1])
    found = average(files)
    assert torch.equal(found["w"], (sum(v.double() for v in values) / 3).float())
    assert found["count"] == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ending": {"weights": "last"}}, "changes nothing"),
        ({"ending": {"weights": "average"}}, "`every` belongs to"),
        ({"ending": {"weights": "best"}}, "set validate_every"),
        ({"ending": {"weights": "best", "by": "vqa"}, "evaluate_every": 1}, "no task of"),
        ({"validation": {}}, "exactly one of"),
        ({"validation": {"share": 0.1, "source": {"kind": "text", "path": "x"}}}, "exactly one of"),
    ],
)
def test_what_fits_nothing_is_refused(parts, changes, told):
    if "ending" in changes and changes["ending"].get("by") is None:
        changes = changes | {"validate_every": None}
    with pytest.raises(ValueError, match=told):
        recipe_with(parts, **changes)


def test_the_training_source_does_not_validate(parts):
    source = tiny_recipe(parts).stages[0].mixture.sources["pictures"].model_dump(mode="json")
    with pytest.raises(ValueError, match="what trains as `pictures`"):
        recipe_with(parts, validation={"source": source | {"weight": 3.0}})


def test_a_score_needs_somebody_who_measures_it(parts, tmp_path):
    with pytest.raises(RunError, match="nobody measures it"):
        train_alone(scored(parts, "best"), tmp_path / "run")


def test_observers_of_tests_still_look(parts, tmp_path):
    train_alone(
        recipe_with(parts, 1, evaluate_every=1),
        tmp_path / "run",
        observers=watching(lambda model, processor, step: {"step": step}),
    )
