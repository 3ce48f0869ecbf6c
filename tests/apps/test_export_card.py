"""The card says what the run says, in the Hub's form, and names what it does not say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

from huggingface_hub import ModelCard
from tiny_designs import make

from lucida.apps.export.card import is_hub_id, place
from lucida.apps.export.write import export
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder
from lucida.model.checkpoint import save

TASKS = {
    "counting": {
        "score": 0.5, "interval": [0.4, 0.6], "n": 200, "metric": "accuracy", "chance": 0.2,
        "blind": 0.45, "gain": {"mean": 0.05, "interval": [-0.05, 0.15]},
    },
    "reading": {
        "score": 0.9, "interval": [0.86, 0.93], "n": 1200, "metric": "accuracy", "chance": 0.1,
        "blind": 0.3, "gain": {"mean": 0.6, "interval": [0.55, 0.65]},
    },
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A model as a run of `mini` would have left it, were it trained on somebody's files."""
    folder = RunFolder(tmp_path / "run")
    save(*make(), folder.path)
    sources = "stages.sft.mixture.sources"
    mine = {"kind": "llava", "path": "/home/somebody/data/train.json", "images": "/home/somebody/p"}
    hub = {"kind": "hub", "path": "someone/pictures"}
    changes = [f"{sources}.mine={json.dumps(mine)}", f"{sources}.hub={json.dumps(hub)}"]
    folder.write_recipe(load_recipe("mini", [f"{change}" for change in changes]))
    folder.write_results({"tasks": TASKS})
    return folder.path


def test_scores_data_and_recipe(run, tmp_path):
    done = export(run, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (
        card.data.pipeline_tag == "image-text-to-text" and card.data.library_name == "transformers"
    )
    assert card.data.datasets == ["someone/pictures"] and card.data.license == "other"
    assert {"lucida", "llava"} <= set(card.data.tags)
    kept = {each.dataset_name: each.metric_value for each in card.data.eval_results}
    assert kept == {"counting": 0.5, "reading": 0.9}
    text = card.text
    assert (
        "| reading | accuracy | 90.0 | 86.0 to 93.0 | 30.0 | +60.0 (55.0 to 65.0) | 10.0 | 1,200 |"
        in text
    )
    assert "On counting it is not surely better than without the picture." in text
    assert "| sft | mine | llava | …/train.json |" in text and "someone/pictures" in text
    assert "/home/somebody" not in text, "places on this machine are nobody's business"
    assert "name: mini" in text and done.commands.splitlines()[0] in text


def test_a_damaged_file_costs_its_part_only(run, tmp_path):
    (run / "results.json").write_text("{")
    (run / "recipe.yaml").write_text("no_such_key: 1")
    done = export(run, tmp_path / "out")
    told = [note for note in done.notes if "lacks a part" in note]
    text = (tmp_path / "out" / "README.md").read_text()
    assert len(told) == 2 and "no_such_key" in told[0] and "results.json" in told[1]
    assert all(note.splitlines()[0] in text for note in told)
    assert "Nothing was measured" in text and "None was found" in text


def test_what_is_not_known_is_said(tmp_path):
    save(*make(), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for sentence in ("Nothing was measured before this export.", "its data are not known here",
                     "None was found beside the model.", "look them up before use"):  # fmt: skip
        assert sentence in text


def test_a_model_of_lucidas_own_parts():
    """Its terms are Lucida's; its card says that it knows no photographs."""
    from lucida.apps.export.card import licence, limits, metadata

    recipe = load_recipe("mini")
    data = metadata("mini", recipe.model, recipe, {}, "remote-code")
    assert data.license == "apache-2.0" and data.base_model is None and data.eval_results is None
    assert "Apache-2.0" in licence(recipe.model, recipe)
    assert "no photographs" in limits(recipe.model, recipe, {}, [])
    assert metadata("mini", recipe.model, None, {}, "gguf").library_name == "llama.cpp"
    assert metadata("mini", recipe.model, None, {}, "gguf").license == "other"


def test_names_of_the_hub_and_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert is_hub_id("org/name")
    assert not any(map(is_hub_id, ("a/b", "lucida:x", "timm:x/y", "/a/b", "./a", "name", "a/b/c")))
    assert place("/home/me/x.json") == "…/x.json" and place("org/name") == "org/name"
