"""One stage of training: what trains, on what, for how long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lucida.core.spec.data import SourceSpec
from lucida.core.spec.mixture import MixtureSpec
from lucida.core.spec.model import MaskName, TemplateName
from lucida.core.spec.value import Rate, Spec

LossMode = Literal["answers", "all", "after_image", "after_each_image"]


class BatchSpec(Spec):
    """What one optimizer step sees."""

    samples: int = Field(default=48, gt=0)
    """Samples per optimizer step, over all ranks; where `tokens` is given, only the size of the
    batches of the validation loss."""
    tokens: int | None = Field(default=None, gt=0)
    """Positions per optimizer step, over all ranks, in place of a number of samples: samples are
    packed into rows, and none is split. Every record is measured once before the first step."""
    row: int | None = Field(default=None, gt=0)
    """Positions of a row under `tokens`: every row is padded to exactly this, the shape of a pass
    never changes, and ranks get whole rows. Null makes one row of each pass, of its own
    length; a long one is padded to a multiple of 64."""
    order: Literal["mixed", "modality", "length"] = "mixed"
    """What shares a step: whatever comes; samples that all have images or all have none; samples of
    like length. The last two measure every record once before the first step."""
    accumulate: int = Field(default=1, gt=0)
    """Forward and backward passes that one step is cut into; the gradient does not depend on it."""
    pack: bool = True
    """Lay samples end to end, isolated by segment; off pads each to the longest."""
    cache_features: bool = True
    """Compute the features of a frozen vision encoder once and keep them on disk."""
    cache_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Most that these features may take on the disk, in GB; null is half of what is free when the
    stage begins. Features beyond it are computed each time, and the log says of how many images."""
    decoding: Literal["exact", "scaled"] = "exact"
    """`scaled` lets a JPEG of more than twice the size that is needed be decoded at a half, a
    quarter or an eighth of it: several times faster for large pictures, and slightly other pixels
    than those that evaluation sees."""
    workers: int = Field(default=0, ge=0)
    """Data worker processes; 0 prepares batches in the training process."""
    checkpointing: Literal["none", "full", "selective"] = "none"
    """What the backward pass computes again instead of keeping it: nothing; every layer of the
    language model and of a trained encoder, from its input on (a third more computing, least
    memory); or all of it but the products with weight matrices, which cost the most to repeat."""

    @property
    def scaled(self) -> bool:
        """May pictures be decoded at a fraction of their size?"""
        return self.decoding == "scaled"

    @model_validator(mode="after")
    def a_limit_of_something(self) -> BatchSpec:
        if self.cache_limit is not None and not self.cache_features:
            raise ValueError("`cache_limit` limits what `cache_features` keeps: it is switched off")
        return self

    @model_validator(mode="after")
    def one_way_to_fill(self) -> BatchSpec:
        if self.tokens is None:
            if self.row is not None:
                raise ValueError("`row` cuts a budget of tokens: give `tokens` as well")
            return self
        if not self.pack or self.order != "mixed":
            raise ValueError("`tokens` packs samples by their length: pack=true and order=mixed")
        if self.row is not None and self.tokens % (self.row * self.accumulate):
            raise ValueError(
                f"tokens ({self.tokens}) must be a multiple of row times accumulate "
                f"({self.row} x {self.accumulate})"
            )
        if self.row is None and self.tokens < self.accumulate:
            raise ValueError("each pass needs at least one position: raise `tokens`")
        return self


class PreferenceSpec(Spec):
    """Of two answers to one question the chosen one is to become likelier than the rejected one, as
    measured against the model at the beginning of the stage.

    Reference: Rafailov et al., DPO, 2023, arXiv 2305.18290; Azar et al., IPO, 2023, arXiv
    2310.12036; Wang et al., MPO, 2024, arXiv 2411.10442.
    """

    loss: Literal["dpo", "ipo", "mpo"] = "dpo"
    """`mpo` adds to DPO (0.8) a loss of each answer by itself (0.2) and the usual loss of the
    chosen one (1)."""
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """How strongly the model is held to what it was: larger stays closer."""


class ObjectiveSpec(Spec):
    """How much a supervised token counts in the loss of a step.

    An answer is a run of supervised tokens: what the assistant says in one turn; under `loss: all`
    the text between two pictures.

    Reference: Chen et al., InternVL 2.5, 2024, arXiv 2412.05271, section 3.3.
    """

    weighting: Literal["token", "square", "sample"] = "token"
    """All tokens count the same (long answers decide); a token of an answer of n tokens counts
    1/sqrt(n); or 1/n, so that every answer counts the same. The loss of a step is the weighted mean
    over all of its tokens, on all ranks; validation losses stay means over tokens."""
    preference: PreferenceSpec | None = None
    """Learn from pairs of answers (sources of the kind `preferences`); validation losses are then
    of pairs too."""

    @model_validator(mode="after")
    def pairs_are_not_weighed(self) -> ObjectiveSpec:
        if self.preference is not None and self.weighting != "token":
            raise ValueError("`weighting` is of tokens; under `preference` every pair counts one")
        return self


class OptimSpec(Spec):
    """What moves the weights, and its schedule.

    Reference: Loshchilov & Hutter, AdamW, 2017, arXiv 1711.05101; Liu et al., Muon is Scalable for
    LLM Training, 2025, arXiv 2502.16982, section 2.2.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` moves the matrices of linear layers (LoRA's factors among them) by an orthogonalised
    momentum scaled to AdamW's size, so that learning rates mean the same; all other weights are
    AdamW's under both."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Of Muon; null is 0.95. AdamW has `beta1`."""
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

    @model_validator(mode="after")
    def a_momentum_for_muon(self) -> OptimSpec:
        if self.momentum is not None and self.kind != "muon":
            raise ValueError("`momentum` is Muon's: set kind=muon, or beta1 for AdamW")
        return self


class BudgetSpec(Spec):
    """How long a stage lasts: steps, epochs, tokens or minutes, exactly one of them."""

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    """One epoch is as many samples as the mixture has records."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens that the model reads, visual tokens included; the step that reaches it is the last."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Training time by the clock, interruptions left out. The learning rate follows the time."""

    @model_validator(mode="after")
    def one_of_them(self) -> BudgetSpec:
        if len(given := self.model_dump(exclude_none=True)) != 1:
            shown = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise ValueError(f"give exactly one of steps, epochs, tokens and minutes (got {shown})")
        return self


class LoraSpec(Spec):
    """Low-rank adapters beside matrices that stay as they are.

    Reference: Hu et al., LoRA, 2021, arXiv 2106.09685; Liu et al., DoRA, 2024, arXiv 2402.09353.
    """

    rate: float = Field(gt=0, allow_inf_nan=False)
    """Peak learning rate of the adapters."""
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = Field(default=["language"], min_length=1)
    """Patterns of module names as in `train`; every linear layer below them gets an adapter, except
    the output matrix over the vocabulary."""
    dora: bool = False
    """Train the magnitudes of the adapted matrices as well."""


class ValidationSpec(Spec):
    """What the validation loss of a stage is of: records that do not train, each of them once."""

    source: SourceSpec | None = None
    """A source of its own; the sources of the mixture then train whole."""
    share: float | None = Field(default=None, gt=0, le=0.5)
    """Or a share of every source of the mixture, evenly spread: of 0.1 every tenth record. The
    miniature world has records of its own for it, whatever the share."""
    most: int | None = Field(default=None, gt=0)
    """Most records in all, of each source in proportion; null takes all."""

    @model_validator(mode="after")
    def one_of_them(self) -> ValidationSpec:
        if (self.source is None) == (self.share is None):
            raise ValueError("give exactly one of `source` and `share`")
        return self


class EndingSpec(Spec):
    """Which weights a stage ends with, and whether it ends before its budget does.

    A look is one at the validation loss (`validate_every`, and at the end) or at a benchmark
    (`evaluate_every`).

    Reference: Prechelt, Early Stopping - But When?, 1998, section 2; Izmailov et al., Averaging
    Weights Leads to Wider Optima and Better Generalization, 2018, arXiv 1803.05407, section 3.
    """

    weights: Literal["last", "best", "average"] = "last"
    """Those after the last step; those at the look that `by` found best; or the mean of those after
    the last `last` multiples of `every` steps."""
    by: str = "loss"
    """`loss`, the validation loss, or the name of a benchmark of `evaluation.tasks`."""
    patience: int | None = Field(default=None, gt=0)
    """End the stage after so many looks in a row that found nothing better; null never does. The
    learning rate follows the budget all the same."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Only what is better by more than this counts as better."""
    last: int = Field(default=5, ge=2)
    """Weights that `average` is the mean of."""
    every: int | None = Field(default=None, gt=0)
    """Steps between them."""

    @model_validator(mode="after")
    def does_something(self) -> EndingSpec:
        if self.weights == "last" and self.patience is None:
            raise ValueError("`weights: last` without `patience` changes nothing; leave it out")
        if (self.weights == "average") != (self.every is not None):
            raise ValueError("`every` belongs to `weights: average`, which needs it")
        return self

    @property
    def looks(self) -> bool:
        """Does it depend on looks?"""
        return self.weights == "best" or self.patience is not None


class StageSpec(Spec):
    """One stage of training. There is no code per stage: everything that differs stands here."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    train: dict[str, Rate]
    """Pattern of parameter names (shell style, a bare module name covers all below it) → peak
    learning rate or `frozen`. `vision.last(2)` names the last two layers of a module. The last
    matching pattern wins; what no pattern names is frozen; a pattern that matches nothing is an
    error."""
    lora: LoraSpec | None = None
    """Adapters that this stage trains; they are merged into the weights when the stage is over,
    unless the next stage has the same."""
    template: TemplateName | None = None
    """Chat template of this stage; null is the language model's (`model.language.template`). A
    finished run is saved with the template and the mask of its last stage, so that it is asked as
    it was trained."""
    attention_mask: MaskName | None = None
    """Attention mask of this stage; null is the model's (`model.attention_mask`)."""
    mixture: MixtureSpec
    loss: LossMode = "answers"
    """What is supervised: assistant turns and whole documents (`answers`), every text token
    (`all`), all text after the first image (`after_image`), or of documents only the sentence right
    after each image and of conversations the answers (`after_each_image`)."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """How much each supervised token counts."""
    budget: BudgetSpec
    batch: BatchSpec = BatchSpec()
    optim: OptimSpec = OptimSpec()
    validation: ValidationSpec | None = None
    """What the validation loss is of. null keeps one record in 20 of every source out of training,
    fewer of large ones, and takes 64 of them; the miniature world has records of its own."""
    validate_every: int | None = Field(default=None, gt=0)
    """Steps between looks at the validation loss; null looks at the end of the stage only."""
    ending: EndingSpec | None = None
    """null ends with the budget, and with the weights after the last step."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations on a slim set of benchmark questions; null does none in training.
    They leave no trace in it."""
    checkpoint_every: int | None = Field(default=200, gt=0)
    """Steps between checkpoints; null keeps only the one at the end of the stage."""
    keep: bool = False
    """Save the model at the end of this stage too, in `stages/NAME` of the run folder, so that
    another recipe can go on from it (`model.from: RUN@NAME`). The end of the last stage is the
    run's own model."""

    @model_validator(mode="after")
    def something_trains(self) -> StageSpec:
        if not self.train and self.lora is None:
            raise ValueError("nothing trains: give patterns in `train`, or `lora`")
        return self

    @model_validator(mode="after")
    def looks_are_taken(self) -> StageSpec:
        if self.ending is not None and self.ending.looks:
            needed = "validate_every" if self.ending.by == "loss" else "evaluate_every"
            if getattr(self, needed) is None:
                raise ValueError(
                    f"`ending` by {self.ending.by} looks while it trains: set {needed} as well"
                )
        return self

    @model_validator(mode="after")
    def validation_does_not_train(self) -> StageSpec:
        source = None if self.validation is None else self.validation.source
        for name, each in self.mixture.sources.items() if source is not None else ():
            if each.model_copy(update={"weight": source.weight}) == source:
                raise ValueError(f"the validation source is what trains as `{name}`")
        return self
