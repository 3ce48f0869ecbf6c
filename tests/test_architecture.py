"""The rules of the house, read from the source: who may import whom, sizes, names, axes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from lucida.core.shapes import AXES

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "lucida"
LAYERS = [
    "core",
    "world",
    "data",
    "model",
    "training",
    "eval",
    "parts",
    "study",
    "interpretability",
    "serve",
    "apps",
]
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "matplotlib"}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "factory", "manager"}
LARGEST_FILE, LONGEST_FUNCTION = 400, 60


class Parsed(dict):
    """Path → all nodes of its syntax tree, the tree itself first. Parsed when it is first asked
    for, as who collects tests needs none; walked once, as seven rules look at every node."""

    def __missing__(self, path):
        self[path] = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        return self[path]


parsed = Parsed()


def label(path):
    return str(path.relative_to(ROOT))


def refuse(violations):
    """Fails with every violation of a rule, not only with the first."""
    found = list(violations)
    assert not found, "\n".join([f"{len(found)} in all", *found])


def imported(nodes):
    """Every imported module with its line, wherever in the file the import stands."""
    for node in nodes:
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
        for node in parsed[path]
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
        if parsed[path][0].body and not ast.get_docstring(parsed[path][0])
    )


def test_no_except_is_bare():
    refuse(
        f"{label(path)}, line {node.lineno}: bare except"
        for path in [*FILES, *TESTS]
        for node in parsed[path]
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


def shapes(nodes):
    """Every jaxtyping shape with its line."""
    for node in nodes:
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
    for path in filter(Path.is_file, shipped):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|Users|work|opt)/", text), label(path)


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported_files(tree, modules):
    """Modules of the package that a file needs when it runs, wherever in it the import stands."""
    pending, found = [tree], set()
    while pending:
        node = pending.pop()
        pending += [] if is_type_checking(node) else ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & modules or {node.module}
    return found & modules


def test_no_file_needs_itself():
    """Imports inside functions count: of two files that need each other one is in the wrong place.
    What only annotations name does not."""
    names = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    needs = {
        name: imported_files(parsed[path][0], set(names)) - {name} for name, path in names.items()
    }
    free = set()
    while ready := {name for name in needs.keys() - free if needs[name] <= free}:
        free |= ready
    # Whatever only leads into a circle is no part of it.
    circles = needs.keys() - free
    while outer := {name for name in circles if not any(name in needs[user] for user in circles)}:
        circles -= outer
    refuse(f"{name} -> {', '.join(sorted(needs[name] & circles))}" for name in sorted(circles))


FOREIGN = {
    ("apps/plan/depth.py", "forward ="): "a layer that is left out hands on what it was given",
    ("apps/plan/recomputed.py", "torch.utils._python_dispatch"): "where torch keeps its dispatch "
    "modes; it documents them, and has no other name for them",
    ("training/widened.py", "torch.utils._python_dispatch"): "the same",
    (
        "apps/plan/step.py",
        "torch._subclasses.fake_tensor",
    ): "tensors without numbers",
    (
        "apps/plan/step.py",
        "_scaled_dot_product_flash_attention_for_cpu",
    ): "an operator that torch's FLOP counter does not know",
    ("apps/plan/step.py", "_scaled_dot_product_flash_attention_for_cpu_backward"): "its gradient",
    ("apps/plan/step.py", "forward ="): "the cheaper norms of training/kernels.py, on fake tensors",
    ("data/sources/published.py", "_Unpickler"): "Python's own: C's reserves whatever memory a "
    "damaged annotation file claims",
    ("data/transport.py", "_config"): "how long the addresses of multiprocessing's sockets get",
    ("data/transport.py", "_new_shared"): "torch's shared memory without a copy",
    ("model/conversing.py", "_get_template_variables"): "which arguments a chat template uses, "
    "exactly as transformers finds them",
    ("model/flex.py", "torch._dynamo.exc"): "what a compiler that does not work raises",
    ("model/last_layer.py", "_compiled_call_impl"): "whether a layer is compiled: no other way to "
    "know",
    ("model/vlm.py", "_attn_implementation"): "transformers' contract for models of other people",
    ("model/vlm.py", "_is_hf_initialized"): "transformers' contract for weights that are set",
    ("training/kernels.py", "forward ="): "a third of a small model's step on a CPU",
    (
        "training/layers.py",
        "forward =",
    ): "layers computed again, of any class; `equip` undoes it",
    ("training/layers.py", "torch._dynamo.exc"): "what a compiler that does not work raises",
}
"""Every use of what other packages keep to themselves, and why it stays. The list only shrinks."""

DOCUMENTED = {"_replace", "_asdict", "_exit"}
"""Public in Python, in spite of their names: of named tuples, and of os."""


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED


def foreign_privates(nodes, own):
    """Names that another package keeps to itself, import hooks, and forwards or classes put in the
    place of an object's own."""
    for node in nodes:
        match node:
            case ast.Attribute(attr=("forward" | "__class__") as name, ctx=ast.Store()):
                yield f"{name} ="
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield name
            case ast.Attribute(attr="meta_path" | "path_hooks"):
                yield node.attr
            case ast.ImportFrom(module=module) if not module.startswith(("lucida", "__future__")):
                yield from [module] if any(map(is_private, module.split("."))) else []
                yield from (alias.name for alias in node.names if is_private(alias.name))
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, name, *_]):
                text = name.value if isinstance(name, ast.Constant) else ""
                yield from [text] if is_private(text) and text not in own else []


def own_names(nodes):
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def test_what_others_keep_to_themselves_is_left_alone():
    own = {name for path in FILES for name in own_names(parsed[path])}
    found = {
        (path.relative_to(SOURCE).as_posix(), name)
        for path in FILES
        for name in foreign_privates(parsed[path], own)
    }
    refuse(f"{path} uses {name}" for path, name in sorted(found - FOREIGN.keys()))
    refuse(
        f"no longer used, take it off: {path}, {name}"
        for path, name in FOREIGN
        if (path, name) not in found
    )
