"""The recipe's reference, printed from the specs: fields, types, defaults, ranges, kinds."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, Literal

from pydantic.fields import FieldInfo

from lucida.core.errors import RecipeError, suggestion
from lucida.core.fields import Shape, expected, shape, short
from lucida.core.spec import Recipe, Spec


def explain(dotted: str = "") -> str:
    """What may stand at a place, in words: `explain("model.projector")`, `explain("stages.optim")`.

    Names and indices of list items and mapping entries may stand in the place or be left out.
    """
    annotation: Any = Recipe
    info: FieldInfo | None = None
    keys = [key for key in dotted.split(".") if key]
    title = ".".join(keys) or "recipe"
    while keys:
        accepted = shape(annotation)
        if len(keys) == 1 and accepted.tagged and (pages := _kinds(title, accepted, keys[0])):
            return "\n".join(pages)
        annotation, info, keys = _step(annotation, keys)
    return "\n".join(_page(title, annotation, info))


def _step(annotation: Any, keys: list[str]) -> tuple[Any, FieldInfo | None, list[str]]:
    accepted, key = shape(annotation), keys[0]
    inside = accepted.items if accepted.items is not None else accepted.values
    if inside is not None:
        # `stages.optim` and `stages.sft.optim` mean the same; a pattern in `train` may hold dots.
        skips = key not in _keys(shape(inside))
        rest = [] if shape(inside).leaf else keys[1:] if skips else keys
        return inside, None, rest
    if accepted.tagged and key in accepted.specs:
        return accepted.specs[key], None, keys[1:]
    known = _keys(accepted)
    if key not in known:
        remedy = suggestion(key, known) if known else "it is a plain value; nothing stands below it"
        raise RecipeError(f"a recipe has no `{key}` there", remedy=remedy)
    info = accepted.fields()[key]
    return info.annotation, info, keys[1:]


def _kinds(title: str, accepted: Shape, key: str) -> list[str]:
    """What stands under a key where several kinds may: the kinds themselves, or a page for each
    kind that has the key, where they differ; nothing else."""
    if key == "kind":
        return [f"{title}: {expected(Literal[tuple(accepted.specs)], None)}"]
    fields = {kind: spec.model_fields.get(key) for kind, spec in accepted.specs.items()}
    pages = {kind: _page(title, i.annotation, i) for kind, i in fields.items() if i is not None}
    if len(set(map(tuple, pages.values()))) < 2:
        return []
    lines = [line for kind, page in pages.items() for line in (f"kind: {kind}", *page, "")]
    return lines[:-1]


def _keys(accepted: Shape) -> dict[str, FieldInfo]:
    return accepted.fields()


def _page(title: str, annotation: Any, info: FieldInfo | None) -> list[str]:
    accepted = shape(annotation)
    lines = [f"{title}: {expected(annotation, info)}{_default(info)}"]
    if info is not None and info.description:
        lines += ["", *_wrap(info.description, "")]
    inside = accepted.items if accepted.items is not None else accepted.values
    if inside is not None:
        accepted = shape(inside)
        lines += ["", "each entry:"] if accepted.specs else []
    for kind, spec in accepted.specs.items():
        lines += ["", *_spec_lines(kind, spec)]
    return lines


def _spec_lines(kind: str, spec: type[Spec]) -> list[str]:
    lines = [f"kind: {kind}"] if kind else []
    lines += _wrap(inspect.getdoc(spec) or "", "")
    for name, info in spec.model_fields.items():
        if name != "kind":
            lines += ["", f"  {name}: {expected(info.annotation, info)}{_default(info)}"]
            lines += _wrap(info.description or "", "      ")
    return lines


def _default(info: FieldInfo | None) -> str:
    if info is None:
        return ""
    if info.is_required():
        return "; required"
    default = info.get_default(call_default_factory=True)
    if isinstance(default, Spec):
        kind = default.model_dump().get("kind")
        return f"; default kind {kind}" if kind else "; may be left out"
    return f"; default {short(default)}"


def _wrap(text: str, indent: str) -> list[str]:
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += textwrap.wrap(paragraph, 96, initial_indent=indent, subsequent_indent=indent)
    return lines
