"""Training. The module itself is callable: `lucida.train(recipe)` gives the run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lucida.core.spec import Recipe
    from lucida.train.observe import Observer


class _Train(ModuleType):
    """The package `lucida.train`, which is also the verb."""

    def __call__(
        self,
        recipe: Recipe | str | Path,
        folder: str | Path | None = None,
        observers: Sequence[Observer] = (),
        accept: bool = False,
    ) -> Path:
        """Train a recipe (a value, a preset's name or a file), or go on with a run (its folder);
        the default folder is runs/NAME.

        `observers` and `accept` as `train.loop.train` takes them.
        """
        from lucida.train.loop import train

        return train(recipe, folder, observers, accept)


sys.modules[__name__].__class__ = _Train
