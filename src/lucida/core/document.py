"""A recipe file as plain data, with the line that every value came from.

YAML 1.2 is what people expect: `1e-3` is a number, `no` and `on` are text, `12:30` is no number.

    text ─▶ nodes (at most MOST_NODES) ─▶ data and lines: tags checked, anchors and `<<` written out

What a recipe can hold is what can be written back: whole numbers of 64 bits, text without NUL and
without halves of characters. Anything else is refused with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from lucida.core.errors import RecipeError

LARGEST_FILE = 1 << 20
"""Bytes of a file, and characters of all its values once anchors are written out."""
MOST_NODES = 20_000
"""Nodes of a recipe once anchors are written out: a small file can unfold into billions."""
DEEPEST = 50
"""Levels of lists and mappings in each other."""
LARGEST_NUMBER = 1 << 63
"""Whole numbers are smaller than this, and not below its negative."""

Place = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""

_KNOWN = "tag:yaml.org,2002:"
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL and halves of characters, which no file name, prompt or YAML file can hold."""


class NotReadable(ValueError):
    """What is wrong with a text, and in which line (from 1)."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


DEEPEST = 100
"""Brackets within brackets that a recipe may have."""


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML with version 1.2's numbers and booleans, up to `MOST_NODES` nodes."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """One more node; NotReadable when there are too many."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise NotReadable(f"holds more than {MOST_NODES:,} values", self.line + 1)
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        """One more bracket; NotReadable for one too deep. PyYAML looks a thousand characters ahead
        of each, and at all that are open for every one: 8 seconds until Python's stack is full."""
        if self.flow_level >= DEEPEST:
            raise NotReadable("is nested too deeply", self.line + 1)
        super().fetch_flow_collection_start(TokenClass)


class RecipeDumper(yaml.SafeDumper):
    """Writes what `RecipeLoader` reads back equal."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Text; in quotes and escaped where YAML would take a character of it for a line's end."""
        odd = any(each in text for each in "\x85\u2028\u2029")
        return self.represent_scalar(_KNOWN + "str", text, style='"' if odd else None)


RecipeDumper.add_representer(str, RecipeDumper.represent_str)

# Tag, form and the characters that it may begin with, by which PyYAML finds it ("": the empty
# scalar). Of several forms that fit the first counts: `7` fits float's as well.
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
_FORMS = {tag: re.compile(rf"(?:{form})\Z") for tag, form, _ in _SCALARS}
# Emptied first: SafeLoader's own forms are YAML 1.1's, where `no` is false, `12:30` is 750 and
# `1e-3` is text. The writer has the same ones, so that it quotes a text that would read as another
# type.
for _style in (RecipeLoader, RecipeDumper):
    _style.yaml_implicit_resolvers = {}
    for _tag, _, _first in _SCALARS:
        _style.add_implicit_resolver(_KNOWN + _tag, _FORMS[_tag], list(_first))


@dataclass(frozen=True)
class Document:
    """Plain data and, for every place in it, where it was written."""

    data: dict
    origins: dict[Place, str]


DATA = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
"""Endings that no recipe has."""


def read_document(path: Path) -> Document:
    """Reads a YAML file whose top is a mapping."""
    if path.suffix.lower() in DATA:
        raise RecipeError(
            "is a file of data, by its name, and no recipe",
            origin=path,
            remedy="a recipe names it among its sources: `lucida new DIR` writes one to start from",
        )
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as problem:  # ValueError: a name that no file can have
        what = getattr(problem, "strerror", None) or problem
        raise RecipeError(f"cannot be read: {what}", origin=path) from problem
    if len(content) > LARGEST_FILE:
        raise RecipeError("too large for a recipe (over 1 MiB)", origin=path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise RecipeError(f"is not UTF-8 text (byte {problem.start})", origin=path) from problem
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """The same from text; `name` says where the text came from."""
    try:
        node, reading = _compose(text), _Reading()
        if not isinstance(node, yaml.MappingNode):
            what = "is empty" if node is None else "is not a mapping of keys to values"
            raise RecipeError(what, origin=name, remedy="`lucida show mini` prints a whole recipe")
        data = reading.value(node, ())
    except NotReadable as problem:
        raise RecipeError(str(problem), origin=f"{name}, line {problem.line}") from problem
    origins = {place: f"{name}, line {line}" for place, line in reading.lines.items()}
    return Document(data, origins)


def parse_value(text: str) -> object:
    """One value as a recipe file would read it; NotReadable (a ValueError) when it cannot be."""
    if len(text) > LARGEST_FILE:
        raise NotReadable("it is too large for a recipe (over 1 MiB)", 1)
    node = _compose(text)
    return None if node is None else _Reading().value(node, ())


def dump_document(data: object) -> str:
    """Data as YAML text, keys in their order."""
    return yaml.dump(data, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=96)


@lru_cache(maxsize=32)  # a run's recipe is read many times, and this takes most of the time
def _compose(text: str) -> yaml.Node | None:
    """The nodes of a text, None when there are none. Nobody changes them."""
    loader = None
    try:
        loader = RecipeLoader(text)
        return loader.get_single_node()
    except NotReadable:
        raise
    except RecursionError as problem:
        raise NotReadable("is nested too deeply", loader.line + 1) from problem
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        what = f"is not YAML: line {line}: the character {problem.character!r} may not stand here"
        raise NotReadable(what, line) from problem
    # PyYAML makes numbers and characters of escapes and directives without looking at them.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError) as problem:
        mark = getattr(problem, "problem_mark", None)  # only one kind of YAML error has one
        line, column = (mark.line, mark.column) if mark else (loader.line, loader.column)
        what = " ".join(str(getattr(problem, "problem", None) or problem).split())
        what = f"is not YAML: line {line + 1}, column {column + 1}: {what}"
        raise NotReadable(what, line + 1) from problem


@dataclass
class _Reading:
    """Nodes become data, each use of an anchor its own: an override in one stage must not change
    another. Counts what has been written out, and notes the line of every place."""

    lines: dict[Place, int] = field(default_factory=dict)
    nodes: int = 0
    characters: int = 0

    def value(self, node: yaml.Node, place: Place) -> object:
        """What a node means at this place."""
        line = node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MOST_NODES or len(place) > DEEPEST:
            what = "unfolds into too many values, is nested too deeply or is nested in itself"
            raise NotReadable(what, line)
        self.lines[place] = line
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        form = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _KNOWN + form:
            raise NotReadable(f"the tag {_write_tag(node.tag)} has no meaning in a recipe", line)
        if form == "seq":
            return [self.value(item, (*place, at)) for at, item in enumerate(node.value)]
        return self.mapping(node, place)

    def mapping(self, node: yaml.MappingNode, place: Place) -> dict:
        """Keys and values; those that `<<` brings come first, and the mapping's own win."""
        found: dict = {}
        own: list[tuple[str | int, yaml.Node, yaml.Node]] = []
        seen = set()
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise NotReadable("a key is a list or mapping", line)
            merges = key_node.tag == _KNOWN + "merge"
            key = "<<" if merges else self.scalar(key_node)
            # `1` and '1' are one key to an override, which can only write text.
            if (twice := key_node.value if key is None else str(key)) in seen:
                raise NotReadable(f"the key `{_cut_text(twice)}` stands twice", line)
            seen.add(twice)
            if merges:
                found |= self.merged(value, place)
            else:
                own.append((key, key_node, value))
        # Only now: `<<` may stand behind a key that it must not replace.
        for key, key_node, value in own:
            found[key] = self.value(value, (*place, key))
            # `value` has noted where the value begins, which of a mapping is the line after its
            # key.
            self.lines[*place, key] = key_node.start_mark.line + 1
        return found

    def merged(self, node: yaml.Node, place: Place) -> dict:
        """What `<<: *anchor` or `<<: [*first, *second]` brings; of a list the first wins."""
        several = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict = {}
        for each in reversed(several):
            brought = self.value(each, place)
            if not isinstance(brought, dict):
                line = each.start_mark.line + 1
                raise NotReadable("`<<` takes a mapping, or a list of them", line)
            found |= brought
        return found

    def scalar(self, node: yaml.ScalarNode) -> object:
        """A plain value, which its tag has to fit."""
        line, text = node.start_mark.line + 1, node.value
        tag = node.tag.removeprefix(_KNOWN)
        self.characters += len(text)
        if self.characters > LARGEST_FILE:
            raise NotReadable("unfolds into too much text (over 1 MiB)", line)
        # Where it is no key, `<<` is text like any other.
        if tag in ("str", "merge"):
            if odd := UNWRITABLE.search(text):
                raise NotReadable(f"a text may not hold the character {odd[0]!r}", line)
            return text
        if tag not in _FORMS:
            raise NotReadable(f"the tag {_write_tag(node.tag)} has no meaning in a recipe", line)
        # `!!float 3`: float because it says so, though a whole number by its form.
        if tag == "float" and _FORMS["int"].match(text):
            return float(self.number(text, line))
        if not _FORMS[tag].match(text):
            raise NotReadable(
                f"`{_cut_text(text)}` does not fit its tag {_write_tag(node.tag)}", line
            )
        match tag:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self.number(text, line)
            case _:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def number(self, text: str, line: int) -> int:
        """A whole number of 64 bits."""
        if len(text) <= 100:
            value = int(text.replace("_", ""), 16 if "x" in text else 10)
            if -LARGEST_NUMBER <= value < LARGEST_NUMBER:
                return value
        what = f"the whole number {_cut_text(text)} is too large: 64 bits are the most"
        raise NotReadable(what, line)


def _write_tag(tag: str) -> str:
    """A tag as people write it."""
    return _cut_text(f"!!{tag.removeprefix(_KNOWN)}" if tag.startswith(_KNOWN) else tag)


def _cut_text(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
