"""Tables of component kinds: exact names, imported only when asked for.

    PROJECTORS = Table(
        "projector",
        {"linear": "lucida.model.projectors.linear:LinearProjector"},
        group="lucida.projectors",
    )
    PROJECTORS["linear"]          # the class; its file is imported now
    PROJECTORS["linaer"]          # error: did you mean `linear`?

A package outside Lucida adds a kind through an entry point of the table's group, for instance
`[project.entry-points."lucida.projectors"] mine = "my_package.projector:Mine"`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from lucida.core.errors import LucidaError, ModelError, suggestion


class Table(Mapping[str, object]):
    """kind → `module:attribute`, resolved on first use.

    Errors: an unknown kind, a target that cannot be imported, and an entry point that takes a name
    which is already in use are all reported as `error` (a `LucidaError` class) with their origin.
    """

    def __init__(
        self,
        family: str,
        targets: Mapping[str, str],
        *,
        group: str | None = None,
        error: type[LucidaError] = ModelError,
    ) -> None:
        self.family = family
        self.group = group
        self._own = dict(targets)
        self._error = error
        self._loaded: dict[str, object] = {}
        self._all: dict[str, str] | None = None

    @property
    def targets(self) -> dict[str, str]:
        """Every kind and where it is defined, entry points included."""
        if self._all is None:
            self._all = self._own | self._from_entry_points()
        return self._all

    def __getitem__(self, kind: str) -> object:
        if kind not in self._loaded:
            if kind not in self.targets:
                raise self._error(
                    f"unknown {self.family} `{kind}`", remedy=suggestion(kind, self.targets)
                )
            self._loaded[kind] = self._load(kind, self.targets[kind])
        return self._loaded[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __contains__(self, kind: object) -> bool:
        # Mapping's own version would import the component to answer.
        return kind in self.targets

    def _load(self, kind: str, target: str) -> object:
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as problem:
            raise self._error(
                f"the {self.family} `{kind}` cannot be loaded from {target}: {problem}",
                remedy="install or repair the package that defines it",
            ) from problem

    def _from_entry_points(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for point in entry_points(group=self.group) if self.group else ():
            taken = self._own.get(point.name) or found.get(point.name)
            if taken not in (None, point.value):
                package = point.dist.name if point.dist else "a package"
                raise self._error(
                    f"{package} adds the {self.family} `{point.name}`, which is already {taken}",
                    remedy=f"rename it in the package's entry points ({self.group})",
                )
            found[point.name] = point.value
        return found
