"""Tables of component kinds: exact names, imported only when asked for.

    PROJECTORS = Table(
        "projector",
        {"linear": "lucida.model.projectors.mlp:LinearProjector"},
        group="lucida.projectors",
    )
    PROJECTORS["linear"]          # the class; its file is imported now
    PROJECTORS["linaer"]          # error: did you mean `linear`?

A package outside Lucida adds a kind through an entry point of the table's group:

    [project.entry-points."lucida.projectors"]
    mine = "my_package.specs:MineSpec"

What has fields in a recipe (`lucida.sources`, `lucida.projectors`) names its spec: a `Spec` with
`kind: Literal["mine"]`, which says in `implementation = "my_package.projector:Mine"` what it is a
spec of. The file of specs is imported whenever recipes are read; it takes `Spec` from
`lucida.core.spec.value`. What has none (`lucida.masks`, `lucida.policies`, `lucida.benchmarks`)
names the function or class itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lucida.core.errors import LucidaError, ModelError, RecipeError, suggestion


@cache
def list_added(group: str) -> tuple[EntryPoint, ...]:
    """What other packages add to a group, in the order of the names."""
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, point.value)))


def list_added_names(group: str) -> tuple[str, ...]:
    """The names that other packages add to a group."""
    return tuple(dict.fromkeys(point.name for point in list_added(group)))


def load_added_specs(group: str, taken: Iterable[str] = ()) -> tuple[type, ...]:
    """The spec classes that other packages add to a group. RecipeError: one that cannot be loaded,
    whose kind is not the name of its entry point or is taken, or that names no implementation."""
    names, found = set(taken), []
    for point in list_added(group):
        if point.name in names:
            remedy = f"rename it in the package's entry points ({group})"
            message = f"the kind `{point.name}` is already taken"
            raise RecipeError(message, given=point.value, origin=_owner(point), remedy=remedy)
        names.add(point.name)
        found.append(_load_spec(point, group))
    return tuple(found)


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "a package"


def _load_spec(point: EntryPoint, group: str) -> type:
    whose = f"{_owner(point)}: {group}, {point.name}"
    try:
        spec = point.load()
    except (ImportError, AttributeError) as problem:
        remedy = "repair the package that defines it, or uninstall it"
        message = f"{point.value} cannot be loaded: {problem}"
        raise RecipeError(message, origin=whose, remedy=remedy) from problem
    kind = getattr(spec, "model_fields", {}).get("kind")
    if kind is None or kind.default != point.name:
        expected = f'a Spec with `kind: Literal["{point.name}"] = "{point.name}"`'
        raise RecipeError("this is no spec of its kind", expected=expected, given=point.value,
                          origin=whose)  # fmt: skip
    if not isinstance(getattr(spec, "implementation", None), str):
        expected = 'implementation: ClassVar[str] = "module:Class"'
        raise RecipeError("the spec names no class", expected=expected, given=point.value,
                          origin=whose)  # fmt: skip
    return spec


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
            found = getattr(importlib.import_module(module), attribute)
            named = getattr(found, "implementation", None)
            # An entry point of a kind with fields names its spec, which knows the class.
            return self._load(kind, named) if isinstance(named, str) else found
        except (ImportError, AttributeError) as problem:
            raise self._error(
                f"the {self.family} `{kind}` cannot be loaded from {target}: {problem}",
                remedy="install or repair the package that defines it",
            ) from problem

    def _from_entry_points(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for point in list_added(self.group) if self.group else ():
            taken = self._own.get(point.name) or found.get(point.name)
            # The same entry twice is no clash: a package may be seen on two paths.
            if taken not in (None, point.value):
                raise self._error(
                    f"{_owner(point)} adds the {self.family} `{point.name}`, which is already "
                    f"{taken}",
                    remedy=f"rename it in the package's entry points ({self.group})",
                )
            found[point.name] = point.value
        return found
