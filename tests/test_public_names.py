"""`import lucida`: light, lazy, and known to transformers once transformers is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each case needs an interpreter that has not imported torch yet: seconds.
slow = pytest.mark.slow


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
        "import lucida.model.language",
        pytest.param("import lucida; from transformers import AutoProcessor", marks=slow),
        pytest.param("import lucida; from transformers import pipeline", marks=slow),
        pytest.param("import lucida.model.processing", marks=slow),
        pytest.param("import lucida.train.loop", marks=slow),
    ],
)
def test_the_auto_classes_know_the_model_whatever_is_imported_first(imports):
    code = f"{imports}\nfrom transformers import CONFIG_MAPPING; print('lucida' in CONFIG_MAPPING)"
    assert run(code) == "True"


def test_public_names_are_what_the_documentation_says():
    code = """
import lucida, types
assert isinstance(lucida.train, types.ModuleType)
from lucida.train import loop
import lucida.train.loop
assert lucida.train.loop is loop
assert all(callable(getattr(lucida, name)) for name in lucida.__all__)
assert set(lucida.__all__) <= set(dir(lucida))
try:
    lucida.train("mnii")
except lucida.LucidaError as problem:
    assert "did you mean `mini`?" in str(problem)
print(lucida.load.__module__, lucida.evaluate.__module__, lucida.load_recipe('mini').name)
"""
    assert run(code) == "lucida.model.checkpoint lucida.eval.run mini"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    import lucida

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = lucida.trian
