"""Changes to a recipe from the command line: `key=value` with dotted keys.

stages.sft.optim.warmup=0.1      list items by name …
stages.0.budget.steps=10         … or by index, from 0
stages.sft.train.language=1e-3   keys of a mapping; parameter patterns may contain dots
model.projector.kind=linear      another kind; what both kinds have stays as it is
model.projector=linear           the same, shorter
model.projector={kind: linear}   another kind and nothing of the old one
stages.align=null                an entry of a list or mapping that cannot be null is removed
evaluation.tasks=[caption]       values are YAML

A key that the new kind does not have is refused, as it is in a recipe file, unless it stands at the
default of the old kind, where it says nothing: a choice of the recipe is never dropped unasked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from lucida.core.document import UNWRITABLE, Document, Place, parse_value
from lucida.core.errors import suggestion
from lucida.core.fields import Shape, default_kind, shape, short
from lucida.core.mistakes import Mistake
from lucida.core.spec import Recipe, Spec


class WrongOverride(ValueError):
    """Why an override cannot be applied."""


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[Mistake]:
    """Changes the document's data in place, in order; what cannot be applied is returned."""
    mistakes = []
    for override in overrides:
        origin = "override " + (override if len(override) <= 80 else override[:79] + "…")
        key, equals, text = override.partition("=")
        try:
            if not equals or not key.strip("."):
                raise WrongOverride("expected key=value, for instance seed=1")
            if odd := UNWRITABLE.search(key):
                raise WrongOverride(f"a key may not hold the character {odd[0]!r}")
            change = (key.strip(), _value(text), origin)
        except WrongOverride as problem:
            mistakes.append(Mistake(key.strip(), str(problem), origin))
        else:
            mistakes += apply_changes(document, [change])
    return mistakes


def apply_changes(document: Document, changes: Iterable[tuple[str, object, str]]) -> list[Mistake]:
    """The same for (dotted key, value, where it was written)."""
    mistakes = []
    for key, value, origin in changes:
        try:
            place, removed = _assign(document.data, key.split("."), value)
        except WrongOverride as problem:
            mistakes.append(Mistake(key, str(problem), origin))
            continue
        # What stood below this place is gone, and its lines with it.
        for inner in [known for known in document.origins if known[: len(place)] == place]:
            del document.origins[inner]
        if removed:
            _close_gap(document.origins, place)
        else:
            document.origins[place] = origin
    return mistakes


def _close_gap(origins: dict[Place, str], gone: Place) -> None:
    """Entries of a list behind the one that went have moved up by one."""
    *above, index = gone
    if not isinstance(index, int):
        return
    depth = len(above)
    moved = {}
    for place in list(origins):
        if place[:depth] == tuple(above) and len(place) > depth and place[depth] > index:
            moved[*above, place[depth] - 1, *place[depth + 1 :]] = origins.pop(place)
    origins |= moved


def _value(text: str) -> object:
    try:
        return parse_value(text)
    except ValueError as problem:
        raise WrongOverride(f"the value cannot be read: {problem}") from problem


def _assign(data: dict, keys: list[str], value: object) -> tuple[Place, bool]:
    """Sets the value; returns its place, and whether the entry there was removed."""
    here: Any = data
    accepted = shape(Recipe)
    place: list[str | int] = []
    info: FieldInfo | None = None
    while True:
        key, keys = _next_key(here, accepted, keys, place)
        place.append(key)
        # Here `info` is still the field that `here` stands in; the next line moves it one step
        # down.
        current_kind = _kind(here, info)
        info = accepted.fields().get(str(key)) if accepted.specs else None
        below = shape(accepted.below(str(key)))
        if not keys:
            break
        inner = here[key] if isinstance(key, int) else here.get(key)
        if not isinstance(inner, dict | list):
            inner = here[key] = _fresh(below, info, place, keys)
        here, accepted = inner, below
    # Null of a spec's field is a value like any other, and the spec's to refuse; of a list or a
    # mapping from names it can only mean that the entry goes.
    if value is None and not accepted.specs and not below.null:
        _remove(here, key, place)
        return tuple(place), True
    if key == "kind" and accepted.tagged:
        _change_kind(here, accepted, current_kind, value, _write_dotted(place[:-1]))
    elif below.tagged and isinstance(value, str):
        _put_kind(here, key, below, info, value, _write_dotted(place))
    else:
        here[key] = value
    return tuple(place), False


def _write_dotted(place: Iterable[str | int]) -> str:
    return ".".join(map(str, place))


def _remove(here: Any, key: str | int, place: list[str | int]) -> None:
    if isinstance(here, dict) and key not in here:
        where = _write_dotted(place[:-1])
        raise WrongOverride(f"{where} has no `{key}` to remove; {suggestion(str(key), here)}")
    del here[key]


def _next_key(
    here: Any, accepted: Shape, keys: list[str], place: list[str | int]
) -> tuple[str | int, list[str]]:
    """The key that the front of `keys` names in `here`, and the keys that remain."""
    where = _write_dotted(place) or "a recipe"
    first = keys[0]
    if accepted.leaf:
        raise WrongOverride(f"{where} is a plain value; nothing stands below it")
    if accepted.items is not None and isinstance(here, list):
        return _list_index(here, first, where), keys[1:]
    if not isinstance(here, dict):
        raise WrongOverride(f"{where} is {short(here)} in the file, so `{first}` cannot be set")
    if accepted.values is not None:
        # Nothing can stand below, so all that is left is one name: `train.language.layers.0.*`.
        if shape(accepted.values).leaf:
            return ".".join(keys), []
        # A source's name may hold dots: the longest name that exists wins.
        for length in range(len(keys), 1, -1):
            if ".".join(keys[:length]) in here:
                return ".".join(keys[:length]), keys[length:]
        if len(keys) > 1 and first not in here:
            raise WrongOverride(f"no `{first}` in {where}; {suggestion(first, map(str, here))}")
    elif first not in accepted.fields():
        raise WrongOverride(f"unknown key `{first}`; {suggestion(first, accepted.fields())}")
    return first, keys[1:]


def _list_index(here: list, key: str, where: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in here]
    if names.count(key) == 1:
        return names.index(key)
    if names.count(key) > 1:
        raise WrongOverride(f"{names.count(key)} entries of {where} are called `{key}`; use 0, 1")
    if key.isdecimal() and int(key) < len(here):
        return int(key)
    known = suggestion(key, [str(name) for name in names if name])
    numbers = f" (or 0 to {len(here) - 1})" if here else ""
    raise WrongOverride(f"{where} has no entry `{key}`; {known}{numbers}")


def _fresh(below: Shape, info: FieldInfo | None, place: list[str | int], keys: list[str]) -> dict:
    """What to put where the file is silent or null and something below is set."""
    if below.leaf:
        where = _write_dotted(place)
        raise WrongOverride(f"{where} is a plain value; it has no `{keys[0]}`")
    kind = default_kind(info)
    return {"kind": kind} if kind else {}


def _kind(here: Any, info: FieldInfo | None) -> str:
    return str(here.get("kind") or default_kind(info)) if isinstance(here, dict) else ""


def _change_kind(here: dict, accepted: Shape, old: str, new: object, where: str) -> None:
    """Another kind in a mapping; WrongOverride when a choice made there does not exist for it."""
    known = isinstance(new, str) and {old, new} <= accepted.specs.keys()
    if known and old != new:
        before, after = accepted.specs[old].model_fields, accepted.specs[new].model_fields
        gone = [key for key in here if key in before and key not in after]
        chosen = [key for key in gone if here[key] != _default(before[key])]
        if chosen:
            kept = ", ".join(f"{key}: {short(here[key])}" for key in chosen)
            which = "these are choices" if len(chosen) > 1 else "this is a choice"
            raise WrongOverride(
                f"the kind {new} has no {', '.join(f'`{key}`' for key in chosen)}, and {which} of "
                f"the recipe ({kept}); {where}={{kind: {new}}} starts without what is there"
            )
        for key in gone:
            del here[key]
    here["kind"] = new


def _default(info: FieldInfo) -> object:
    """The default of a field as a recipe writes it."""
    default = info.get_default(call_default_factory=True)
    return default.model_dump(mode="json") if isinstance(default, Spec) else default


def _put_kind(
    here: Any, key: str | int, below: Shape, info: FieldInfo | None, kind: str, where: str
) -> None:
    if kind not in below.specs:
        raise WrongOverride(f"unknown kind `{kind}`; {suggestion(kind, below.specs)}")
    inner = here[key] if isinstance(key, int) else here.get(key)
    inner = inner if isinstance(inner, dict) else {}
    _change_kind(inner, below, _kind(inner, info), kind, where)
    here[key] = inner
