"""What every part of a recipe is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["frozen"]
"""A peak learning rate, or no training at all."""


class Spec(BaseModel):
    """A frozen value with no room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
