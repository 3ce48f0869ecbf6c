"""Recipes on disk and on the command line: found, overridden, checked, printed, compared.

load_recipe("mini", ["stages.sft.budget.steps=10", "model.image.policy=crop"])
    name or file ──▶ YAML with line numbers ──▶ bases unfolded ──▶ overrides ──▶ Recipe
                                 every mistake on the way is reported at once
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lucida.core.document import Document, dump_document, read_document
from lucida.core.errors import RecipeError, nearest, suggestion
from lucida.core.explain import explain as explain
from lucida.core.families import is_family, members, unfold
from lucida.core.fields import short
from lucida.core.mistakes import mistakes_of, odd_values, refuse
from lucida.core.overrides import apply_overrides
from lucida.core.places import anchor_paths
from lucida.core.schema import schema as schema
from lucida.core.spec import Recipe
from lucida.core.start import fill_design

PRESETS = Path(__file__).parent.parent / "recipes"
MOST_BASES = 20
"""Recipes that may lead to each other as bases."""


@dataclass(frozen=True)
class Preset:
    """A recipe that ships with Lucida: the file it stands in, its family (empty for a file of its
    own), and what is written there."""

    path: Path
    family: str
    document: Document


@functools.cache
def presets() -> dict[str, Preset]:
    """Name → preset, families in the order of their files."""
    alone, together = {}, {}
    for path in sorted(PRESETS.glob("*.yaml")):
        document = read_document(path)
        if is_family(document):
            family = document.data["family"]
            for name, member in members(document, path).items():
                together[name] = Preset(path, family, member)
        else:
            alone[path.stem] = Preset(path, "", document)
    return alone | together


def find_recipe(name: str | Path) -> Path:
    """The file behind a preset's name, a file's path, or a run folder (its recipe.yaml)."""
    path, known = _path(str(name)), {}
    if path.name == str(name):
        if (PRESETS / f"{name}.yaml").is_file():
            return PRESETS / f"{name}.yaml"  # without reading the families
        known = presets()
        if str(name) in known:
            return known[str(name)].path
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    if os.path.lexists(path) and str(name):
        what = "this folder holds no recipe.yaml" if path.is_dir() else "this is no file to read"
        raise RecipeError(what, origin=path, remedy="name a recipe file, a preset or a run folder")
    known = known or presets()
    if "=" in str(name):
        remedy = f"name the recipe first: lucida train NAME {name}"
    elif close := nearest(str(name), known):
        near = difflib.get_close_matches(str(name), known, n=6, cutoff=0.5)
        others = ", ".join(each for each in near if each != close)
        remedy = f"did you mean `{close}`? " + (f"also near: {others}; " if others else "")
        remedy += "`lucida show` lists the presets"
    else:
        remedy = f"`lucida show` lists the {len(known)} presets; anything else must be a file"
    raise RecipeError(f"there is no recipe `{name}`, neither a preset nor a file", remedy=remedy)


def _path(name: str) -> Path:
    """The path that a name may be; RecipeError for what no file can be called or asked for."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
        (path / "recipe.yaml").is_file()
    except (OSError, ValueError, RuntimeError) as problem:  # a name too long, NUL, `~nobody`
        what = getattr(problem, "strerror", None) or problem
        raise RecipeError(f"no recipe can be read there: {what}", origin=name[:200]) from problem
    return path


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or path with `key=value` overrides applied.

    A file of several recipes is followed by the one that is meant: `family.yaml#NAME`. RecipeError
    lists every mistake of the file and of the overrides together.
    """
    document, origin = _whole(str(name), ())
    mistakes = apply_overrides(document, overrides)
    mistakes += odd_values(document.data, document.origins)
    # It reads the folder that `model.from` names, so only when what names it is sound.
    if not mistakes:
        fill_design(document.data.get("model"))
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as problem:
        mistakes += mistakes_of(problem, document.data, document.origins)
    refuse(origin, mistakes)
    return recipe


def _whole(name: str, asking: tuple[str, ...]) -> tuple[Document, str]:
    """The unfolded recipe of a name, and how messages call it; `asking` are the recipes that led
    here as bases."""
    document, origin, siblings, folder = _find_written(name)
    if origin in asking:
        loop = " -> ".join([*asking[asking.index(origin) :], origin])
        raise RecipeError(f"a recipe is its own base: {loop}")
    if len(asking) >= MOST_BASES:
        raise RecipeError(f"more than {MOST_BASES} recipes lead to each other as bases")

    def find(base: str) -> Document:
        if base in siblings:
            base = siblings[base]
        elif (folder / base.partition("#")[0]).is_file():
            base = str(folder / base)
        return _whole(base, (*asking, origin))[0]

    return unfold(document, origin, find), origin


def _find_written(name: str) -> tuple[Document, str, dict[str, str], Path]:
    """What is written under a name: the document, how messages call it, other recipes of the same
    file by the names that find them from anywhere, and the folder."""
    file, _, member = name.partition("#")
    path = find_recipe(file if member else name)
    # A preset's paths are no files beside it, so nothing is anchored.
    if path.parent == PRESETS and not member and (known := presets_of(path, name)):
        return known.document, f"{path}#{name}" if known.family else str(path), {}, PRESETS
    document = read_document(path)
    anchor_paths(document, path.parent)
    if not is_family(document):
        if member:
            raise RecipeError(f"there is one recipe in this file, not `{member}`", origin=path)
        return document, str(path), {}, path.parent
    family = members(document, path)
    if member not in family:
        what = f"there is no `{member}` in this family" if member else "the file holds a family"
        listed = suggestion(member, family) if member else f"{path}#{next(iter(family))}"
        raise RecipeError(what, origin=path, remedy=f"name one of its recipes: {listed}")
    siblings = {each: f"{path}#{each}" for each in family}
    return family[member], f"{path}#{member}", siblings, path.parent


def presets_of(path: Path, name: str) -> Preset | None:
    """The preset `name`; one in a file of its own without reading the families."""
    if path.stem == name:
        document = read_document(path)
        return None if is_family(document) else Preset(path, "", document)
    return presets().get(name)


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
    return list(_differences(_by_name(_meaning(a)), _by_name(_meaning(b)), ""))


def _differences(before: Any, after: Any, place: str) -> Iterator[str]:
    """What lies under a place that differs; a stage or source that only one has is one line."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after:
            yield f"{place}: {_change(before, after)}"
        return
    if [key for key in before if key in after] != [key for key in after if key in before]:
        where = f"{place}: " if place else ""
        yield f"{where}the same keys stand in another order (in `train` the last match wins)"
    for key in [*before, *(key for key in after if key not in before)]:
        inside = f"{place}.{key}" if place else key
        if key not in after:
            yield f"{inside}: {_short(before[key])} -> (absent)"
        elif key not in before:
            yield f"{inside}: (absent) -> {_short(after[key])}"
        else:
            yield from _differences(before[key], after[key], inside)


def _change(before: Any, after: Any) -> str:
    """Both values; of lists of words too long to show, what left and what came."""
    both = f"{short(before)} -> {short(after)}"
    lists = [each for each in (before, after) if isinstance(each, list)]
    if len(lists) < 2 or "…" not in both or any(isinstance(x, dict | list) for x in before + after):
        return both
    old, new = Counter(map(str, before)), Counter(map(str, after))
    if old == new:
        return "the same in another order"
    changes = [
        f"{what} {', '.join(f'{name} ({many})' for name, many in part.items())}"
        for what, part in (("without", old - new), ("with", new - old))
        if part
    ]
    return "; ".join(changes)


def _short(value: Any) -> str:
    return "{…}" if isinstance(value, dict) and value else short(value)


def _meaning(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"description"})


def _by_name(value: Any) -> Any:
    """The same; items of a list go by their names, where they have some, else by their numbers."""
    if isinstance(value, dict):
        return {key: _by_name(each) for key, each in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return {str(each.get("name") or at): _by_name(each) for at, each in enumerate(value)}
    return value
