"""Parts that are written once, and a cache of features that is not the user's."""

import sys
from pathlib import Path

import pytest

from lucida.core.spec import Recipe

sys.path.insert(0, str(Path(__file__).parent))  # whatever import mode pytest runs in

from tiny_training import tiny_recipe, write_parts


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A folder with tiny vision, language and pictures."""
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def recipe(parts) -> Recipe:
    """Two stages, twelve steps."""
    return tiny_recipe(parts)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Features of these tests stay out of the user's cache."""
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
