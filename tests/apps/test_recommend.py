"""Advice from published tables: what fits, what is passed over and why, and the recipe made."""

import json

import pytest
from typer.testing import CliRunner

from lucida.apps import recommend as r
from lucida.apps.command import app
from lucida.apps.plan import estimate
from lucida.apps.plan.devices import DEVICES, Device
from lucida.apps.verbs import before as verbs  # noqa: F401 - puts the verb there
from lucida.core.document import read_document
from lucida.core.errors import RecipeError, RunError
from lucida.core.recipe import load_recipe, presets
from lucida.study.design import STUDIES

EVIDENCE = read_document(STUDIES / "evidence.yaml").data
CPU = Device("this CPU", "fp32", 1e11, 0.5, None, gpu=False)
PEAK = {"7b": 40 * 2**30, "13b": 70 * 2**30, "0.5b": 9 * 2**30}


def plan(recipe, device, count=1):
    """One second a step; a peak that only the size decides, halved by a second pass."""
    size = next(
        (peak for end, peak in PEAK.items() if end in recipe.model.language.path.lower()),
        PEAK["7b"],
    )
    stages = []
    for stage in recipe.stages:
        fits = size < device.memory if device.memory else True
        passes = {} if fits else {"single": 2 if size / 2 < device.memory else None}
        stages.append(
            {"name": stage.name, "samples_per_step": stage.batch.samples, "seconds_per_step": 1.0,
             "steps": stage.budget.steps, "hours": (stage.budget.steps or 0) / 3600,
             "memory": {"single": {"peak": size}}, "fits_with": passes}
        )  # fmt: skip
    return {"stages": stages}


@pytest.fixture(autouse=True)
def planned(monkeypatch):
    monkeypatch.setattr(estimate, "plan_recipe", plan)


def advise(hours, tasks=(), device=DEVICES["a100-80g"], results=None):
    return r.recommend(hours, list(tasks), device, 1, results)


def test_the_best_that_fits_is_taken(tmp_path):
    found = advise(100, results=tmp_path)
    assert found.recipe == "prism-dinosiglip+13b" and found.passed_over == [] and not found.changes
    assert found.score == pytest.approx(69.48, abs=0.01)  # the mean of its published row
    found = advise(2, results=tmp_path)
    assert found.recipe == "prism-dinosiglip-controlled+13b"
    assert found.hours == pytest.approx(665298 / 128 / 3600)
    assert "prism-dinosiglip+13b (69.5) takes 5.3 hours" in found.passed_over[0]


def test_memory_passes_over_or_cuts_the_batch(tmp_path):
    small = advise(100, device=DEVICES["v100-32g"], results=tmp_path)
    assert small.recipe == "prism-dinosiglip+7b"
    assert small.changes == {"stages.sft.batch.accumulate": 2}
    assert "13b" in small.passed_over[0] and "needs 70 GiB" in small.passed_over[0]
    tiny = advise(100, ["vqav2", "pope"], Device("tiny", "fp16", 1e12, 0.3, 10 * 2**30), tmp_path)
    assert tiny.recipe == "tinyllava-qwen2.5-0.5b"
    assert any("not comparable" in note for note in tiny.notes)
    with pytest.raises(RunError, match="no recipe with published scores on ai2d fits"):
        advise(100, ["ai2d"], Device("tiny", "fp16", 1e12, 0.3, 10 * 2**30), tmp_path)


def test_reasons_are_of_the_wanted_tasks_and_of_what_was_found_here(tmp_path):
    result = {
        "findings": [{"arm": "one-stage", "primary": True, "verdict": "worse"}],
        "sentences": ["one-stage is worse"],
    }
    (tmp_path / "two-stages").mkdir()
    (tmp_path / "two-stages" / "results.json").write_text(json.dumps(result))
    notes = advise(100, ["textvqa"], results=tmp_path).notes
    stages = next(note for note in notes if note.startswith("stages: one stage"))
    assert "-2.0 points on these tasks (0 of 1 up" in stages
    assert "speaks for the other" in stages and "p = 0.0056" in stages
    assert "Miniature: disagrees (one-stage is worse)" in stages
    encoder = next(note for note in notes if "DINOv2 beside" in note)
    assert "-2.7 points" in encoder and "Miniature" not in encoder
    with pytest.raises(RecipeError, match="did you mean `textvqa`"):
        advise(1, ["textvq"], results=tmp_path)


def test_the_miniature_world_on_a_cpu(tmp_path):
    assert advise(1, device=CPU, results=tmp_path).recipe == "mini-hard"
    assert advise(1000 / 3600, device=CPU, results=tmp_path).recipe == "mini"
    found = advise(1, ["caption", "spatial-pointed"], CPU, tmp_path)
    assert found.recipe == "mini" and "not trained for spatial-pointed" in found.passed_over[0]
    with pytest.raises(RecipeError, match="full-scale tasks need --device"):
        advise(1, ["gqa"], CPU, tmp_path)
    with pytest.raises(RunError, match="mini-short takes 5 minutes"):
        advise(0.01, device=CPU, results=tmp_path)


def test_the_recipe_can_be_loaded_and_nothing_is_overwritten(tmp_path):
    file = tmp_path / "mine.yaml"
    words = ["recommend", "--budget", "100", "--device", "v100-32g", "--tasks", "hard"]
    words += ["--studies", str(tmp_path), "--out", str(file)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    recipe = load_recipe(file)
    assert recipe.stages[-1].batch.accumulate == 2
    assert recipe.evaluation.tasks[:3] == ["vsr", "pope-random", "pope-popular"]
    assert "# passed over: " in file.read_text()
    assert CliRunner().invoke(app, words).exit_code != 0


def test_every_row_is_a_recipe_and_every_choice_has_its_rows():
    wide = len(EVIDENCE["tasks"])
    for name, row in EVIDENCE["rows"].items():
        assert len(row["scores"]) == wide and name in presets()
    assert EVIDENCE["others"].keys() <= presets().keys()
    for choice in EVIDENCE["choices"]:
        first, second = choice["rows"]
        assert {first, second} <= EVIDENCE["rows"].keys()
        taken = [r.re.search(choice["taken"], row) is not None for row in (first, second)]
        assert taken == [True, False], choice["name"]
