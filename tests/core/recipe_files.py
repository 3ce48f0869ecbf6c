"""Recipe files written for a test, and the words with which a recipe is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lucida.core.errors import RecipeError
from lucida.core.recipe import load_recipe


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(name: str | Path, overrides: Sequence[str] = ()) -> str:
    """The message of the error that loading this recipe ends in."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    return str(caught.value)
