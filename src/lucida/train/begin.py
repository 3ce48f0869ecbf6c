"""Before the first step: the model, the plan of every stage; and between two stages.

check_folder ─▶ begin: parts, newest checkpoint ─▶ plan each stage ─▶ prepare: set stage number i
                                                                      settle: the model at the end
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lucida.core.errors import RecipeError, suggestion
from lucida.core.files import atomic_folder
from lucida.core.progress import say
from lucida.core.recipe import diff_recipes
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe, StageSpec
from lucida.core.spec.data import WorldSourceSpec
from lucida.data.sources.world import WorldSource
from lucida.model import adapters
from lucida.model.attention import trained_way
from lucida.model.checkpoint import build, generation_defaults
from lucida.model.masks import ASK_WHOLE, MASKS
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.train.between import Gate
from lucida.train.budget import Horizon, horizon
from lucida.train.engine import Engine, Loss
from lucida.train.feed import Feed, stage_feed
from lucida.train.kernels import quicken
from lucida.train.layers import able_to_compile, equip
from lucida.train.optim import make_optimizer
from lucida.train.precision import Precision, choose_device, choose_precision
from lucida.train.reading import (
    Saved,
    check_records,
    damaged,
    load_adapters,
    load_moments,
    load_weights,
    newest,
)
from lucida.train.stage import StagePlan, apply_plan, plan_stage
from lucida.train.state import ADAPTER, Position, Setting
from lucida.train.stopping import StopRequest

Watch = Callable[[LucidaModel, LucidaProcessor, int], Mapping[str, float] | None]
"""Called with the model, its processor as the stage sets it, and the steps of the run so far. What
it gives is recorded in metrics.jsonl under `evaluation`."""


@dataclass(slots=True)
class Training:
    """A run under way: the only thing that the functions of the loop share.

    `touched` names the parameters that any stage so far has trained. `saved` is the checkpoint that
    this process continues from, None when it began the run.
    """

    recipe: Recipe
    run: RunFolder
    model: LucidaModel
    processor: LucidaProcessor
    precision: Precision
    setting: Setting
    engine: Engine
    stop: StopRequest
    position: Position
    touched: set[str]
    saved: Saved | None
    compiled: bool
    watch: Watch | None = None
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one stage trains, reads, and when it ends; `processor` writes its template."""

    stage: StageSpec
    what: StagePlan
    feed: Feed
    horizon: Horizon
    processor: LucidaProcessor


@dataclass(slots=True)
class Set:
    """A stage that is ready: what moves the weights, and the loss that does."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss_of: Loss


def begin(recipe: Recipe, run: RunFolder, engine: Engine, stop: StopRequest) -> Training:
    """Build the model, or take the run up where its newest checkpoint left it (adapters excepted:
    `restore_adapters` brings them once the stages are planned)."""
    check_quantised(recipe)
    saved = newest(run.path, len(recipe.stages))
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = choose_device()
    precision = agree_on_precision(recipe, run, saved, engine, device)
    setting = Setting(
        precision.name, str(device), torch.get_num_threads(), torch.__version__, engine.world
    )
    say(f"precision: {precision}")
    if engine.world > 1:
        say(f"engine: {engine.kind}, {engine.world} processes")
    seed_everything(recipe.seed)
    model, processor = build(recipe.model)
    if device.type == "cpu":
        quicken(model.language)
        adapters.keep_differentiable(model)
    position, touched = Position(), set()
    if saved is not None:
        position, touched = saved.position, load_weights(saved, model)
        say(f"going on from step {position.total} of {run.path}")
        if changes := saved.setting.differences(setting):
            say(f"note: {changes}; the last bits of the weights may differ")
    model.to(device)
    wanted = recipe.engine.attention
    model.attention = trained_way(wanted, model.language.config, device, precision.dtype)
    compiled = recipe.engine.compile and able_to_compile()
    return Training(
        recipe,
        run,
        model,
        processor,
        precision,
        setting,
        engine,
        stop,
        position,
        touched,
        saved,
        compiled,
    )


def agree_on_precision(
    recipe: Recipe, run: RunFolder, saved: Saved | None, engine: Engine, device: torch.device
) -> Precision:
    """Rank 0's choice, which is that of the newest checkpoint, its own or for a blind baseline
    that of the run it belongs to, wherever that was begun."""
    above = RunFolder(run.path.parent)
    if saved is None and run.path.name == "blind" and above.exists:
        saved = newest(above.path, len(above.recipe.stages))
    begun = None if saved is None else saved.setting.precision
    own = choose_precision(recipe.precision, device, begun)
    name, reason = engine.gathered((own.name, own.reason))[0]
    return Precision(name, device, reason)


def sign(training: Training, command: str, accepted: list[str]) -> None:
    """Write recipe and environment, and forget what was recorded after the newest checkpoint.

    `accepted` says which data or parts have changed since the run began. RunError when what the run
    has recorded so far is damaged.
    """
    run, position = training.run, training.position
    if not run.exists or diff_recipes(run.recipe, training.recipe):
        run.write_recipe(training.recipe)
    rows = run.metrics.read()
    check_records(run.metrics.path, rows)
    run.metrics.keep(lambda record: record["total_step"] <= position.total)
    known = sum("grad_norm" in row and row["total_step"] <= position.total for row in rows)
    if known != position.total:
        say(f"note: {run.metrics.path} holds {known} of the {position.total} steps that were taken")
    run.dropped.read()
    if run.dropped.torn:
        say(f"note: {run.dropped.torn} lines of {run.dropped.path} cannot be read and do not count")
    changes = {"accepted": accepted} if accepted else {}
    run.environment(
        command,
        precision=str(training.precision),
        device=training.setting.device,
        threads=training.setting.threads,
        engine=training.engine.kind,
        processes=training.engine.world,
        **changes,
    )


def seed_everything(seed: int) -> None:
    """Set Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's code draws from it
    torch.manual_seed(seed)


def plan(training: Training, index: int) -> Plan:
    """What stage number `index` does, checked without changing anything.

    The model has no adapters yet: plans name its weights as they are without.
    """
    recipe, stage = training.recipe, training.recipe.stages[index]
    origin = f"stage {stage.name} of recipe {recipe.name}"
    what = plan_stage(training.model, stage.train, origin, stage.lora)
    if stage.lora is not None:
        adapters.lora_config(stage.lora, what.adapted)  # is PEFT there?
    check_mask(stage, recipe.model.attention_mask, origin)
    processor = with_template(training.processor, stage)
    feed = stage_feed(
        recipe,
        index,
        what,
        training.model,
        processor,
        training.precision,
        training.run.dropped.path,
        training.engine,
    )
    end = horizon(stage.budget, feed.steps, feed.most)
    end.check(stage.optim)
    return Plan(stage, what, feed, end, processor)


def check_mask(stage: StageSpec, usual: str, origin: str) -> None:
    """RecipeError for a mask that this version cannot draw, or that this stage's data do not fit.

    `usual` is the model's mask. Pictures of the world with several isolated questions, the only
    samples with branches, are refused here, before any stage trains, and not at their first batch.
    """
    if stage.attention_mask is not None and stage.attention_mask not in MASKS:
        raise RecipeError(
            f"there is no attention mask {stage.attention_mask!r}",
            origin=origin,
            remedy=suggestion(stage.attention_mask, list(MASKS)),
        )
    name = stage.attention_mask or usual
    if name not in ASK_WHOLE:
        return
    for source, spec in stage.mixture.sources.items():
        if isinstance(spec, WorldSourceSpec) and (several := most_branches(spec)) > 1:
            key = f"stages.{stage.name}.mixture.sources.{source}.questions"
            mask = f"stages.{stage.name}" if stage.attention_mask else "model"
            raise RecipeError(
                f"under the attention mask `{name}` an image sees the question: several isolated "
                "questions cannot share one",
                expected=f"{key}=1",
                given=f"{several} questions behind an image",
                origin=origin,
                remedy=f"set {key}=1, or choose another {mask}.attention_mask",
            )


def most_branches(spec: WorldSourceSpec) -> int:
    """The most isolated questions behind one picture, among the first samples of a source."""
    source = WorldSource(spec.tasks, spec.split, spec.count, spec.questions, spec.size, spec.seed)
    return max(len(source[index].branches) for index in range(min(16, len(source))))


def with_template(processor: LucidaProcessor, stage: StageSpec) -> LucidaProcessor:
    """The processor as this stage writes its turns; the same object when the template is its own.

    DataError when the tokenizer cannot follow the template.
    """
    if stage.template is None or stage.template == processor.template:
        return processor
    other = copy(processor)
    other.template = stage.template
    other.end_tokens()
    return other


def restore_adapters(training: Training, plans: list[Plan]) -> None:
    """Bring back the adapters of the newest checkpoint, which was of a stage with `lora`."""
    if training.saved is None or not (training.saved.path / ADAPTER).is_dir():
        return
    current = plans[training.position.stage]
    if current.stage.lora is None:
        raise damaged(training.saved.path / ADAPTER, f"stage {current.stage.name} has no adapters")
    adapters.attach(training.model, current.what.adapted, current.stage.lora)
    load_adapters(training.saved, training.model, current.stage.lora)


def prepare(training: Training, index: int, current: Plan) -> Set:
    """Set the stage: mask, adapters, what is frozen, how layers compute, and the optimizer, which
    is restored when the newest checkpoint is of this stage."""
    position, stage, model = training.position, current.stage, training.model
    if position.stage < index:
        before = training.recipe.stages[position.stage]
        if before.lora != stage.lora:
            merge_adapters(training)
        position.next_stage(index)
    model.mask = stage.attention_mask or training.recipe.model.attention_mask
    if stage.lora is not None and not adapters.adapted_layers(model):
        seed_everything(training.recipe.seed + 1000 * (index + 1) + 1)
        adapters.attach(model, current.what.adapted, stage.lora)
    trained = dict(current.what.trained)
    if stage.lora is not None:
        rate = stage.lora.rate
        trained |= {name: (each, rate) for name, each in adapters.named_adapters(model).items()}
    apply_plan(model, trained)
    training.touched |= set(current.what.trained)
    equip(model, stage.batch.checkpointing, training.compiled)
    loss_of = training.engine.prepare(model, training.precision)
    now = dict(adapters.named_weights(model)) | adapters.named_adapters(model)
    trained = {name: (now[name], rate) for name, (_, rate) in trained.items()}
    optimizer = make_optimizer(trained, stage.optim, model, training.precision.dtype)
    scaler = training.precision.scaler()
    if position.step == 0:
        # Its own seed: how many numbers the stage before drew does not matter.
        seed_everything(training.recipe.seed + 1000 * (index + 1))
    else:
        load_moments(training.saved, optimizer, scaler)
    return Set(optimizer, scaler, loss_of)


def merge_adapters(training: Training) -> None:
    """Add the adapters to their matrices; these are then weights that the run has changed."""
    training.touched |= set(adapters.merge(training.model))


def settle(training: Training) -> None:
    """Make of the trained model what is saved: adapters merged, and asked as it was last trained.

    The adapters of a last stage with `lora` are kept beside it as well, in `adapter/`.
    """
    model, processor, last = training.model, training.processor, training.recipe.stages[-1]
    equip(model, "none", compiled=False)
    if last.lora is not None:
        keep_adapter(training)
    merge_adapters(training)
    spec = training.recipe.model
    quantised = spec.language.quantize is not None
    if quantised:
        adapters.write_out(model)
        say("the language model is saved in fp32, quantised matrices written out")
    if last.template is None and last.attention_mask is None and not quantised:
        return
    model.mask = last.attention_mask or spec.attention_mask
    processor.template = last.template or spec.language.template
    if quantised:
        model.config.text_config = forget_quantisation(model.language)
    changes = {"template": processor.template, "quantize": None}
    language = spec.language.model_copy(update=changes)
    told = spec.model_copy(update={"language": language, "attention_mask": model.mask})
    model.config.spec = told.model_dump(mode="json")
    model.generation_config = generation_defaults(model.language, processor)


def forget_quantisation(language: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of a language model whose matrices were written out; it is changed."""
    config = language.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    language.is_quantized = False
    language.hf_quantizer = None
    return config


def check_quantised(recipe: Recipe) -> None:
    """RecipeError when adapters on quantised weights would be merged before the end: a checkpoint
    of the next stage could not say what lies under its own."""
    if recipe.model.language.quantize is None:
        return
    for stage, after in itertools.pairwise(recipe.stages):
        if stage.lora is not None and stage.lora != after.lora:
            raise RecipeError(
                "adapters on a quantised language model last to the end of the run",
                expected=f"the `lora` of stage {stage.name} in stage {after.name} as well",
                given=after.lora.model_dump() if after.lora else "none",
                origin=f"recipe {recipe.name}",
                remedy="give both stages the same `lora`, or set model.language.quantize=null",
            )


def keep_adapter(training: Training) -> None:
    """Write the last stage's adapters into `adapter/`, for PEFT to put onto the parts again.

    Adapters of the language model alone are laid out for it, and name it as their base. They are
    left out, and this is said, when another stage has changed the weights that they belong to.
    """
    lora, model = training.recipe.stages[-1].lora, training.model
    layers = adapters.adapted_layers(model)
    below = "language" if all(name.startswith("language.") for name in layers) else ""
    tops = {name.split(".")[0] for name in layers}
    changed = sorted(name for name in training.touched if name.split(".")[0] in tops)
    if changed:
        say(
            f"no adapter/ beside the model: its base is not a published part, the run changed "
            f"{changed[0]} too ({len(changed)} tensors)"
        )
        return
    base = training.recipe.model.language.path if below else None
    with atomic_folder(training.run.path / "adapter") as aside:
        adapters.save_adapter(model, aside, lora, below, base)
