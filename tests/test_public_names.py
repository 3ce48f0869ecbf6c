"""`import lucida`: light, lazy, and known to transformers once transformers is there."""

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


@pytest.mark.parametrize(
    "imports",
    [
        "import lucida; from transformers import AutoModelForImageTextToText",
        "from transformers import AutoModelForImageTextToText; import lucida",
        "import lucida; from transformers import AutoProcessor",
        "import lucida; from transformers import pipeline",
        "import lucida.model.language",
        "import lucida.model.processing",
        "import lucida.train.loop",
    ],
)
def test_the_auto_classes_know_the_model_whatever_is_imported_first(imports):
    code = f"{imports}\nfrom transformers import CONFIG_MAPPING; print('lucida' in CONFIG_MAPPING)"
    assert run(code) == "True"


def test_public_names_are_what_the_documentation_says():
    code = """
import lucida, lucida.train.loop, types
from lucida.train import loop
assert lucida.train.loop is loop and isinstance(lucida.train, types.ModuleType)
assert all(callable(getattr(lucida, name)) for name in lucida.__all__)
assert set(lucida.__all__) <= set(dir(lucida))
print(lucida.load.__module__, lucida.evaluate.__module__, lucida.load_recipe('mini').name)
"""
    assert run(code) == "lucida.model.checkpoint lucida.eval.run mini"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    import lucida

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = lucida.trian


def test_calling_train_without_importing_it_first():
    code = """
import lucida
try:
    lucida.train("mnii")
except lucida.LucidaError as problem:
    print(problem)
"""
    assert "did you mean `mini`?" in run(code)
