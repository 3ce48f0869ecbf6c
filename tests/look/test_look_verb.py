"""`lucida look`: of a run, of an export, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import encoder_folder, language_folder, picture, tiny_model

import lucida
from lucida.apps.cli import app
from lucida.apps.export.write import export
from lucida.model.checkpoint import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model that a Llava can hold, and a picture."""
    folder = tmp_path_factory.mktemp("look") / "run"
    vision = {"path": encoder_folder("clip"), "feature_layer": -2}
    language = {"path": language_folder(), "max_length": 200, "template": "qa"}
    save(*tiny_model(vision, language, image={"policy": "resize"}), folder)
    picture(1, 30, 20).save(folder / "noise.png")
    return folder


def call(*words):
    result = CliRunner().invoke(app, ["look", *map(str, words)])
    return result.exit_code, result.output


def test_a_run_and_its_export_are_looked_at_alike(folder, tmp_path):
    image = folder / "noise.png"
    asked = ["--image", image, "--question", "what?", "--answer", "yes", "--cells", "2"]
    code, told = call(folder, *asked)
    assert code == 0, told
    written = {path.name for path in (folder / "look" / "noise").iterdir()}
    assert written == {"look.html", "occlusion.png", "attention.png", "words.png", "heads.png"}
    found = lucida.look(folder, image, "what?", "yes", cells=2)
    assert f"goes from {found.log_probabilities.sum():.2f} to {found.covered.sum():.2f}" in told
    export(folder, tmp_path / "llava", "llava")
    shown = ["--show", "occlusion", "--out", tmp_path / "out"]
    code, again = call(tmp_path / "llava", *asked, *shown)
    assert code == 0, again
    # The import has rows for more box tokens, which take a little of each probability.
    costly = re.compile(r"covering around \(\d+, \d+\) costs most")
    assert costly.search(again)[0] == costly.search(told)[0]
    assert again.splitlines()[0] == told.splitlines()[0] == "answer: yes"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"look.html", "occlusion.png"}


def test_mistakes_are_told(folder, tmp_path):
    code, told = call(tmp_path / "none", "--image", "x.png", "--question", "what?")
    assert code == 1 and "no such run folder" in told
    lost = ["--image", tmp_path / "lost.png", "--question", "what?", "--out", tmp_path / "o"]
    code, told = call(folder, *lost)
    assert code == 1 and "lost.png" in told
    asked = ["--image", folder / "noise.png", "--question", "what?", "--out", tmp_path / "o"]
    code, told = call(folder, *asked, "--show", "head")
    assert code == 1 and "did you mean `heads`" in told
    (tmp_path / "empty").mkdir()
    code, told = call(tmp_path / "empty", "--image", "x.png", "--question", "what?")
    assert code == 1 and "config.json" in told
