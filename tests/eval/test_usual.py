"""What a preset usually scores stands beside it, and only while it is still that preset."""

from lucida.apps.demo import show_scores
from lucida.core.recipe import load_recipe
from lucida.core.results import Results
from lucida.eval.usual import usual_scores, write_usual_scores

TASK = {
    "metric": "exact match",
    "interval": [0.5, 0.9],
    "n": 10,
    "chance": 0.1,
    "gain": None,
    "blind": None,
}
RESULTS = [{"attribute": TASK | {"score": score}} for score in (0.7, 0.9, 0.8)]


def test_the_spread_is_kept_and_shown(tmp_path, capsys):
    recipe, file = load_recipe("mini"), tmp_path / "usual.json"
    write_usual_scores(recipe, RESULTS, "3 seeds", file)
    usual = usual_scores(load_recipe("mini", ["seed=7", "precision=fp32", "blind=null"]), file)
    assert usual["runs"] == 3
    assert usual["tasks"] == {"attribute": {"lowest": 0.7, "median": 0.8, "highest": 0.9}}
    show_scores(Results.model_validate({"tasks": RESULTS[0]}), usual)
    said = "".join(capsys.readouterr())
    assert "80.0 (70.0 to 90.0)" in said and "of 3 seeds" in said


def test_another_recipe_has_other_scores(tmp_path):
    file = tmp_path / "usual.json"
    write_usual_scores(load_recipe("mini"), RESULTS, "3 seeds", file)
    assert usual_scores(load_recipe("mini", ["stages.sft.budget.steps=20"]), file) is None
    assert usual_scores(load_recipe("mini", ["model.projector={kind: linear}"]), file) is None
    assert usual_scores(load_recipe("mini-two-stage"), file) is None


def test_what_ships_was_measured_with_the_recipe_that_ships():
    assert usual_scores(load_recipe("mini")) is not None
