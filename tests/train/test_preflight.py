"""What would be refused late is refused before the first step, and leaves nothing trained."""

import json

import pytest
from test_loop import changed
from tiny_training import adapted_recipe

from lucida.core.errors import DataError, LucidaError, RecipeError, RunError
from lucida.core.spec import Recipe
from lucida.model.checkpoint import load
from lucida.training import preflight
from lucida.training.blind import blind_recipe
from lucida.training.loop import train, train_run


def with_blind(recipe, **stage):
    values = recipe.model_dump(mode="json") | {"blind": {"steps": 4}}
    values["stages"][-1] |= stage
    return Recipe.model_validate(values)


def refused(recipe, folder, kind, words):
    """The run is refused before any step."""
    with pytest.raises(kind, match=words):
        train_run(recipe, folder)
    metrics = folder / "metrics.jsonl"
    assert not metrics.exists() or not metrics.read_text()
    assert not (folder / "checkpoints").exists()


LORA = {"rate": 1e-3, "rank": 2}


def test_a_blind_baseline_trains_adapters_where_nothing_else_of_the_language_trains(
    recipe, tmp_path
):
    train_them = {"train": {"projector": 1e-3}, "lora": LORA}
    recipe = with_blind(recipe, **train_them)
    assert [stage.name for stage in blind_recipe(recipe).stages] == ["sft"]
    folder = train_run(recipe, tmp_path / "run")
    model, _ = load(folder / "blind")
    assert model.vision is None
    assert (folder / "blind" / "adapter").is_dir()


def test_adapters_of_what_a_blind_model_lacks_go(parts):
    lora = LORA | {"targets": ["projector", "language", "*.q_proj"]}
    recipe = with_blind(adapted_recipe(parts), lora=lora, train={})
    assert blind_recipe(recipe).stages[-1].lora.targets == ["language", "*.q_proj"]
    recipe = with_blind(adapted_recipe(parts), lora=LORA | {"targets": ["vision"]}, train={})
    assert [stage.name for stage in blind_recipe(recipe).stages] == ["align"]


CASES = {
    "patterns": (
        {"train": {"*.layer_norm1": 1e-3, "language": 1e-3}},
        LucidaError,
        "blind baseline|matches no parameter",
    ),
    "warm-up": (
        {"optim": {"warmup": 6}, "train": {"language": 1e-3}},
        RecipeError,
        "blind baseline",
    ),
    "nothing to learn": ({"train": {"projector": 1e-3}}, RecipeError, "nothing to learn"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_blind_baseline_that_cannot_be_trained_is_refused_first(case, recipe, tmp_path):
    stage, kind, words = CASES[case]
    values = with_blind(recipe, **stage).model_dump(mode="json")
    values["stages"] = values["stages"][-1:]
    refused(Recipe.model_validate(values), tmp_path / "run", kind, words)


def test_a_folder_of_another_blind_baseline_is_refused_first(recipe, tmp_path):
    folder = tmp_path / "run"
    train_run(changed(recipe, seed=9), folder / "blind")
    refused(with_blind(recipe), folder, RunError, "another recipe")


def test_records_that_the_last_stage_cannot_use_are_refused_first(recipe, tmp_path):
    values = recipe.model_dump(mode="json")
    text = tmp_path / "broken.jsonl"
    text.write_text('{"words": "no such field"}\n' * 30)
    values["stages"][-1]["mixture"]["sources"]["more"] = {"kind": "text", "path": str(text)}
    refused(Recipe.model_validate(values), tmp_path / "run", DataError, "none of 4 records")


def test_pictures_of_the_last_stage_that_cannot_be_opened_are_refused_first(recipe, tmp_path):
    """Their records encode well, so that training would learn of it in its last stage."""
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "d.json").write_text(
        json.dumps([{"image": "cut.png", "conversations": turns}] * 30)
    )
    values = recipe.model_dump(mode="json")
    source = {"kind": "llava", "path": str(tmp_path / "d.json")}
    values["stages"][-1]["mixture"]["sources"]["more"] = source
    refused(Recipe.model_validate(values), tmp_path / "run", DataError, "none of 4 records")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_text_of_retention_that_cannot_be_read_is_refused_first(content, recipe, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    spec = {"retention": {"file": str(path)}}
    refused(changed(recipe, evaluation=spec), tmp_path / "run", RunError, "retention")


def test_a_disk_without_room_is_refused_first(recipe, tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: full)
    refused(recipe, tmp_path / "run", RunError, "no room")


def test_a_run_given_as_the_recipe_goes_on_itself(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = train_run(recipe, tmp_path / "mine")
    assert train(str(folder)) == folder
    assert "already trained" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert train(str(folder), tmp_path / "other") == tmp_path / "other"
    told = capsys.readouterr().err
    assert "is trained from its beginning" in told
    first, second = (
        json.loads((each / "metrics.jsonl").read_text().splitlines()[0])
        for each in (folder, tmp_path / "other")
    )
    assert first["loss"] == second["loss"]
