"""How the sources of a stage are mixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lucida.core.spec.data import SourceSpec
from lucida.core.spec.value import Spec


class SourceBudgetSpec(Spec):
    """The most that a stage takes from one source: samples, epochs or tokens, exactly one."""

    samples: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Times that its records come; a part of an epoch is some of them."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens that the model reads, by the average of 256 of its records."""

    @model_validator(mode="after")
    def one_of_them(self) -> SourceBudgetSpec:
        if len(given := self.model_dump(exclude_none=True)) != 1:
            shown = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise ValueError(f"give exactly one of samples, epochs and tokens (got {shown})")
        return self


class MixtureSpec(Spec):
    """Sources with weights, and what to do with a record that cannot be used."""

    sources: dict[str, SourceSpec] = Field(min_length=1)
    """Name of the source → where its samples come from."""
    by: Literal["sample", "image", "token"] = "sample"
    """What the weights are shares of. Images and tokens of a record are averages over 256 records
    of each source."""
    caps: dict[str, Annotated[int, Field(gt=0)]] = Field(default={})
    """Name of a source → the most of its records that are used: the same ones in every epoch,
    chosen by the seed."""
    budgets: dict[str, SourceBudgetSpec] = Field(default={})
    """Name of a source → the most that the stage takes from it. Once it is used up the others share
    its place by their weights. Where every source has a budget, the stage ends at the latest with
    the last whole step of them."""
    on_error: Literal["error", "skip"] = "error"
    """`skip` drops a bad record, writes it to `dropped.jsonl`, and stops above `max_dropped`."""
    max_dropped: float = Field(default=0.01, ge=0, le=1)
    """Largest share of records that may be dropped before the run stops."""

    @model_validator(mode="after")
    def caps_and_budgets_have_sources(self) -> MixtureSpec:
        for what in ("caps", "budgets"):
            if unknown := sorted(set(getattr(self, what)) - set(self.sources)):
                known = ", ".join(self.sources)
                raise ValueError(
                    f"{what} for sources that are not there: {unknown} (known: {known})"
                )
        return self
