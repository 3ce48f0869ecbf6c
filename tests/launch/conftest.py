"""The tiny parts of the tests of `train`, and a cache of features that is not the user's."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from tiny_training import write_parts


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A folder with tiny vision, language and pictures."""
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Features of these tests stay out of the user's cache."""
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
