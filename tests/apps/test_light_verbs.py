"""Verbs that need no model import none of the packages that take seconds."""

import json
import subprocess
import sys

import pytest
from PIL import Image

HEAVY = ("torch", "transformers", "matplotlib", "scipy", "pandas", "datasets")
CODE = """
import sys
sys.argv[0] = "lucida"
from lucida.apps.cli import main
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
print("HEAVY", *(name for name in {heavy} if name in sys.modules))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]
    record = {"id": "0", "image": "red.png", "conversations": turns}
    (folder / "train.json").write_text(json.dumps([record] * 24))
    return folder


@pytest.mark.parametrize(
    "verb",
    [
        "data show train.json",
        "data show train.json --html page.html",
        "data stats train.json",
        "data check train.json --workers 1",
        "runs",
        "show mini",
        "parts",
    ],
)
def test_no_model_no_wait(source, verb):
    code = CODE.format(heavy=HEAVY)
    command = [sys.executable, "-c", code, *verb.split()]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"
