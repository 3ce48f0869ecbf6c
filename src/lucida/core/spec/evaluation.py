"""What is measured after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lucida.core.spec.value import Spec

PromptSetName = Literal["plain", "prismatic", "llava", "openflamingo", "lmms"]


class EvaluationSpec(Spec):
    """What is measured after training."""

    tasks: list[str] = Field(default=[])
    """Benchmarks by name, as `lucida.eval.benchmarks.BENCHMARKS` lists them."""
    limit: int | None = Field(default=None, gt=0)
    """Largest number of examples per task; null takes all."""
    max_new_tokens: int = Field(default=32, gt=0)
    samples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each 95% interval."""
    prompts: PromptSetName | None = None
    """The wording of questions, by the name of its set; null takes each benchmark's own (`plain` in
    the miniature world, `llava` for published benchmarks). `lucida benchmarks NAME` shows it."""
    data: str | None = None
    """Folder with the published files of benchmarks; null takes the environment's LUCIDA_DATA."""
