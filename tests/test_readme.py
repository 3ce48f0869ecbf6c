"""The README's examples do what it says: commands parse and run, Python runs, recipes are valid."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.core.recipe import load_recipe
from lucida.eval.usual import usual_scores

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = {"show", "explain", "runs"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("lucida ")
]


def test_there_are_examples():
    assert len(COMMANDS) > 8
    assert blocks("python")
    assert blocks("yaml")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_exists_and_quick_ones_run(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb = words[1]
    arguments = words[1:]
    if verb not in QUICK and arguments != ["parts"]:
        names = [w for w in words[1:3] if w in ("parts", "build")] or [verb]
        names = words[1:3] if verb == "data" else names
        arguments = [*names, "--help"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    if arguments[-1] == "--help":
        for option in (w for w in words if w.startswith("--")):
            assert option in result.output


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks("sh"):
        for target in re.findall(r"^make (\w+)", block, re.MULTILINE):
            assert f"\n{target}:" in makefile


def test_overrides_of_the_examples_are_valid():
    for words in COMMANDS:
        if words[1] == "train":
            load_recipe(words[2], [w for w in words[3:] if "=" in w])


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_are_valid(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_recipe(str(file)).stages


def test_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"].config.visual_tokens == 64
    assert (tmp_path / "runs" / "first" / "blind" / "config.json").is_file()


def test_the_scores_are_those_kept_beside_the_recipe():
    """Median and range of every task of `mini`, as `reliability.py --write` wrote them."""
    usual = usual_scores(load_recipe("mini"))
    assert usual is not None, "the recipe has changed since it was measured"
    for task, known in usual["tasks"].items():
        low, middle, high = (100 * known[key] for key in ("lowest", "median", "highest"))
        assert f"| `{task}` |" in README
        row = next(line for line in README.splitlines() if line.startswith(f"| `{task}` |"))
        assert f"| **{middle:.1f}** | {low:.1f} to {high:.1f} |" in row
