"""Lucida's own modules as a flat folder of files that needs Lucida no more.

    lucida/model/vlm.py                     lucida_model_vlm.py
      from lucida.model.fuse import fuse      from .lucida_model_fuse import fuse
      from jaxtyping import Float             from .shapes import Float      (does nothing)
      from lucida.core.spec import ModelSpec  from .spec import ModelSpec    (a plain value)

Starting from the modules that make model and processor, every module that they import comes
along. Only import statements and the targets of tables are rewritten; the rest is Lucida's source,
comments included, so that whoever is asked to trust the code can read it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lucida.core.errors import ModelError

SOURCE = Path(__file__).parents[3]
PRESENT = {"torch", "transformers", "numpy", "PIL", "jinja2", "tokenizers", "huggingface_hub"}
PRESENT |= {"safetensors", "regex"}
"""Packages that transformers, torch and images bring."""
SPEC, REGISTRY, PROGRESS = "lucida.core.spec", "lucida.core.registry", "lucida.core.progress"

SHAPES = '''"""Shapes are checked in Lucida's own tests; here the annotations only say them."""


class Shape:
    def __class_getitem__(cls, item):
        return cls


Float = Int = Bool = Shaped = Num = Shape
'''

SPECS = '''"""The model spec as it was validated when the model was made: plain values by name."""


class Value:
    """A mapping whose keys are attributes, all the way down."""

    def __init__(self, values):
        for name, value in values.items():
            setattr(self, name, wrapped(value))

    @classmethod
    def model_validate(cls, values):
        return values if isinstance(values, Value) else cls(values)

    def model_dump(self, **options):
        return {name: plain(value) for name, value in vars(self).items()}

    def __repr__(self):
        return repr(vars(self))

    def __eq__(self, other):
        return isinstance(other, Value) and vars(self) == vars(other)

    __hash__ = None


def wrapped(value):
    if isinstance(value, dict):
        return Value(value)
    return [wrapped(each) for each in value] if isinstance(value, list) else value


def plain(value):
    if isinstance(value, Value):
        return value.model_dump()
    return [plain(each) for each in value] if isinstance(value, list) else value


class TypeAdapter:
    """Stands in for pydantic's: the values were validated when the model was made."""

    def __init__(self, kind):
        pass

    def validate_python(self, value, **options):
        return wrapped(value)

    def dump_python(self, value, **options):
        return plain(value)


'''

TABLES = '''"""Tables of kinds, each loaded from this folder when it is first asked for."""

import importlib
from collections.abc import Mapping


class Table(Mapping):
    """kind -> `module:attribute` of this folder; kinds that the model does not use are absent."""

    def __init__(self, family, targets, *, group=None, error=LookupError):
        self.family, self.targets = family, dict(targets)

    def __getitem__(self, kind):
        module, _, attribute = self.targets[kind].partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def __iter__(self):
        return iter(self.targets)

    def __len__(self):
        return len(self.targets)
'''

SPEECH = '''"""Lines for the reader."""

import sys


def say(text):
    print(text, file=sys.stderr)
'''


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `first` to `last` (from 1) give way to a text."""

    first: int
    last: int
    text: str


def bundle(roots: list[str]) -> dict[str, str]:
    """File name → source of the given modules and of all that they import from Lucida.

    ModelError when one of them needs a package that transformers does not bring.
    """
    names: set[str] = set()
    files: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if flat(module) + ".py" in files:
            continue
        text, needs = rewritten(module, names)
        files[flat(module) + ".py"] = text
        waiting += sorted(needs)
    files["shapes.py"] = SHAPES
    made = "".join(f"{name} = Value\n" for name in sorted(names))
    files["spec.py"] = SPECS + made
    files["tables.py"] = TABLES
    files["speech.py"] = SPEECH
    return files


def flat(module: str) -> str:
    """`lucida.model.vlm` → `lucida_model_vlm`."""
    return module.replace(".", "_")


def file_of(module: str) -> Path | None:
    """The source file of a module of Lucida, None when there is no such module."""
    place = SOURCE.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def rewritten(module: str, names: set[str]) -> tuple[str, set[str]]:
    """The source of a module for the flat folder, and the modules that it needs.

    `names` grows by what it imports from the specs.
    """
    text = file_of(module).read_text(encoding="utf-8")
    needs: set[str] = set()
    lines = text.splitlines(keepends=True)
    for edit in sorted(edits(ast.parse(text), module, needs, names), key=lambda e: -e.first):
        indent = re.match(r"\s*", lines[edit.first - 1]).group()
        body = "".join(f"{indent}{line}\n" for line in edit.text.splitlines())
        lines[edit.first - 1 : edit.last] = [body]
    # Targets of tables: "lucida.model.projectors.mlp:MlpProjector".
    moved = re.sub(
        r'"(lucida(?:\.\w+)+):(\w+)"', lambda m: f'"{flat(m[1])}:{m[2]}"', "".join(lines)
    )
    return moved, needs


def edits(tree: ast.Module, module: str, needs: set[str], names: set[str]) -> Iterator[Edit]:
    """Every import statement that has to change; `needs` and `names` grow on the way."""
    for node, in_function in imports(tree, False):
        if isinstance(node, ast.If):
            yield Edit(node.lineno, node.end_lineno, "if TYPE_CHECKING:\n    pass")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                check_present(alias.name, module, in_function)
        elif node.module == "jaxtyping":
            yield Edit(node.lineno, node.end_lineno, f"from .shapes import {listed(node.names)}")
        elif node.module == PROGRESS:
            check_stands_in(node, module, "say")
            yield Edit(node.lineno, node.end_lineno, f"from .speech import {listed(node.names)}")
        elif node.module == "pydantic":
            check_stands_in(node, module, "TypeAdapter")
            yield Edit(node.lineno, node.end_lineno, f"from .spec import {listed(node.names)}")
        elif node.module == SPEC or node.module.startswith(f"{SPEC}."):
            names.update(alias.name for alias in node.names)
            yield Edit(node.lineno, node.end_lineno, f"from .spec import {listed(node.names)}")
        elif node.module == REGISTRY:
            yield Edit(node.lineno, node.end_lineno, f"from .tables import {listed(node.names)}")
        elif node.module.split(".")[0] == "lucida":
            yield Edit(node.lineno, node.end_lineno, "\n".join(moved_import(node, needs)))
        elif not check_present(node.module, module, in_function):
            # transformers refuses a folder that names a package which is not installed.
            yield Edit(
                node.lineno,
                node.end_lineno,
                f'from importlib import import_module\n_found = import_module("{node.module}")\n'
                + "\n".join(f"{a.asname or a.name} = _found.{a.name}" for a in node.names),
            )


def imports(tree: ast.AST, in_function: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Import statements and blocks for type checkers, with whether a function holds them."""
    for node in ast.iter_child_nodes(tree):
        checked = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        if checked or isinstance(node, ast.Import | ast.ImportFrom):
            yield node, in_function
        else:
            inside = in_function or isinstance(node, ast.FunctionDef)
            yield from imports(node, inside)


def moved_import(node: ast.ImportFrom, needs: set[str]) -> Iterator[str]:
    """`from lucida.… import …` for the flat folder; a module that is imported comes along."""
    plain = []
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        if file_of(inner):
            needs.add(inner)
            yield f"from . import {flat(inner)} as {alias.asname or alias.name}"
        else:
            plain.append(alias)
    if plain:
        needs.add(node.module)
        yield f"from .{flat(node.module)} import {listed(plain)}"


def check_stands_in(node: ast.ImportFrom, module: str, known: str) -> None:
    """ModelError for what there is no stand-in of."""
    for alias in node.names:
        if alias.name != known:
            raise ModelError(
                f"{module} needs {alias.name} of {node.module}, which remote code cannot bring"
                " along"
            )


def listed(names: list[ast.alias]) -> str:
    """`a, b as c`."""
    return ", ".join(f"{a.name} as {a.asname}" if a.asname else a.name for a in names)


def check_present(package: str, module: str, in_function: bool) -> bool:
    """Is the package there wherever transformers is? One that is not may be used inside functions,
    which an export may never call; at the top of a module it is a ModelError."""
    top = package.split(".")[0]
    if top in PRESENT or top in sys.stdlib_module_names:
        return True
    if not in_function:
        raise ModelError(
            f"{module} needs {top}, which a folder of remote code cannot bring along",
            remedy="export a design without this part",
        )
    return False
