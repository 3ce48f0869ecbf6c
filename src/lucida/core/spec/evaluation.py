"""What is measured after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lucida.core.spec.value import Spec

PromptSetName = Literal["plain", "prismatic", "llava", "openflamingo", "lmms"]


class RetentionSpec(Spec):
    """How much worse at plain text the language model may have become by training."""

    file: str | None = None
    """A UTF-8 text file whose perplexity is compared."""
    task: str | None = None
    """Instead of a file a text benchmark (mmlu, bbh, drop, perplexity), by its score."""
    limit: int | None = Field(default=None, gt=0)
    """Largest number of examples of the benchmark; null takes all."""
    max_loss: float = Field(default=0.05, ge=0)
    """Largest share that may be lost: of the score, or by which the perplexity may grow."""
    each_stage: bool = False
    """Measure before the first stage and after every one while training, and stop the run before
    its next stage where more was lost since the beginning."""

    @model_validator(mode="after")
    def one_text(self) -> RetentionSpec:
        if (self.file is None) == (self.task is None):
            raise ValueError("name exactly one of `file` and `task`")
        return self


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
    baselines: list[Literal["removed", "shuffled"]] = Field(default=["removed", "shuffled"])
    """Asked beside every task with pictures: the same questions with the pictures removed, or with
    those of another question."""
    baseline_limit: int = Field(default=200, gt=0)
    """Largest number of examples per task that the baselines are asked."""
    retention: RetentionSpec | None = None
    """When given, an evaluation fails if training cost the language model more text than this; with
    `each_stage`, so does the training."""
