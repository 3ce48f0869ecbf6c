"""Recipes as values: every choice that makes a model, validated before anything loads.

A `Recipe` is a model, an ordered list of stages and an evaluation. Each default stands here once
and nowhere else. Nothing in this file imports torch. How recipes are found, overridden, explained
and hashed is in `lucida.core.recipe`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MaskName = Literal["causal", "image_block"]
TemplateName = Literal["plain", "qa", "chatml", "vicuna", "tokenizer"]
LossMode = Literal["answers", "all", "after_image"]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["frozen"]


class Spec(BaseModel):
    """A frozen value with no room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class VisionSpec(Spec):
    """The vision encoder and what is taken from it."""

    path: str
    """Hub id, local Hugging Face folder, or `lucida:NAME` for a part that ships with Lucida."""
    feature_layer: int = -1
    """Index into the encoder's hidden states; -1 is the last, -2 (LLaVA's) the one before."""
    normed: bool = False
    """Apply the encoder's final norm to the features. Raw hidden states are what LLaVA's mean."""
    take: Literal["patches", "cls_patches"] = "patches"
    """Patch tokens alone, or the class token in front of them."""


class ImageSpec(Spec):
    """How a picture of any shape becomes the encoder's square."""

    policy: Literal["resize", "letterbox", "crop"] = "letterbox"
    """Stretch to the square, pad with the encoder's mean colour, or fill it and crop."""
    size: int | None = Field(default=None, gt=0)
    """Pixels per side; null takes the encoder's own size."""


class LinearProjectorSpec(Spec):
    """One matrix from vision width to language width."""

    kind: Literal["linear"] = "linear"


class MlpProjectorSpec(Spec):
    """LLaVA-1.5's projector: linear layers with an activation between them."""

    kind: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1, le=8)
    """Number of linear layers."""
    hidden: int | None = Field(default=None, gt=0)
    """Width between the layers; null is the language model's width."""
    activation: Literal["gelu", "relu"] = "gelu"
    norm: bool = False
    """LayerNorm on the incoming features."""
    position: bool = False
    """Add a learned vector per grid place; convolutional features know no place."""


ProjectorSpec = Annotated[LinearProjectorSpec | MlpProjectorSpec, Field(discriminator="kind")]


class LanguageSpec(Spec):
    """The language model and its tokenizer."""

    path: str
    """Hub id, local Hugging Face folder, or `lucida:NAME` for a part that ships with Lucida."""
    template: TemplateName = "qa"
    """How turns become tokens. `tokenizer` follows the tokenizer's own chat template."""
    max_length: int = Field(default=2048, gt=0)
    """Longest sample in tokens, visual tokens included."""


class ModelSpec(Spec):
    """The parts of a VLM. Without `vision` it is the language-only (blind) model."""

    vision: VisionSpec | None
    """null: images contribute no tokens at all; the blind baseline."""
    image: ImageSpec = ImageSpec()
    projector: ProjectorSpec = MlpProjectorSpec()
    language: LanguageSpec
    attention_mask: MaskName = "causal"
    """`image_block` lets the visual tokens of one image see each other (arXiv 2503.19508)."""
    coordinate_bins: int = Field(default=32, ge=8, le=1000)
    """A box is written as four coordinates, each one of this many bins of the processed image."""


class WorldSourceSpec(Spec):
    """Samples drawn from the miniature world."""

    kind: Literal["world"] = "world"
    tasks: list[str] = Field(min_length=1)
    """Task families, as `lucida.world.tasks.TASKS` names them; one named twice is asked twice as
    often."""
    split: Literal["train", "validation", "test", "novel"] = "train"
    count: int = Field(default=4096, gt=0)
    """Number of samples (each one image with its questions, or one document)."""
    questions: int = Field(default=8, ge=1, le=64)
    """Isolated questions behind one image."""
    size: Literal[64, 96] = 64
    seed: int = 0
    weight: float = Field(default=1.0, gt=0)


class LlavaSourceSpec(Spec):
    """A LLaVA-style JSON or JSONL file: `image` and `conversations` per record."""

    kind: Literal["llava"] = "llava"
    path: str
    images: str | None = None
    """Folder that image paths are relative to; null is the folder of the file."""
    weight: float = Field(default=1.0, gt=0)


SourceSpec = Annotated[WorldSourceSpec | LlavaSourceSpec, Field(discriminator="kind")]


class MixtureSpec(Spec):
    """Sources with weights, and what to do with a record that cannot be used."""

    sources: dict[str, SourceSpec] = Field(min_length=1)
    """Name of the source → where its samples come from."""
    on_error: Literal["error", "skip"] = "error"
    """`skip` drops a bad record, writes it to `dropped.jsonl`, and stops above `max_dropped`."""
    max_dropped: float = Field(default=0.01, ge=0, le=1)
    """Largest share of records that may be dropped before the run stops."""


class BatchSpec(Spec):
    """What one optimizer step sees."""

    samples: int = Field(default=48, gt=0)
    """Samples per optimizer step, over all ranks."""
    accumulate: int = Field(default=1, gt=0)
    """Forward and backward passes that one step is cut into; the gradient does not depend on it."""
    pack: bool = True
    """Lay samples end to end without padding, isolated by segment; off pads each to the longest."""
    cache_features: bool = True
    """Compute the features of a frozen vision encoder once and keep them on disk."""
    workers: int = Field(default=0, ge=0)
    """Data worker processes; 0 prepares batches in the training process."""


class OptimSpec(Spec):
    """AdamW and its schedule."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0)
    """Warm-up: a share of the steps when below 1, a number of steps otherwise."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm; null does not clip."""


class BudgetSpec(Spec):
    """How long a stage lasts: steps or epochs, exactly one of them."""

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def one_of_them(self) -> BudgetSpec:
        if (self.steps is None) == (self.epochs is None):
            given = f"steps={self.steps}, epochs={self.epochs}"
            raise ValueError(f"give exactly one of steps and epochs (got {given})")
        return self


class StageSpec(Spec):
    """One stage of training. There is no code per stage: everything that differs stands here."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    train: dict[str, Rate] = Field(min_length=1)
    """Pattern of parameter names (shell style, a bare module name covers all below it) → peak
    learning rate or `frozen`. The last matching pattern wins; what no pattern names is frozen; a
    pattern that matches nothing is an error."""
    mixture: MixtureSpec
    loss: LossMode = "answers"
    """Supervise assistant turns only, every text token, or text after the first image only."""
    budget: BudgetSpec
    batch: BatchSpec = BatchSpec()
    optim: OptimSpec = OptimSpec()
    validate_every: int | None = Field(default=None, gt=0)
    """Steps between looks at the validation loss; null looks at the end of the stage only."""
    checkpoint_every: int | None = Field(default=200, gt=0)
    """Steps between checkpoints; null keeps only the one at the end of the stage."""


class EvaluationSpec(Spec):
    """What is measured after training."""

    tasks: list[str] = []
    """Benchmarks by name, as `lucida.eval.benchmarks.BENCHMARKS` lists them."""
    limit: int | None = Field(default=None, gt=0)
    """Largest number of examples per task; null takes all."""
    max_new_tokens: int = Field(default=32, gt=0)
    samples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each 95% interval."""


class BlindSpec(Spec):
    """The language-only baseline that a recipe trains beside itself: same data, no images."""

    steps: int = Field(gt=0)
    """Steps of each stage; the blind model learns its priors sooner."""


class Recipe(Spec):
    """A model, its stages and its evaluation: everything that a run needs to be repeated."""

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 where the hardware multiplies it fast, fp16 on older GPUs, else fp32."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null leaves torch's choice. Bit-identical resume needs the same number."""
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
