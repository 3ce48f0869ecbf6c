"""The rules of the house, read from the source: who may import whom, sizes, names, axes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from lucida.core.shapes import AXES

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lucida"
LAYERS = ["core", "world", "data", "model", "train", "eval", "parts", "study", "apps"]
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "matplotlib"}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "factory", "manager"}
LARGEST_FILE, LONGEST_FUNCTION = 400, 60

parsed = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*FILES, *TESTS]}


def label(path):
    return str(path.relative_to(ROOT))


def refuse(violations):
    """Fails with every violation of a rule, not only with the first."""
    found = list(violations)
    assert not found, "\n".join([f"{len(found)} in all", *found])


def imported(tree):
    """Every imported module with its line, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its layer"
            yield node.module, node.lineno
            if node.module == "lucida":
                for alias in node.names:
                    yield f"lucida.{alias.name}", node.lineno


def layer(module):
    """Number of the layer that a `lucida.*` module belongs to, None for the package itself."""
    words = module.split(".")
    return LAYERS.index(words[1]) if len(words) > 1 and words[1] in LAYERS else None


def test_imports_go_leftwards_only():
    refuse(
        f"{label(path)}, line {line}: {LAYERS[own]} imports {module}"
        for path in FILES
        if (own := layer(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)))
        is not None
        for module, line in imported(parsed[path])
        if module.split(".")[0] == "lucida" and (layer(module) or 0) > own
    )


def test_core_and_world_need_no_torch():
    refuse(
        f"{label(path)}, line {line}: {module}"
        for path in FILES
        if path.relative_to(SOURCE).parts[0] in ("core", "world")
        for module, line in imported(parsed[path])
        if module.split(".")[0] in HEAVY
    )


def test_a_person_can_hold_a_file():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    refuse(f"{label(path)} has {n} lines" for path, n in lengths.items() if n > LARGEST_FILE)
    refuse(
        f"{label(path)}: {node.name} has {length} lines"
        for path in FILES
        for node in ast.walk(parsed[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    )


def test_names_say_something():
    refuse(
        label(path)
        for path in FILES
        if EMPTY_NAMES & set(path.relative_to(SOURCE).with_suffix("").parts)
    )


def test_a_file_says_what_it_is():
    refuse(
        f"{label(path)}: no docstring"
        for path in FILES
        if parsed[path].body and not ast.get_docstring(parsed[path])
    )


def test_no_except_is_bare():
    refuse(
        f"{label(path)}, line {node.lineno}: bare except"
        for path in [*FILES, *TESTS]
        for node in ast.walk(parsed[path])
        if isinstance(node, ast.ExceptHandler) and node.type is None
    )


def test_axis_names_are_the_ones_of_core_shapes():
    refuse(
        f"{label(path)}, line {line}: axis `{word}`"
        for path in FILES
        for shape, line in shapes(parsed[path])
        for word in re.findall(r"[a-z_]+", shape)
        if word not in AXES
    )


def shapes(tree):
    """Every jaxtyping shape with its line."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id in ("Float", "Int", "Bool", "Shaped", "Num"):
            yield node.slice.elts[1].value if isinstance(node.slice, ast.Tuple) else "", node.lineno


def test_every_axis_is_used():
    text = " ".join(path.read_text(encoding="utf-8") for path in FILES)
    shapes = " ".join(re.findall(r"(?:Float|Int|Bool|Shaped|Num)\[[\w.| ]+, \"([^\"]+)\"", text))
    assert set(AXES) <= set(re.findall(r"[a-z_]+", shapes))


def test_every_layer_is_a_package():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages <= set(LAYERS)


def test_nothing_shipped_names_a_private_place():
    shipped = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "Makefile")]
    shipped += [*FILES, *(ROOT / "scripts").glob("*"), *SOURCE.glob("recipes/*")]
    for path in shipped:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|Users|work|opt)/", text), label(path)
