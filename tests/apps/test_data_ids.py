"""Names of records say nothing: two of one id are two records, and a like one is found without."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.verbs import data

QUESTIONS = ("What is it?", "Is it red?", "Is it red?")


def llava(question):
    said = [("human", f"<image>\n{question}"), ("gpt", "yes")]
    turns = [{"from": who, "value": text} for who, text in said]
    return {"image": "a.png", "conversations": turns}


def messages(question):
    said = [("user", f"<image>{question}"), ("assistant", "yes")]
    turns = [{"role": who, "content": text} for who, text in said]
    return {"images": ["a.png"], "messages": turns}


def questions(question):
    return {"image": "a.png", "question": question, "answer": "yes"}


@pytest.mark.parametrize("write", [llava, messages, questions])
@pytest.mark.parametrize("ids", ["777", "012"])
def test_ids_are_not_read(tmp_path, monkeypatch, write, ids):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "red").save("a.png")
    rows = [{"id": name, **write(asked)} for name, asked in zip(ids, QUESTIONS, strict=True)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert data.data is not None
    done = CliRunner().invoke(app, ["data", "check", "x.jsonl", "--workers", "1"])
    assert done.exit_code == 0, done.output
    (report,) = json.loads((tmp_path / "data-report.json").read_text())
    assert report["records read"] == 3
    assert report["duplicates (picture, text)"] == 1
