"""Tables: exact names, imported when asked, plug-ins through entry points."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from lucida.core import registry
from lucida.core.errors import DataError, LucidaError, ModelError, nearest, suggestion
from lucida.core.registry import Table


class Point:
    def __init__(self, name, value):
        self.name, self.value, self.dist = name, value, None


def test_a_kind_is_found_by_its_exact_name():
    table = Table("codec", {"json": "json:dumps"})
    assert table["json"]([1]) == "[1]"
    assert list(table) == ["json"]
    assert "json" in table
    assert "JSON" not in table


def test_an_unknown_kind_suggests_the_nearest():
    table = Table("codec", {"json": "json:dumps"}, error=DataError)
    with pytest.raises(DataError, match="unknown codec `jsno`; did you mean `json`"):
        table["jsno"]


@pytest.mark.parametrize("target", ["no_such_module:x", "json:no_such_name"])
def test_a_target_that_does_not_load_is_named(target):
    with pytest.raises(ModelError, match=f"cannot be loaded from {target}"):
        Table("codec", {"a": target})["a"]


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys; from lucida.core.registry import Table\n"
        "table = Table('codec', {'a': 'wave:open'})\n"
        "assert 'a' in table and list(table) and table.targets\n"
        "assert 'wave' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_adds_a_kind(monkeypatch):
    monkeypatch.setattr(registry, "list_added", lambda group: (Point("mine", "json:loads"),))
    table = Table("codec", {"json": "json:dumps"}, group="lucida.codecs")
    assert table["mine"]("1") == 1


def test_a_package_cannot_take_a_name_that_is_used(monkeypatch):
    monkeypatch.setattr(registry, "list_added", lambda group: (Point("json", "other:thing"),))
    with pytest.raises(ModelError, match="already json:dumps"):
        Table("codec", {"json": "json:dumps"}, group="lucida.codecs")["json"]


def test_an_error_says_origin_both_values_and_remedy_and_survives_pickling():
    problem = DataError("count differs", expected=2, given=1, origin="a.json: record 3", remedy="x")
    assert str(problem) == "a.json: record 3: count differs (expected 2, got 1); x"
    again = pickle.loads(pickle.dumps(problem))
    assert type(again) is DataError
    assert str(again) == str(problem)
    assert str(LucidaError("a", given=None)) == "a (got None)"


def test_the_nearest_name_ignores_case_and_gives_up_on_strangers():
    assert nearest("Linaer", ["linear", "mlp"]) == "linear"
    assert nearest("zzz", ["linear", "mlp"]) is None
    assert suggestion("x", []) == "there are none"
