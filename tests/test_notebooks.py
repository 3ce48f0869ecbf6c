"""The notebooks of docs/ are small, stand as they were run, and run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lucida

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RUN = """
import json, shlex, subprocess, sys

def command(line):
    words = shlex.split(line)
    assert words[0] == "lucida", line
    subprocess.run([sys.executable, "-m", *words], check=True)

space = {"command": command}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    lines = cell["source"] if cell["cell_type"] == "code" else []
    code = "".join(f"command({l[1:].rstrip()!r})\\n" if l[0] == "!" else l for l in lines)
    exec(compile(code, cell["id"], "exec"), space)
"""
"""Runs the cells one behind the other, as Jupyter does, and a line `!lucida …` as a command."""


def cells_of(file, kind="code"):
    book = json.loads(file.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def test_there_are_two():
    assert len(BOOKS) == 2


@pytest.mark.parametrize("file", BOOKS, ids=lambda file: file.stem)
def test_it_was_run_whole_and_is_small(file):
    cells = cells_of(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [each for cell in cells for each in cell["outputs"]]
    assert outputs and not any(each["output_type"] == "error" for each in outputs)
    assert file.stat().st_size < 60_000
    assert file.read_text(encoding="utf-8").count("/tmp/") == 0, "no folder of one machine"


@pytest.mark.slow
@pytest.mark.parametrize("file", BOOKS, ids=lambda file: file.stem)
def test_it_runs_as_it_stands(file, tmp_path, monkeypatch):
    """The one of trained runs with two that have hardly begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    few = ["stages.sft.budget.steps=2", "blind=null", "threads=1", "precision=fp32"]
    if "runs/demo" in file.read_text(encoding="utf-8"):
        for number, name in enumerate(("demo", "other")):
            lucida.train(lucida.load_recipe("mini", [*few, f"seed={number}"]), f"runs/{name}")
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = list(tmp_path.rglob("runs/*/results.json"))
    assert len(results) == 2
    for each in results:
        tasks = json.loads(each.read_text(encoding="utf-8"))["tasks"]
        assert all(0 <= task["score"] <= 1 and task["n"] > 20 for task in tasks.values())
