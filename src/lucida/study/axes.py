"""A search file: axes of a recipe, what is to be high, and how one trial becomes a recipe."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError, model_validator

from lucida.core.document import read_document
from lucida.core.errors import RecipeError
from lucida.core.spec.value import Spec
from lucida.study.design import (
    BASELINE,
    MEAN,
    ArmName,
    Asked,
    Changes,
    Design,
    Study,
    find_base,
    tell_invalid,
)

if TYPE_CHECKING:
    import optuna


class Range(Spec):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Draw evenly over magnitudes, as rates want it."""

    @model_validator(mode="after")
    def rising(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"`log` needs low above 0, which is {self.low:g}")
        return self

    @property
    def whole(self) -> bool:
        """Whether both ends, and so all values, are whole numbers."""
        return self.low.is_integer() and self.high.is_integer() and not self.log


class Search(Spec):
    """A search file."""

    name: ArmName
    baseline: str
    common: Changes = Field(default={})
    """In every trial, and in the baseline of the study that follows."""
    axes: dict[str, Range | list[object]] = Field(min_length=1)
    """Key of the recipe → its range or its choices."""
    trials: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    """Of every training, and of what is proposed."""
    evaluation: Asked
    outcome: str = MEAN
    """What is to be high: a task (bits per byte count as negative), or `mean` over all."""
    margin: float = Field(default=3, gt=0)
    """Points that do not matter, in the study that follows."""

    @model_validator(mode="after")
    def complete(self) -> Search:
        if self.outcome not in (MEAN, *self.evaluation.tasks):
            raise ValueError(
                f"outcome is `{self.outcome}`; expected {MEAN} or one of "
                + ", ".join(self.evaluation.tasks)
            )
        for key, axis in self.axes.items():
            if isinstance(axis, list) and len(axis) < 2:
                raise ValueError(f"axis {key} has {len(axis)} choices; a search needs two or more")
            if key in self.common:
                raise ValueError(f"{key} is an axis and in `common`")
        return self


def load_search(path: Path) -> tuple[Search, str]:
    """A search file and how its baseline is found; RecipeError for every mistake, among them a
    value at the end of an axis that the recipe does not take."""
    try:
        search = Search.model_validate(read_document(path).data)
    except ValidationError as problem:
        raise RecipeError(tell_invalid("search", problem), origin=path) from problem
    base = find_base(search.baseline, path.parent)
    for key, axis in search.axes.items():
        for value in _ends(axis):
            try:
                make_trial(search, base, {key: value})
            except RecipeError as problem:
                raise RecipeError(f"axis {key}, value {value}: {problem}", origin=path) from problem
    return search, base


def _ends(axis: Range | list[object]) -> list[object]:
    if isinstance(axis, list):
        return axis
    return [int(axis.low), int(axis.high)] if axis.whole else [axis.low, axis.high]


def make_trial(search: Search, base: str, values: Mapping[str, object]) -> Design:
    """One trial as the only arm beside the baseline, named by its values."""
    text = json.dumps(dict(values), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    study = Study(
        name=search.name,
        baseline=search.baseline,
        common=search.common,
        changes={key: dict(values)},
        seeds=[search.seed],
        evaluation=search.evaluation,
        primary={"outcome": search.outcome, "margin": search.margin},
    )
    design = Design(study, {BASELINE: {}, key: dict(values)}, base)
    design.recipe(key, search.seed)
    return design


def draw_value(asked: optuna.Trial, key: str, axis: Range | list[object]) -> object:
    """A value of the axis, by Optuna."""
    if isinstance(axis, list):  # by number: choices may be whole objects
        return axis[asked.suggest_int(key, 0, len(axis) - 1)] if _is_line(axis) else axis[
            int(asked.suggest_categorical(key, [str(place) for place in range(len(axis))]))
        ]  # fmt: skip
    if axis.whole:
        return asked.suggest_int(key, int(axis.low), int(axis.high))
    return float(f"{asked.suggest_float(key, axis.low, axis.high, log=axis.log):.4g}")


def _is_line(choices: list[object]) -> bool:
    """Whether choices are numbers in rising order, whose neighbours are alike."""
    numbers = [each for each in choices if isinstance(each, int | float)]
    return len(numbers) == len(choices) and numbers == sorted(numbers)


def read_values(search: Search, params: Mapping[str, object]) -> dict[str, object]:
    """What Optuna drew, as the recipe has it: `draw_value` for a trial that is over."""
    found: dict[str, object] = {}
    for key, axis in search.axes.items():
        value = params[key]
        if isinstance(axis, list):
            found[key] = axis[int(str(value))]
        else:
            found[key] = value if axis.whole else float(f"{value:.4g}")
    return found
