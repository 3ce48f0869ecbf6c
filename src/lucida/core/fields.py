"""What may stand at a place in a recipe, read from the specs themselves.

Overrides, mistakes and `explain` all walk the same types, so that a new field or kind in
`lucida.core.spec` needs no line anywhere else.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lucida.core.spec import Spec

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Shape:
    """The forms that a place accepts.

    specs: kind → spec class; a spec without kinds has the kind "". items, values: type of a list's
    items, of a mapping's values; None when the place is no list or mapping. choices: literal
    values. scalars: plain types.
    """

    specs: dict[str, type[Spec]] = field(default_factory=dict)
    items: Any = None
    values: Any = None
    choices: tuple[object, ...] = ()
    scalars: tuple[type, ...] = ()
    null: bool = False

    @property
    def tagged(self) -> bool:
        """Whether a key `kind` decides which spec is meant."""
        return bool(self.specs) and "" not in self.specs

    @property
    def leaf(self) -> bool:
        """Whether nothing can stand below."""
        return not self.specs and self.items is None and self.values is None

    def fields(self) -> dict[str, FieldInfo]:
        """Fields of every spec that may stand here."""
        found: dict[str, FieldInfo] = {}
        for spec in self.specs.values():
            found |= spec.model_fields
        return found

    def below(self, key: str) -> Any:
        """Type of what stands under `key`; None when there can be no such key."""
        if self.specs:
            info = self.fields().get(key)
            return None if info is None else info.annotation
        return self.items if self.items is not None else self.values


@functools.cache
def _spec_kind(spec: type[Spec]) -> str:
    info = spec.model_fields.get("kind")
    choices = get_args(info.annotation) if info else ()
    return str(choices[0]) if len(choices) == 1 else ""  # of several it is a field like any other


def shape(annotation: Any) -> Shape:
    """The forms that a type annotation accepts."""
    specs, choices, scalars = {}, [], []
    items = values = None
    null = False
    for member in _members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if member is type(None):
            null = True
        elif isinstance(member, type) and issubclass(member, Spec):
            specs[_spec_kind(member)] = member
        elif origin is Literal:
            choices += arguments
        elif origin is list:
            items = arguments[0]
        elif origin is dict:
            values = arguments[1]
        else:
            scalars.append(member)
    return Shape(specs, items, values, tuple(choices), tuple(scalars), null)


def expected(annotation: Any, info: FieldInfo | None = None) -> str:
    """The accepted values in words: `a whole number > 0 or null`."""
    accepted = shape(annotation)
    forms = []
    if accepted.specs:
        kinds = f" with kind {', '.join(accepted.specs)}" if accepted.tagged else ""
        forms.append(f"a mapping{kinds}")
    if accepted.items is not None:
        forms.append(f"a list of {_plural(accepted.items)}")
    if accepted.values is not None:
        forms.append(f"a mapping from names to {_plural(accepted.values)}")
    forms += [_WORDS.get(scalar, scalar.__name__) for scalar in accepted.scalars]
    # Before choices and null are named: a range is of numbers, a length of a list or mapping.
    if forms and (limits := limit_words(info)):
        forms[-1] += f" {limits}"
    forms += [_literal(choice) for choice in accepted.choices]
    if accepted.null:
        forms.append("null")
    return forms[0] if len(forms) == 1 else ", ".join(forms[:-1]) + f" or {forms[-1]}"


def limit_words(info: FieldInfo | None) -> str:
    """Range and form of a field in symbols, such as `>= 1 and <= 8`; empty when there are none."""
    words = []
    for limit in info.metadata if info else ():
        match limit:
            case annotated_types.Gt(gt=bound):
                words.append(f"> {bound}")
            case annotated_types.Ge(ge=bound):
                words.append(f">= {bound}")
            case annotated_types.Lt(lt=bound):
                words.append(f"< {bound}")
            case annotated_types.Le(le=bound):
                words.append(f"<= {bound}")
            case annotated_types.MinLen(min_length=bound):
                words.append(f"with at least {bound} entr{'y' if bound == 1 else 'ies'}")
            case _:
                pattern = getattr(limit, "pattern", None)  # pydantic's class for it is private
                words += [f"of the form {pattern}"] if pattern else []
    return " and ".join(words)


def default_kind(info: FieldInfo | None) -> str:
    """The kind that a field takes when the recipe does not say; empty when it must say."""
    default = PydanticUndefined if info is None else info.get_default(call_default_factory=True)
    return _spec_kind(type(default)) if isinstance(default, Spec) else ""


def short(value: object) -> str:
    """A value as YAML would write it, cut to a line."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _plural(annotation: Any) -> str:
    plurals = {int: "whole numbers", float: "numbers", str: "texts"}
    accepted = shape(annotation)
    words = ["mappings"] if accepted.specs else []
    words += [plurals.get(scalar, scalar.__name__) for scalar in accepted.scalars]
    return " or ".join(words + [_literal(choice) for choice in accepted.choices])


def _literal(choice: object) -> str:
    return f"`{choice}`" if isinstance(choice, str) else short(choice)
