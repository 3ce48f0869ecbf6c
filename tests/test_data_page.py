"""docs/data.md does what it says: its files are read, its commands run, its sources are valid."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.core.spec import SourceSpec
from lucida.data.mixture import fetch
from lucida.data.sources import open_source

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`.*?\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line
]
SOURCES = [
    source
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    for source in yaml.safe_load(block)["sources"].items()
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of the page, and their pictures."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for name, colour in (("kite", "red"), ("boat", "blue")):
        Image.linear_gradient("L").convert("RGB").resize((48, 32)).save(f"photos/{name}.png")
        Image.new("RGB", (48, 32), colour).save(f"photos/{name}.png")
    return tmp_path


def test_there_are_examples():
    assert len(FILES) >= 5
    assert len(SOURCES) >= 4
    assert {words[2] for words in COMMANDS} >= {"show", "check", "stats", "split", "leaks"}


def test_commands_run_in_their_order(folder):
    for words in COMMANDS:
        result = CliRunner().invoke(app, words[1:])
        seen = words[2] == "leaks"  # both files show the same two pictures
        assert result.exit_code == int(seen), (words, result.output)
        assert "left out" not in result.output


@pytest.mark.parametrize(("name", "fields"), SOURCES)
def test_sources_are_read_and_nothing_is_left_out(folder, name, fields):
    source = open_source(TypeAdapter(SourceSpec).validate_python(fields))
    for number in range(len(source)):
        sample, lost = fetch(source, number)
        assert sample.images
        assert all(image.load().size == (48, 32) for image in sample.images)
        assert not lost


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_recognised(folder, file):
    result = CliRunner().invoke(app, ["data", "show", file])
    kind = next(fields["kind"] for _, fields in SOURCES if fields["path"][:3] == file[:3])
    assert f"kind {kind}, because" in result.output
