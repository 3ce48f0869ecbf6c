"""What is measured after training."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from lucida.core.spec.data import SourceSpec
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


OwnMetric = Literal[
    "exact",
    "vqa",
    "anls",
    "relaxed",
    "iou",
    "cider",
    "letter",
    "contains",
    "regex",
    "judge-export",
]


class OwnTaskSpec(Spec):
    """Your own records as a benchmark: every answer in them is asked for and compared."""

    source: SourceSpec
    """Where the records come from, as in a mixture; the weight does not matter here."""
    metric: OwnMetric
    """How an output is compared with the answer. `exact`, `vqa` (normalised as VQAv2 does),
    `contains`: its words; `anls`: its letters; `relaxed`: numbers within 5%; `letter`: the option
    that it names; `iou`: its box; `cider`: captions; `regex`: the record's answer is a pattern
    that is searched for; `judge-export`: a file for a judge elsewhere."""
    by: str | None = None
    """A field of the records; scores are also given for each of its values."""
    answers: str | None = None
    """A field of the records with a list of all right answers (of all annotators for `vqa`); null
    takes the answer that the record is trained on."""
    on_error: Literal["error", "skip"] = "error"
    """`skip` leaves out records that cannot be asked: a picture that cannot be opened, an answer
    that is missing or of a kind that the metric does not compare. They are counted and told."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9+_-]*$")
    """What it is called in results; null is the name of the source's file."""

    @property
    def task(self) -> str:
        """What it is called in results.

        Worked example: path `data/held out.json` gives "held-out".
        """
        if self.name is not None:
            return self.name
        stem = PurePath(getattr(self.source, "path", self.source.kind)).name.partition(".")[0]
        return re.sub(r"[^A-Za-z0-9+_-]+", "-", stem).strip("-+_") or self.source.kind


TaskSpec = Annotated[
    Annotated[str, Tag("str")] | Annotated[OwnTaskSpec, Tag(OwnTaskSpec.__name__)],
    Discriminator(lambda given: "str" if isinstance(given, str) else OwnTaskSpec.__name__),
]
"""A benchmark by its name, or own records; told apart so that mistakes are those of the one that
was meant."""


class FewerTokensSpec(Spec):
    """Visual tokens that are left of each picture when a trained model is asked; all others are
    taken away before the language model, those that stay keep their positions."""

    keep: float = Field(gt=0)
    """A share of a picture's visual tokens, rounded, at least one; above 1 their number, and a
    picture that has no more keeps them all."""
    by: Literal["random", "grid", "attention", "merge"]
    """Which stay. `random`: drawn from the picture's content, so always the same; `grid`: evenly
    spaced rows and columns; `attention`: those to which the last token of the prompt pays most in
    an early layer of the language model; `merge`: the most alike become one, their mean, until so
    many are left."""
    layer: int | None = Field(default=None, ge=1)
    """Of `attention`: the layer of the language model, the first being 1; null is the second."""

    @model_validator(mode="after")
    def whole(self) -> FewerTokensSpec:
        if self.keep > 1 and not self.keep.is_integer():
            raise ValueError(
                f"keep is {self.keep:g}: a share is at most 1, a number of visual tokens is whole"
            )
        if self.layer is not None and self.by != "attention":
            raise ValueError(f"layer belongs to by=attention, and by is {self.by}")
        return self

    def kept(self, tokens: int) -> int:
        """How many of so many visual tokens stay.

        Worked example: of 64 a `keep` of 0.25 keeps 16, of 0.001 one, of 100 all.
        """
        wanted = self.keep if self.keep > 1 else round(self.keep * tokens)
        return min(tokens, max(1, int(wanted)))


class EvaluationSpec(Spec):
    """What is measured after training."""

    tasks: list[TaskSpec] = Field(default=[])
    """Benchmarks by name, as `lucida.eval.benchmarks.BENCHMARKS` lists them, and your own records:
    `{source: {kind: llava, path: held-out.json}, metric: exact}`."""
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
    visual_tokens: FewerTokensSpec | None = None
    """When given, the model is asked with fewer visual tokens than it was trained with."""
    retention: RetentionSpec | None = None
    """When given, an evaluation fails if training cost the language model more text than this; with
    `each_stage`, so does the training."""

    @model_validator(mode="after")
    def one_source_for_a_name(self) -> EvaluationSpec:
        known: dict[str, OwnTaskSpec] = {}
        for task in self.tasks:
            if isinstance(task, OwnTaskSpec) and known.setdefault(task.task, task) != task:
                raise ValueError(
                    f"two different tasks are called `{task.task}`; give one of them a `name`"
                )
            if isinstance(task, OwnTaskSpec) and task.task in self.tasks:
                raise ValueError(f"`{task.task}` names a benchmark and your own task; `name` it")
        return self

    @property
    def names(self) -> list[str]:
        """What the tasks are called, each once."""
        names = [task if isinstance(task, str) else task.task for task in self.tasks]
        return list(dict.fromkeys(names))

    def own(self, name: str) -> OwnTaskSpec | None:
        """The task over own records of that name, if there is one."""
        own = (task for task in self.tasks if isinstance(task, OwnTaskSpec))
        return next((task for task in own if task.task == name), None)
