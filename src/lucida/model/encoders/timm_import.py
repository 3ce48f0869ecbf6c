"""timm, which is an extra, imported with or without torchvision.

    torchvision installed   ─▶ import timm, as everybody does
    torchvision missing     ─▶ import timm while names of torchvision can be said, not used

timm imports torchvision for three things: picture transformations and data sets, which Lucida never
asks of it; extraction by graphs, which is not used either; and the class `FrozenBatchNorm2d`, which
it compares with and which no network is made of unless it is named. torchvision has to be built for
exactly this torch (PyPI's is built for CUDA, and next to a CPU torch it cannot be imported), so the
networks of timm should not hang on it. Once timm is imported the names are gone again: to everybody
else torchvision is as missing as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from lucida.core.errors import PartError

MISSING = "torchvision"


def timm_package() -> ModuleType:
    """timm itself; PartError with what to install when it or its torchvision cannot be imported."""
    if "timm" in sys.modules:
        return sys.modules["timm"]
    if importlib.util.find_spec("timm") is None:
        raise PartError(
            "encoders of timm need timm, which is not installed",
            remedy="pip install 'lucida[timm]'; beside a torch for CPUs, which PyPI's torchvision"
            " does not fit, `pip install --no-deps timm` (its networks do without)",
        )
    if importlib.util.find_spec(MISSING) is not None:
        return imported(
            "timm cannot be imported: the torchvision here may not fit this torch",
            "pip uninstall torchvision (timm's networks do without it), or install the torchvision"
            " that was built for this torch",
        )
    with unusable_names():
        return imported(
            "this timm cannot be imported without torchvision",
            "install the torchvision that was built for this torch, or timm 1.0.31, which is known"
            " to do without",
        )


def imported(what: str, remedy: str) -> ModuleType:
    """timm, or PartError; nothing of a failed import stays behind."""
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError, AttributeError, TypeError, OSError) as problem:
        for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
            del sys.modules[name]
        first = str(problem).strip().partition("\n")[0]
        raise PartError(what, given=f"{type(problem).__name__}: {first}", remedy=remedy) from None


@contextmanager
def unusable_names() -> Iterator[None]:
    """While this lasts, names of torchvision can be imported; using one is a PartError."""
    finder = Names()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == MISSING]:
            del sys.modules[name]


class Unusable(type):
    """A class of torchvision that is not there: it can be named, compared and derived from."""

    def __getattr__(cls, name: str) -> Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unusable(f"{cls.__name__}.{name}", (), {})

    def __call__(cls, *args: Any, **options: Any) -> NoReturn:
        raise PartError(
            f"{cls.__name__} is torchvision's, which is not installed",
            remedy="install the torchvision that was built for this torch",
        )


class Unnamed(ModuleType):
    """A module of torchvision that is not there."""

    def __getattr__(self, name: str) -> Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unusable(f"{self.__name__}.{name}", (), {})


class Names:
    """Finds modules of torchvision when nobody else does, but for those that timm can miss."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] != MISSING or name.startswith(f"{MISSING}.models"):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Unnamed(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: there is nothing in it."""
