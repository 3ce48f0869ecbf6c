"""Doing something once a package that is slow to import has been imported by someone else.

`import lucida` has to make transformers know Lucida's model, but importing transformers and torch
for that would cost every start of the command line seconds. So Lucida waits: whoever imports
transformers' Auto classes first pays for it, and finds the model registered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(
    trigger: str, packages: tuple[str, ...], act: Callable[[], None], *, caller: str
) -> None:
    """Calls `act` once, when the module `trigger` is loaded and nothing of `packages` is halfway.

    The second condition matters: `act` imports modules of these packages itself, and Python cannot
    import what it is in the middle of importing. When both hold already, `act` runs now. `caller`
    is the module that asks, in its last line: it counts as finished.
    """
    watcher = _Watcher(trigger, packages, act)
    sys.meta_path.insert(0, watcher)
    watcher.look(finished=caller)


class _Watcher:
    """A finder that finds nothing itself: it lets the others find, and looks after each import."""

    def __init__(self, trigger: str, packages: tuple[str, ...], act: Callable[[], None]) -> None:
        self.trigger, self.packages, self.act = trigger, packages, act

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.watches(name) or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self.follow(spec)
                return spec
        return None

    def watches(self, name: str) -> bool:
        return name.partition(".")[0] in self.packages

    def follow(self, spec: ModuleSpec) -> None:
        """Looks again after the module has run. The loader itself stays what it is, because
        `inspect` and `importlib.resources` ask for its type."""
        loader = spec.loader
        if loader is None:
            return
        run = loader.exec_module

        def run_and_look(module: ModuleType) -> None:
            run(module)
            self.look(finished=spec.name)

        loader.exec_module = run_and_look  # type: ignore[method-assign]

    def look(self, finished: str) -> None:
        """Acts if the time has come. `finished` has run, though Python still marks it halfway."""
        if self.trigger not in sys.modules or self not in sys.meta_path:
            return
        for name, module in list(sys.modules.items()):
            spec = vars(module).get("__spec__") if self.watches(name) else None
            # Python's own import lock reads this flag the same way; it is not set on every spec.
            if name != finished and getattr(spec, "_initializing", False):
                return
        sys.meta_path.remove(self)
        self.act()
