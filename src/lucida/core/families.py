"""Recipes as named differences: a few lines each, unfolded into whole recipes.

A recipe may say which recipe it starts from, and what it changes (keys and meaning as on the
command line, see `lucida.core.overrides`). A family is a file of several recipes:

    family: LLaVA                              base: llava-1.5-7b
    recipes:                                   name: wider
      llava-1.5-7b: {model: …, stages: …}      changes:
      llava-1.5-13b:                             model.image.size: 448
        base: llava-1.5-7b                     sources:
        changes:                                 model.image.size: an idea of ours
          model.language.path: …/vicuna-13b

Notes in `sources` about what is changed or removed do not survive the change: they told where the
old value came from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from lucida.core.document import Document, Place
from lucida.core.errors import RecipeError, suggestion
from lucida.core.mistakes import Mistake, origin_of, refuse
from lucida.core.overrides import apply_changes

FAMILY_KEYS = ("family", "recipes")
DIFFERENCE_KEYS = ("base", "name", "description", "provenance", "sources", "changes")

Find = Callable[[str], Document]
"""The whole recipe of a name, as a document."""


def is_family(document: Document) -> bool:
    """Whether this file holds several recipes."""
    return "recipes" in document.data


def members(document: Document, path: Path) -> dict[str, Document]:
    """Name → recipe (whole or a difference) of every entry of a family file."""
    mistakes = _unknown(document, FAMILY_KEYS)
    entries = document.data["recipes"]
    if not isinstance(entries, dict) or not entries:
        mistakes.append(_wrong(document, ("recipes",), "expected a mapping from names to recipes"))
        entries = {}
    if not isinstance(document.data.get("family"), str):
        mistakes.append(_wrong(document, ("family",), "expected the family's name as text"))
    found = {}
    for name, entry in entries.items():
        place = ("recipes", name)
        if not isinstance(name, str) or not isinstance(entry, dict):
            mistakes.append(_wrong(document, place, "expected a name and a mapping"))
            continue
        if entry.get("name", name) != name:
            mistakes.append(_wrong(document, (*place, "name"), f"it is called {name} already"))
        origins = {key[2:]: line for key, line in document.origins.items() if key[:2] == place}
        found[name] = Document({"name": name, **entry}, origins)
    refuse(str(path), mistakes)
    return found


def unfold(document: Document, name: str, find: Find) -> Document:
    """The whole recipe of a document that may be a difference; the document stays as it is.

    RecipeError when keys are unknown or a change fits nowhere; `find` refuses unknown bases.
    """
    if "base" not in document.data:
        return Document(copy.deepcopy(document.data), dict(document.origins))
    data = document.data
    mistakes = _unknown(document, DIFFERENCE_KEYS)
    if not isinstance(data["base"], str):
        mistakes.append(_wrong(document, ("base",), "expected the name of a recipe"))
    for key in ("changes", "sources"):
        given = data.get(key, {})
        if not isinstance(given, dict) or not all(isinstance(each, str) for each in given):
            mistakes.append(_wrong(document, (key,), "expected a mapping with dotted keys"))
    refuse(name, mistakes)
    try:
        whole = find(data["base"])
    except RecipeError as problem:
        raise RecipeError(f"its base: {problem}", origin=document.origins.get(("base",))) from None
    changes = data.get("changes", {})
    written = [(k, v, origin_of(("changes", k), document.origins)) for k, v in changes.items()]
    mistakes = apply_changes(whole, copy.deepcopy(written))
    refuse(name, mistakes)
    # The base's own description told of the base.
    own = {"description": "", **{k: data[k] for k in DIFFERENCE_KEYS[1:4] if k in data}}
    notes = whole.data.get("sources", {})
    if isinstance(notes, dict):  # anything else is refused with the recipe, by its own line
        own["sources"] = _notes(notes, changes) | data.get("sources", {})
    for key, value in own.items():
        whole.data[key] = value
        whole.origins[key,] = origin_of((key,), document.origins)
    return whole


def _notes(notes: Mapping[str, str], changes: Mapping[str, object]) -> dict[str, str]:
    """The notes of the base without those about what has changed."""
    return {
        place: note
        for place, note in notes.items()
        if not any(place == key or str(place).startswith(f"{key}.") for key in changes)
    }


def _unknown(document: Document, known: tuple[str, ...]) -> list[Mistake]:
    return [
        _wrong(document, (key,), f"unknown key beside `{known[0]}`; {suggestion(str(key), known)}")
        for key in document.data
        if key not in known
    ]


def _wrong(document: Document, place: Place, what: str) -> Mistake:
    dotted = ".".join(map(str, place))
    return Mistake(dotted, what, origin_of(place, document.origins))
