"""What is measured after training."""

from __future__ import annotations

from pydantic import Field

from lucida.core.spec.value import Spec


class EvaluationSpec(Spec):
    """What is measured after training."""

    tasks: list[str] = Field(default=[])
    """Benchmarks by name, as `lucida.eval.benchmarks.BENCHMARKS` lists them."""
    limit: int | None = Field(default=None, gt=0)
    """Largest number of examples per task; null takes all."""
    max_new_tokens: int = Field(default=32, gt=0)
    samples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each 95% interval."""
