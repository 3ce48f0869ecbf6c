"""docs/tutorial.md does what it says: its commands run in their order, its script and recipe too.

Here with pictures that are drawn and an encoder that ships in place of those that are fetched, and
with a few steps; a server is started and asked in tests/serve, here its command is only known.
"""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.core.runs import RunFolder
from lucida.world.drawing import draw
from lucida.world.scenes import make_scene

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
KINDS = ("animals", "food", "vehicles")
SHOWN = "real/stamps/pictures/animals/birds/duck.png"


def blocks(language):
    return re.findall(rf"```{re.escape(language)}\n(.*?)```", PAGE, re.DOTALL)


def commands():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("lucida ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eighteen drawn pictures where the fetched ones would be."""
    folder = tmp_path_factory.mktemp("tutorial")
    for number in range(18):
        path = folder / f"real/stamps/pictures/{KINDS[number % 3]}/{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(make_scene(7, "train", number)).save(path)
    path = folder / SHOWN
    path.parent.mkdir(parents=True)
    draw(make_scene(7, "train", 18)).save(path)
    return folder


def test_it_is_whole():
    verbs = [words[1] for words in commands()]
    expected = "fetch fetch data data data inspect plan train eval chat look"
    assert verbs == expected.split()
    served = shlex.split(blocks("{.sh .server}")[0])
    for words in (*commands(), served):
        names = words[1:3] if words[1] == "data" else words[1:2]
        said = CliRunner().invoke(app, [*names, "--help"])
        assert said.exit_code == 0
        assert all(word in said.output for word in words if word.startswith("--"))
    asked = shlex.split(blocks("{.sh .client}")[0])
    assert json.loads(asked[-1])["model"] == "things"


def test_it_runs_in_its_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUCIDA_CACHE", str(folder / "cache"))
    exec(compile(blocks("python")[0], "tutorial.md", "exec"), {})
    recipe = blocks("yaml")[0].replace("real/efficientnet-lite0", '"lucida:siglip-mini"')
    recipe = recipe.replace("steps: 160", "steps: 4").replace("steps: 40", "steps: 2")
    recipe = recipe.replace("validate_every: 20", "validate_every: 2")
    Path("things.yaml").write_text(recipe, encoding="utf-8")
    few = {"--widest": "100"}
    for words in commands():
        if words[1] == "fetch":
            continue
        given = [few.get(before, word) for before, word in itertools.pairwise(words)]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0, (words, done.output)
    run = RunFolder(Path("runs/things"))
    results = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    scores = results["tasks"]["kinds"]
    assert 0 <= scores["blind"] <= 1
    assert (run.path / "report.html").is_file()
    assert list(folder.glob("**/look*.html"))
