"""A recipe file as plain data, with the line that every value came from.

YAML 1.2 is what people expect: `1e-3` is a number, `no` and `on` are text, `12:30` is no number.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import yaml

from lucida.core.errors import RecipeError

LARGEST_FILE = 1 << 20
MOST_NODES = 20_000
"""Nodes of a recipe once anchors are written out: a small file can unfold into billions."""

Place = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML with version 1.2's numbers and booleans."""


class RecipeDumper(yaml.SafeDumper):
    """Writes what `RecipeLoader` reads back equal."""


_SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
for _style in (RecipeLoader, RecipeDumper):
    _style.yaml_implicit_resolvers = {}
    for _tag, _form, _first in _SCALARS:
        _style.add_implicit_resolver(_tag, re.compile(rf"^(?:{_form})$"), list(_first))


@dataclass(frozen=True)
class Document:
    """Plain data and, for every place in it, where it was written."""

    data: dict
    origins: dict[Place, str]


def read_document(path: Path) -> Document:
    """Reads a YAML file whose top is a mapping."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RecipeError("too large for a recipe (over 1 MiB)", origin=path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise RecipeError(f"cannot be read: {problem.strerror}", origin=path) from problem
    except UnicodeDecodeError as problem:
        raise RecipeError(f"is not UTF-8 text (byte {problem.start})", origin=path) from problem
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """The same from text; `name` says where the text came from."""
    origins: dict[Place, str] = {}
    try:
        loader = RecipeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            what = "is empty" if node is None else "is not a mapping of keys to values"
            raise RecipeError(what, origin=name, remedy="`lucida show mini` prints a whole recipe")
        _locate(node, (), name, origins)
        data = loader.construct_document(node)
    except yaml.YAMLError as problem:
        raise RecipeError(f"is not YAML: {_one_line(problem)}", origin=name) from problem
    except RecursionError as problem:
        raise RecipeError("is nested too deeply", origin=name) from problem
    return Document(_written_out(data), origins)


def parse_value(text: str) -> object:
    """One value as a recipe file would read it; ValueError when it is not YAML."""
    try:
        return _written_out(yaml.load(text, RecipeLoader))
    except yaml.YAMLError as problem:
        raise ValueError(_one_line(problem)) from problem
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem


def dump_document(data: object) -> str:
    """Data as YAML text, keys in their order."""
    return yaml.dump(data, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=96)


def _locate(node: yaml.Node, place: Place, name: str, origins: dict[Place, str]) -> None:
    # Anchors appear once per use; a cycle or a bomb runs into the limit.
    if len(origins) > MOST_NODES or len(place) > 50:
        raise RecipeError("unfolds into too many values or is nested in itself", origin=name)
    origins[place] = f"{name}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*place, index), name, origins)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key_node, value in node.value:
            key = key_node.value
            line = f"{name}, line {key_node.start_mark.line + 1}"
            if not isinstance(key, Hashable):
                raise RecipeError("a key is a list or mapping", origin=line)
            if key in seen:
                raise RecipeError(f"the key `{key}` stands twice", origin=line)
            seen.add(key)
            if key_node.tag.endswith(":merge"):
                continue
            _locate(value, (*place, key), name, origins)
            origins[*place, key] = line


def _written_out(value: object) -> object:
    # An anchor used twice gives one shared object: an override in one stage would change both.
    if isinstance(value, dict):
        return {key: _written_out(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written_out(item) for item in value]
    return value


def _one_line(problem: yaml.YAMLError) -> str:
    mark = getattr(problem, "problem_mark", None)  # only the marked kind of YAML error has one
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(getattr(problem, "problem", None) or problem).split())
