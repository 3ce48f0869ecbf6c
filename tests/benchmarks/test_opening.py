"""The benchmark of large sources: what it makes is read whole, by its own way of opening."""

import importlib.util
import json
from pathlib import Path

import pytest

from lucida.core.spec import MixtureSpec
from lucida.data.sources import open_source

FILE = Path(__file__).parents[2] / "benchmarks" / "opening.py"


@pytest.fixture(scope="module")
def opening():
    spec = importlib.util.spec_from_file_location("opening", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BLOCK = 20
    return module


@pytest.mark.parametrize("indent", [None, 2])
def test_the_array_is_what_it_says(opening, tmp_path, indent):
    spec = opening.array(tmp_path, 0.0002, indent)
    records = json.loads((tmp_path / "data.json").read_text())
    source = open_source(MixtureSpec.model_validate({"sources": {"one": spec}}).sources["one"])
    assert len(source) == len(records) >= 3 * opening.BLOCK
    assert len(source[len(source) - 1].images) == 1


def test_a_first_batch_is_timed(opening, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "WORKERS", 0)
    found = opening.opened(opening.tars(tmp_path, shards=2, members=12))
    assert found["records"] == 24
    assert found["seconds"] > 0
    assert found["memory"] > 1e6
