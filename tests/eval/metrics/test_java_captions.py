"""METEOR through Java: what is missing is said; with everything there, the official score."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from lucida.core.errors import DataError, LucidaError
from lucida.eval.metrics import java_captions

GOLDEN = Path(__file__).parents[2] / "golden" / "eval" / "captions_fakecap.json"
scorers = pytest.mark.parametrize("scorer", [java_captions.meteor, java_captions.spice])


@scorers
def test_without_java_it_says_so(scorer, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LucidaError, match="no `java` on the path; install a Java runtime"):
        scorer(["a"], [["a"]])


@scorers
def test_without_the_package_it_says_so(scorer, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", None)
    with pytest.raises(LucidaError, match="pip install pycocoevalcap"):
        scorer(["a"], [["a"]])


@scorers
def test_bad_input_is_found_before_java_is_looked_for(scorer):
    assert scorer([], []) == (0.0, [])
    with pytest.raises(DataError, match="differ in number"):
        scorer(["a"], [])


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None or find_spec("pycocoevalcap") is None,
    reason="needs Java and pycocoevalcap",
)
def test_meteor_is_the_official_one():
    images = json.loads(GOLDEN.read_text(encoding="utf-8"))["images"][:20]
    _, each = java_captions.meteor(
        [image["candidate"] for image in images], [image["references"] for image in images]
    )
    assert each == pytest.approx([image["official"]["METEOR"] for image in images], abs=1e-4)
