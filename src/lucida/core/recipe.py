"""Recipes on disk and on the command line: found, overridden, checked, printed, compared.

load_recipe("mini", ["stages.sft.budget.steps=10", "model.projector=linear"])
    name or file ──▶ YAML with line numbers ──▶ overrides ──▶ Recipe
                                 every mistake on the way is reported at once
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from lucida.core.document import dump_document, read_document
from lucida.core.errors import RecipeError, nearest
from lucida.core.explain import explain as explain
from lucida.core.explain import schema as schema
from lucida.core.fields import short
from lucida.core.mistakes import mistakes_of, odd_values, refuse
from lucida.core.overrides import apply_overrides
from lucida.core.spec import Recipe

PRESETS = Path(__file__).parent.parent / "recipes"


def presets() -> dict[str, Path]:
    """Name → file of every recipe that ships with Lucida."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"), key=lambda path: path.stem)}


def find_recipe(name: str | Path) -> Path:
    """The file behind a preset's name, a file's path, or a run folder (its recipe.yaml)."""
    known = presets()
    if str(name) in known:
        return known[str(name)]
    path = Path(name).expanduser()
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    listed = ", ".join(known) or "none"
    if "=" in str(name):
        remedy = f"name the recipe first: lucida train NAME {name}"
    elif close := nearest(str(name), known):
        remedy = f"did you mean `{close}`? presets: {listed}"
    else:
        remedy = f"presets: {listed}; anything else must be a file"
    raise RecipeError(f"there is no recipe `{name}`, neither a preset nor a file", remedy=remedy)


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or path with `key=value` overrides applied.

    RecipeError lists every mistake of the file and of the overrides together.
    """
    path = find_recipe(name)
    document = read_document(path)
    mistakes = apply_overrides(document, overrides)
    mistakes += odd_values(document.data, document.origins)
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as problem:
        mistakes += mistakes_of(problem, document.data, document.origins)
    refuse(str(path), mistakes)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; loading it gives an equal recipe."""
    return dump_document(recipe.model_dump(mode="json"))


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits that are equal when two recipes are; the description does not count, the order
    of patterns in `train` does.

    A later Lucida may add fields and so change hashes. To ask whether a run may be resumed, compare
    its saved recipe with `diff_recipes`.
    """
    text = json.dumps(_meaning(recipe), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def diff_recipes(a: Recipe, b: Recipe) -> list[str]:
    """One line per value that differs, `stages.sft.budget.steps: 400 -> 10`; empty when equal."""
    before, after = _flat(_meaning(a)), _flat(_meaning(b))
    lines = []
    shared = [key for key in before if key in after]
    if shared != [key for key in after if key in before]:
        lines.append("the same keys stand in another order (in `train` the last match wins)")
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in after:
            lines.append(f"{key}: {short(before[key])} -> (absent)")
        elif key not in before:
            lines.append(f"{key}: (absent) -> {short(after[key])}")
        elif before[key] != after[key]:
            lines.append(f"{key}: {short(before[key])} -> {short(after[key])}")
    return lines


def _meaning(recipe: Recipe) -> dict:
    return recipe.model_dump(mode="json", exclude={"description"})


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Dotted key → plain value; list items that have a name go by it."""
    if isinstance(value, dict) and value:
        pairs = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        pairs = [(item.get("name", index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    found: dict[str, object] = {}
    for key, item in pairs:
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found
