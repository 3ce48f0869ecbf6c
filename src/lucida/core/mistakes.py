"""All mistakes of a recipe in one message, each with place, origin, expectation and nearest key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lucida.core.document import LARGEST_NUMBER, Place
from lucida.core.errors import RecipeError, suggestion
from lucida.core.fields import Shape, expected, shape, short
from lucida.core.spec import Recipe


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: the dotted place, what is wrong there, who wrote it."""

    place: str
    what: str
    origin: str | None

    def __str__(self) -> str:
        origin = "" if self.origin is None else f" ({self.origin})"
        place = self.place if len(self.place) <= 200 else f"{self.place[:199]}…"
        return f"{place}{origin}: {self.what}" if place else f"{self.what}{origin}"


def refuse(name: str, mistakes: Sequence[Mistake]) -> None:
    """Raises one RecipeError with every mistake; does nothing when there is none."""
    if not mistakes:
        return
    # Two checks may find the same; what is said first of a place is said most plainly.
    first = {(each.place or each.what, each.origin): str(each) for each in reversed(mistakes)}
    told = list(dict.fromkeys(first[each.place or each.what, each.origin] for each in mistakes))
    count = "1 mistake" if len(told) == 1 else f"{len(told)} mistakes"
    lines = [f"recipe {name}: {count}", *(f"  {mistake}" for mistake in told)]
    raise RecipeError("\n".join(lines))


def mistakes_of(
    problem: ValidationError, data: object, origins: Mapping[Place, str]
) -> list[Mistake]:
    """What pydantic refused, in Lucida's words, one entry per place."""
    found: dict[Place, Mistake] = {}
    for error in problem.errors(include_url=False, include_context=True):
        place, annotation, info, parent = _resolve(error["loc"])
        if place in found:
            continue  # a union reports once per member; `expected` names them all
        what = _what(error, place, annotation, info, parent)
        found[place] = Mistake(write_dotted(place, data), what, origin_of(place, origins))
    return list(found.values())


def odd_values(data: object, origins: Mapping[Place, str]) -> list[Mistake]:
    """Values that pydantic would quietly turn into others: true into 1, '5' into 5; and numbers
    without end."""
    found: list[Mistake] = []

    def visit(value: object, annotation: Any, info: FieldInfo | None, place: Place) -> None:
        accepted = shape(annotation)
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                below = accepted.below(str(key))
                if below is not None:
                    visit(item, below, _field(accepted, value, str(key)), (*place, key))
            return
        if accepted.leaf and not _plainly(value, accepted):
            what = f"expected {expected(annotation, info)}, got {short(value)}"
            found.append(Mistake(write_dotted(place, data), what, origin_of(place, origins)))

    visit(data, Recipe, None, ())
    return found


def _field(accepted: Shape, value: dict | list, key: str) -> FieldInfo | None:
    """The field that a key of a mapping is, of the kind that the mapping names."""
    kind = value.get("kind") if accepted.tagged and isinstance(value, dict) else None
    if isinstance(kind, str) and kind in accepted.specs:
        return accepted.specs[kind].model_fields.get(key)
    return accepted.fields().get(key)


def _plainly(value: object, accepted: Shape) -> bool:
    """Whether a plain value is of a type that the place names, or of none (pydantic's to say)."""
    if isinstance(value, bool):
        return bool in accepted.scalars
    if isinstance(value, float):
        # 2.0 passes for a whole number; 1e300 is one too, of 301 digits, and does not.
        endless = not math.isfinite(value)
        return not endless and (float in accepted.scalars or abs(value) < LARGEST_NUMBER)
    if isinstance(value, str):
        numbers = {int, float, bool} & set(accepted.scalars)
        return not numbers or str in accepted.scalars or value in accepted.choices
    return True


def write_dotted(place: Place, data: object) -> str:
    """The place as an override would name it: list items by their `name` where they have one."""
    words, here = [], data
    for key in place:
        item = _item(here, key)
        named = isinstance(here, list) and isinstance(item, dict) and item.get("name")
        words.append(str(named if isinstance(named, str) else key))
        here = item
    return ".".join(words)


def origin_of(place: Place, origins: Mapping[Place, str]) -> str | None:
    """Where the value was written, or the nearest thing around it."""
    for length in range(len(place), -1, -1):
        if place[:length] in origins:
            return origins[place[:length]]
    return None


def _resolve(location: Place) -> tuple[Place, Any, FieldInfo | None, Any]:
    # pydantic's location also holds the chosen kind and the names of union members, which are
    # no keys of the data: walking the types tells them apart.
    annotation: Any = Recipe
    parent: Any = None
    info: FieldInfo | None = None
    place: list[str | int] = []
    for step in location:
        accepted = shape(annotation)
        if accepted.tagged and step in accepted.specs and annotation is not parent:
            annotation = parent = accepted.specs[str(step)]
            continue
        if accepted.leaf:
            break
        if accepted.specs and accepted.scalars:
            # Text or a mapping: pydantic names which of the two it took the value for.
            named = (spec for spec in accepted.specs.values() if spec.__name__ == step)
            annotation = parent = next(named, annotation)
            continue
        parent = annotation
        place.append(step)
        info = accepted.fields().get(str(step)) if accepted.specs else None
        annotation = accepted.below(str(step))
        if annotation is None:
            break
    return tuple(place), annotation, info, parent


def _what(
    error: Mapping[str, Any], place: Place, annotation: Any, info: FieldInfo | None, parent: Any
) -> str:
    given = short(error["input"])
    if error["type"] == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return f"expected a text as key, got {given}"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key; {suggestion(str(place[-1]), shape(parent).fields())}"
        case "missing":
            return f"required: {expected(annotation, info)}"
        case "union_tag_invalid":
            kind = str(error["ctx"]["tag"])
            return f"unknown kind `{kind}`; {suggestion(kind, shape(annotation).specs)}"
        case "union_tag_not_found":
            return f"required: a key `kind`, one of {', '.join(shape(annotation).specs)}"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            what = f"expected {expected(annotation, info)}, got {given}"
            choices = [str(choice) for choice in shape(annotation).choices]
            if isinstance(error["input"], str) and choices:
                close = suggestion(error["input"], choices).partition("? ")
                what += f"; {close[0]}?" if close[1] else ""
            return what


def _item(here: object, key: str | int) -> object:
    if isinstance(here, dict):
        return here.get(key)
    if isinstance(here, list) and isinstance(key, int) and key < len(here):
        return here[key]
    return None
