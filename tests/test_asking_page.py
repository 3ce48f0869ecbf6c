"""docs/asking.md does what it says: its file, its command and its Python, with a tiny model."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "model"))
from tiny import tiny_model

from lucida.apps.cli import app
from lucida.model.checkpoint import save

PAGE = (Path(__file__).parent.parent / "docs" / "asking.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(*tiny_model(), tmp_path / "runs" / "mine")
    (tmp_path / "photos").mkdir()
    for name, colour in (("kite", "red"), ("boat", "blue")):
        Image.new("RGB", (48, 32), colour).save(f"photos/{name}.png")
    return tmp_path


def test_the_file_is_answered(folder):
    Path("questions.jsonl").write_text(block("json"), encoding="utf-8")
    done = CliRunner().invoke(app, shlex.split(block("sh"))[1:])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text("utf-8").splitlines()]
    assert [row["input"]["id"] for row in rows] == ["a", "b", "c"]
    assert all({"answer", "log_probability", "ended"} <= row.keys() for row in rows)


def test_the_python_runs(folder, capsys):
    exec(compile(block("python"), "asking.md", "exec"), {})
    told = capsys.readouterr().out
    assert set(re.findall(r"^([012]) ", told, re.MULTILINE)) >= {"0", "1", "2"}
    assert re.search(r"^\('photos/kite.png', 'What flies\?'\) \[-[\d.]+, -[\d.]+\]$", told, re.M)
