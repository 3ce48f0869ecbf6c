"""What every part of a recipe is made of."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from lucida.core.registry import load_added_specs

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["frozen"]
"""A peak learning rate, or no training at all."""


class Spec(BaseModel):
    """A frozen value with no room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def widen(own: Any, group: str) -> Any:
    """A union of specs, and the specs that other packages add to it by entry points."""
    kinds = [spec.model_fields["kind"].default for spec in get_args(own)]
    return functools.reduce(operator.or_, load_added_specs(group, kinds), own)
