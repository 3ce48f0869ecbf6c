"""`import lucida`: light, lazy, and known to transformers once that is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_lucida_imports_nothing_heavy():
    heavy = "('torch', 'transformers', 'numpy', 'pydantic', 'yaml')"
    assert run(f"import lucida, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.fixture(scope="module")
def told():
    """What a process found that registers, then asks for every public name."""
    code = """
import lucida
import lucida.apps.chat, lucida.training.precision, sys
lucida.load
shown = ("rich", "matplotlib", "datasets", "peft", "pyarrow")
layers = ("lucida.eval", "lucida.training.loop", "lucida.parts", "lucida.serve")
print([name for name in (*shown, *layers) if name in sys.modules])
lucida.register()
lucida.register()
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoProcessor
print("lucida" in CONFIG_MAPPING)

from lucida.training import loop
import lucida.training.loop
assert lucida.training.loop.train is lucida.train
assert all(callable(getattr(lucida, name)) for name in lucida.__all__)
assert set(lucida.__all__) <= set(dir(lucida))
try:
    lucida.train("mnii")
except lucida.LucidaError as problem:
    assert "did you mean `mini`?" in str(problem)
print(lucida.load.__module__, lucida.evaluate.__module__, lucida.load_recipe('mini').name)
"""
    return run(code).splitlines()


def test_who_talks_with_a_model_waits_for_nothing_else(told):
    assert told[0] == "[]"


def test_the_auto_classes_know_the_model_once_it_is_registered(told):
    assert told[1] == "True"


def test_public_names_are_what_the_documentation_says(told):
    assert told[2] == "lucida.model.checkpoint lucida.eval.run mini"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    import lucida

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = lucida.trian
