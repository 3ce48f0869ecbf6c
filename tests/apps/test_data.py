"""`lucida data`: what it guesses, shows, counts and finds wrong."""

import json
from collections import Counter

import pytest
from PIL import Image
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.data.guess import opened
from lucida.apps.data.show import histogram, quantile
from lucida.apps.data.survey import chosen, looked, survey
from lucida.apps.verbs import data
from lucida.core.errors import LucidaError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", "red"), ("b", "blue"), ("twin", "red")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    return tmp_path


def pairs(folder, *names):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps({"image": n, "caption": "a kite"}) + "\n" for n in names))
    return path


def call(*words):
    assert data.data is not None
    return CliRunner().invoke(app, ["data", *map(str, words)])


GUESSES = {
    "llava.json": ('[{"conversations": []}]', "llava"),
    "talk.jsonl": ('{"messages": []}', "messages"),
    "page.jsonl": ('{"text_list": [], "image_info": []}', "interleaved"),
    "obelics.jsonl": ('{"texts": [], "images": []}', "interleaved"),
    "flan.jsonl": ('{"inputs": "a", "targets": "b"}', "text"),
    "pairs.jsonl": ('{"image": "a.png", "caption": "b"}', "pairs"),
    "pairs.csv": ("image,text\na.png,x", "pairs"),
    "plain.txt": ("hello", "text"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_kinds_are_guessed_and_said(folder, name):
    content, kind = GUESSES[name]
    (folder / name).write_text(content)
    (found,) = opened(name, []) if "/" in name else opened(str(folder / name), [])
    assert found.spec.kind == kind
    assert "because" in found.found


def test_what_cannot_be_guessed(folder):
    (folder / "odd.jsonl").write_text('{"x": 1}')
    with pytest.raises(LucidaError, match="tells no kind"):
        opened(str(folder / "odd.jsonl"), [])
    with pytest.raises(LucidaError, match="key=value"):
        opened(str(folder / "odd.jsonl"), ["kind"])
    with pytest.raises(LucidaError, match="colour"):
        opened(str(folder / "odd.jsonl"), ["kind=text", "colour=7"])


def test_show(folder):
    path = pairs(folder, "a.png", "cut.png", "b.png")
    shown = call("show", path)
    assert shown.exit_code == 0, shown.output
    assert "kind pairs, because" in shown.output
    assert "<0>a kite" in shown.output
    assert "record 1 cannot be used" in shown.output
    page = folder / "page.html"
    assert call("show", path, "--html", page).exit_code == 0
    assert page.read_text().count("data:image/png") == 2


def test_check_reads_everything_and_names_what_is_wrong(folder):
    path = pairs(folder, "a.png", "cut.png", "twin.png", "none.png", "b.png")
    done = call("check", path, "--workers", 1)
    assert done.exit_code == 1
    (report,) = json.loads((folder / "data-report.json").read_text())
    assert [error["record"] for error in report["errors"]] == [1, 3]
    assert "cut.png" in report["errors"][0]["reason"]
    assert report["records read"] == 5
    assert report["duplicates (picture, text)"] == 1
    assert call("check", pairs(folder, "a.png", "b.png")).exit_code == 0


def test_processes_find_what_one_finds(folder, monkeypatch):
    monkeypatch.setattr("lucida.apps.data.survey.BLOCK", 2)
    (found,) = opened(str(pairs(folder, "a.png", "cut.png", "twin.png", "none.png", "b.png")), [])
    numbers = list(range(5))
    assert survey(found.source, numbers, True, None, 2) == looked(found.source, numbers, True)


def test_stats_of_a_recipe(folder):
    done = call("stats", "mini", "--samples", 20)
    assert done.exit_code == 0, done.output
    assert "words in a sample" in done.output
    assert "20" in done.output


def test_figures():
    counts = Counter({1: 2, 2: 1, 9: 1})
    assert quantile(counts, 0.5) == 1
    assert quantile(counts, 0.99) == 9
    assert "mean 3.2, median 1, 99% 9, longest 9" in histogram("words", counts)
    assert chosen(5, None) == chosen(5, 9) == [0, 1, 2, 3, 4]
    assert len(set(chosen(100, 10))) == 10
