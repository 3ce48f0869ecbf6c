"""Acting after someone else's import: at the right moment, once, and without being noticed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def packages(tmp_path):
    files = {
        "big/__init__.py": "",
        "big/auto.py": "print('auto')",
        "big/top.py": "print('begin'); import big.auto; print('end')",
        "mine/__init__.py": "",
        "mine/model.py": "import big.auto\nCLASS = 1",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


WATCH = """
    from lucida.core.import_hook import after_import
    def act():
        from mine.model import CLASS
        print("act")
    after_import("big.auto", ("big", "mine"), act, caller="__main__")
"""


@pytest.mark.parametrize(
    ("imports", "printed"),
    [
        ("import big", []),
        ("import big.auto", ["auto", "act"]),
        ("import big.auto, big.top", ["auto", "act", "begin", "end"]),
        ("import big.top", ["begin", "auto", "end", "act"]),
        ("import mine.model", ["auto", "act"]),
    ],
)
def test_it_acts_once_and_never_in_the_middle_of_an_import(packages, imports, printed):
    assert run(WATCH + "    " + imports, packages) == printed


def test_it_acts_at_once_when_the_import_is_over(packages):
    assert run("    import big.auto\n" + WATCH, packages) == ["auto", "act"]


def test_it_leaves_loaders_and_the_import_path_as_they_were(packages):
    code = """
    import inspect, sys, big.auto
    print(type(big.auto.__loader__).__name__, inspect.getsource(big.auto))
    print(sum(type(finder).__name__ == "_Watcher" for finder in sys.meta_path))
    """
    assert run(WATCH + code, packages) == [
        "auto", "act", "SourceFileLoader", "print('auto')", "1",
    ]  # fmt: skip
    # The one that is left is Lucida's own, which waits for transformers.


def test_a_failing_import_fails_as_before(packages):
    (packages / "big" / "auto.py").write_text("1 / 0")
    code = """
    try:
        import big.auto
    except ZeroDivisionError:
        print("zero")
    """
    assert run(WATCH + code, packages) == ["zero"]
