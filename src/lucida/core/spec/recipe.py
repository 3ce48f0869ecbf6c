"""A recipe: a model, its stages and its evaluation."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from lucida.core.spec.evaluation import EvaluationSpec
from lucida.core.spec.model import ModelSpec
from lucida.core.spec.training import StageSpec
from lucida.core.spec.value import Spec


class BlindSpec(Spec):
    """The language-only baseline that a recipe trains beside itself: same data, no images."""

    steps: int = Field(gt=0)
    """Steps of each stage; the blind model learns its priors sooner."""


class ZeroSpec(Spec):
    """How far DeepSpeed cuts what a rank holds."""

    stage: Literal[1, 2, 3] = 2
    """1: moments; 2: and gradients; 3: and the weights of decoder layers."""
    offload: bool = False
    """Keep moments, and the weights that they move, in the memory of the CPU, and update there."""


class EngineSpec(Spec):
    """How the steps are computed; none of it changes what they compute, up to rounding."""

    kind: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    """One process; a whole model on each of several (`ddp`); or a part of each weight, gradient and
    moment on each (`fsdp`, or `deepspeed` with that extra). `auto` is ddp where several were
    started, else single."""
    zero: ZeroSpec | None = None
    """Of `deepspeed`; null is its defaults."""
    patience: float = Field(default=600, gt=0)
    """Seconds that processes wait for one another: to meet, and in a step. Whatever hangs longer
    is named, and all end. Looks, checkpoints and a first step's reading may take longer."""
    attention: Literal["auto", "segments", "flex", "dense"] = "auto"
    """How packed samples attend: each segment by itself; by blocks of the whole row (torch's flex
    attention, which trains on GPUs only); or whole rows under one mask. `auto` is flex for long
    segments on a GPU, else segments."""
    compile: bool = False
    """Compile the layers of the language model with torch.compile: slow to begin, then faster,
    chiefly on a GPU. Bits may differ from run to run."""

    @model_validator(mode="after")
    def zero_is_of_deepspeed(self) -> EngineSpec:
        if self.zero is not None and self.kind != "deepspeed":
            raise ValueError(f"zero belongs to kind=deepspeed, and kind is {self.kind}")
        return self


class Recipe(Spec):
    """A model, its stages and its evaluation: everything that a run needs to be repeated."""

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._+-]*$")
    description: str = ""
    provenance: Literal["own", "paper", "script", "reconstruction"] = "own"
    """Where the numbers come from: ours, a paper, its authors' scripts, or our reading of an
    incomplete description."""
    sources: dict[str, str] = Field(default={})
    """Dotted path in this recipe → where its value comes from; contradictions stay visible here."""
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 on newer GPUs, and on a CPU where a short trial is faster with it; fp16 on
    older GPUs; else fp32. A run that goes on keeps what it began with, on any machine."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null leaves torch's choice. Bit-identical resume needs the same number."""
    engine: EngineSpec = EngineSpec()
    model: ModelSpec
    stages: list[StageSpec] = Field(min_length=1)
    evaluation: EvaluationSpec = EvaluationSpec()
    blind: BlindSpec | None = None

    @model_validator(mode="after")
    def stage_names_are_distinct(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages are called {', '.join(twice)}; give each its own name")
        return self

    @model_validator(mode="after")
    def preference_begins_without_adapters(self) -> Recipe:
        for before, stage in pairwise(self.stages):
            # Equal adapters go on from stage to stage unmerged; switching them off gives the model
            # before both stages, not the one that this stage begins with.
            if stage.objective.preference is not None and stage.lora == before.lora is not None:
                raise ValueError(
                    f"stages.{stage.name}: a preference is measured against the model without this "
                    f"stage's adapters, and those of stage {before.name} would go on; give it "
                    "others (another rank)"
                )
        return self

    @model_validator(mode="after")
    def stages_end_by_what_is_measured(self) -> Recipe:
        for stage in self.stages:
            by = "loss" if stage.ending is None else stage.ending.by
            if by != "loss" and by not in self.evaluation.names:
                known = ", ".join(["loss", *self.evaluation.names])
                raise ValueError(
                    f"stages.{stage.name}.ending.by is `{by}`, which is no task of "
                    f"evaluation.tasks; known: {known}"
                )
        return self

    def resolve(self, stage: StageSpec) -> StageSpec:
        """A stage with what it leaves to the model filled in: its template and its mask."""
        left = {
            "template": stage.template or self.model.language.template,
            "attention_mask": stage.attention_mask or self.model.attention_mask,
        }
        return stage.model_copy(update=left)

    @model_validator(mode="after")
    def kept_ends_are_whole_models(self) -> Recipe:
        for stage, after in pairwise(self.stages):
            if stage.keep and stage.lora is not None and stage.lora == after.lora:
                raise ValueError(
                    f"stages.{stage.name}.keep: its adapters go on in stage {after.name}, so there "
                    "is no whole model at its end; keep the end of the last stage that has them"
                )
            if stage.keep and self.model.language.quantize is not None:
                raise ValueError(
                    f"stages.{stage.name}.keep: a quantised language model is written out at the "
                    "end of the run only; go on from the run, or set model.language.quantize=null"
                )
        return self
