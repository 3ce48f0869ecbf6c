"""What counts as diverged, and what becomes of such a run."""

import math
import random

import pytest
from test_loop import records

from lucida.core.errors import RunError
from lucida.core.runs import RunFolder, list_runs
from lucida.core.spec import Recipe
from lucida.model.checkpoint import load
from lucida.training.divergence import Diverged, verdict
from lucida.training.loop import train_run
from lucida.training.step import Stepper

WORDS = 512
NOISE = random.Random(0)


def noisy(*levels, steps=100, spread=0.2):
    """Losses that go straight from level to level."""
    found = []
    for at in range(steps):
        place = at / steps * (len(levels) - 1)
        low = levels[int(place)] + (levels[int(place) + 1] - levels[int(place)]) * (place % 1)
        found.append(low * (1 + spread * (NOISE.random() - 0.5)))
    return found


@pytest.mark.parametrize(
    "losses",
    [
        noisy(3, 1), noisy(1, 1), noisy(6.5, 6.3), noisy(3, 2.9, 2.95, spread=0.5),
        noisy(0.1, 0.1, spread=1.5), [3.0, 2.0], [2.0, 2.5], [5.0], [], noisy(9.0, 7.0),
        noisy(3, 4, steps=12, spread=0.05),
    ],
)  # fmt: skip
def test_learning_slowly_or_noisily_is_not_divergence(losses):
    assert verdict(losses, WORDS) is None


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (noisy(3, 2, 9256), "over the last tenth"),
        (noisy(1, 0.5, 1.6), "over the last tenth"),
        ([*noisy(3, 1)[:-1], math.inf], "inf"),
        ([7.5] * 40, "guessing every token alike would have 6.238"),
        ([3.0, 9256.0], "9,256"),
    ],
)
def test_a_loss_that_ends_surely_above_where_it_began_or_above_guessing_is(losses, words):
    assert words in verdict(losses, WORDS)


def test_losses_of_pairs_have_no_bound_by_guessing():
    assert verdict([25.0] * 40, None) is None
    assert "over the last tenth" in verdict([25.0] * 36 + [80.0] * 4, None)


def hot(recipe, rate, stage=-1):
    values = recipe.model_dump(mode="json")
    values["stages"][stage]["train"] = {"projector": rate, "language": rate}
    values["stages"][stage]["optim"] = {"schedule": "constant", "warmup": 0, "clip": None}
    return Recipe.model_validate(values)


def test_a_run_that_diverges_is_saved_and_does_not_end_as_trained(recipe, tmp_path, capsys):
    recipe = hot(recipe, 3.0)
    folder = tmp_path / "run"
    for _ in range(2):  # asked again it says the same, at once
        with pytest.raises(Diverged, match="can be evaluated"):
            train_run(recipe, folder)
    assert "WARNING: stage sft has diverged" in capsys.readouterr().err
    [row] = records(folder, "diverged")
    assert row["stage"] == "sft"
    load(folder)
    [summary] = list_runs(folder)
    assert summary.state == "diverged" and "training diverged" in summary.problem


def test_a_stage_that_diverged_and_was_mended_by_the_next_is_told(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    run = RunFolder(folder)
    train_run(recipe, folder)
    first = {"stage": "align", "step": 5, "total_step": 5, "diverged": "its loss"}
    rows = run.metrics.read()
    run.metrics.keep(lambda row: False)
    for row in [first, *rows]:
        run.metrics.append(row)
    assert run.diverged is None
    assert list_runs(folder)[0].state == "trained"


def test_a_number_that_is_not_finite_leaves_a_run_that_is_called_diverged(
    recipe, tmp_path, monkeypatch
):
    def step(*given, **named):
        raise Diverged("training stopped: the weights of x are not finite")

    monkeypatch.setattr(Stepper, "step", step)
    with pytest.raises(RunError, match="not finite"):
        train_run(recipe, tmp_path / "run")
    [summary] = list_runs(tmp_path)
    assert summary.state == "diverged" and "not finite" in summary.problem
