"""A package that is also a verb: `lucida.train(...)` and `import lucida.train.loop`."""

from __future__ import annotations

import sys
from types import ModuleType


def make_callable(name: str, kind: type[ModuleType]) -> None:
    """Give the loaded module `name` a class with `__call__`; it stays the module that it is."""
    sys.modules[name].__class__ = kind
