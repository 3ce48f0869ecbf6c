"""The plan of a recipe: parameters, tokens, memory, arithmetic and time, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lucida.apps.plan.batch import fill_step, shape_of, steps_of
from lucida.apps.plan.devices import Device
from lucida.apps.plan.fitting import cuts
from lucida.apps.plan.lengths import Lengths, Sampled, mean_lengths, take_samples
from lucida.core.spec import Recipe, StageSpec

if TYPE_CHECKING:
    from torch import nn

    from lucida.apps.plan.step import Cost, Shape
    from lucida.model.blueprint import Blueprint, Skeleton
    from lucida.training.stage import StagePlan

EngineName = Literal["single", "ddp", "fsdp"]
FP32 = 4
"""Bytes of a number: weights, gradients and moments are fp32 in every precision."""
BITS = {"4bit": 0.55, "8bit": 1.05}
"""Bytes of a quantised weight, scales included."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device, by part; `peak` is what stands there at once at most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    peak: float


@dataclass(frozen=True, slots=True)
class PlannedPass:
    """One pass of a stage on each of `count` devices: what stands there and what it costs."""

    recipe: Recipe
    stage: StageSpec
    model: Skeleton
    what: StagePlan
    shape: Shape
    cost: Cost
    count: int
    precision: str


def plan_recipe(recipe: Recipe, device: Device, count: int = 1) -> dict[str, Any]:
    """All of it as plain values; no weights are read and nothing is fetched.

    ModelError names a part whose shape is unknown, RecipeError what a stage cannot train.
    """
    from lucida.model.blueprint import make_blueprint, skeleton

    blueprint = make_blueprint(recipe.model)
    whole = skeleton(blueprint)
    stages = [plan_fitting(recipe, stage, blueprint, device, count) for stage in recipe.stages]
    return {
        "recipe": recipe.name,
        "device": {"name": device.name, "count": count, "precision": precision_of(recipe, device)}
        | {"peak_flops": device.peak, "share_of_peak": device.share, "memory": device.memory},
        "modules": {
            name: sum(weight.numel() for weight in part.parameters())
            for name, part in parts(whole).items()
        },
        "tokens_per_image": {
            "one_view": blueprint.arrangement.tokens,
            "most": max(blueprint.arrangement.tokens, blueprint.most_tokens),
            "in_the_text": not blueprint.gated,
        },
        "stages": stages,
        "exports": exports(recipe, whole),
    }


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """Name → part, those that are there."""
    names = ("vision", "projector", "cross_attention", "language")
    named = {name: getattr(model, name) for name in names}
    return {name: part for name, part in named.items() if part is not None}


def precision_of(recipe: Recipe, device: Device) -> str:
    """The recipe's precision, or the device's."""
    return device.precision if recipe.precision == "auto" else recipe.precision


def plan_fitting(
    recipe: Recipe, stage: StageSpec, blueprint: Blueprint, device: Device, count: int
) -> dict[str, Any]:
    """One stage, and the number of passes that would make it fit where it does not."""
    sampled = take_samples(recipe, stage, blueprint)
    planned = partial(
        plan_one, recipe, blueprint=blueprint, sampled=sampled, device=device, count=count
    )
    found = planned(stage)
    passes = cuts(stage, found["memory"], device, lambda cut: planned(cut)["memory"])
    return found | {"fits_with": passes}


def plan_one(
    recipe: Recipe,
    stage: StageSpec,
    blueprint: Blueprint,
    sampled: Sampled | str,
    device: Device,
    count: int,
) -> dict[str, Any]:
    """One stage."""
    from lucida.model.blueprint import skeleton
    from lucida.training.stage import plan_stage

    model = skeleton(blueprint)
    what = plan_stage(model, stage.train, f"stage {stage.name} of {recipe.name}", stage.lora)
    found = mean_lengths(recipe, stage, blueprint, sampled)
    filled = fill_step(stage, found, count)
    sides = blueprint.view_sides(found.side)
    shape = shape_of(recipe, stage, what, found, filled, sides)
    precision = precision_of(recipe, device)
    cost = cost_of(model, stage, what, shape, precision, device.gpu)
    planned = PlannedPass(recipe, stage, model, what, shape, cost, count, precision)
    # `cost` is of one pass of one device.
    passes = stage.batch.accumulate * count
    flops = cost.total * passes
    seconds = flops / (device.peak * device.share * count)
    steps = steps_of(stage, found, filled, seconds)
    trained, every = what.counts
    return {
        "name": stage.name,
        "trained": trained,
        "frozen": every - trained,
        "trained_by_part": trained_by_part(what),
        "lengths": average_samples(found),
        "samples_per_step": filled.step_samples,
        "tokens_per_step": round(filled.step_samples * found.length),
        "tokens_per_pass": shape.rows * shape.length,
        "flops_per_step": flops,
        "flops_by_part": {name: value * passes for name, value in cost.flops.items()},
        "features_cached": shape.features_cached,
        "checkpointing": stage.batch.checkpointing,
        "seconds_per_step": seconds,
        "steps": steps,
        "hours": None if steps is None else steps * seconds / 3600,
        "memory": {
            engine: as_dict(memory(planned, engine))
            for engine in (("single",) if count == 1 else ("ddp", "fsdp"))
        },
    }


def average_samples(found: Lengths) -> dict[str, Any]:
    """Means over samples; those of one image where there are images."""
    known = found.counted and found.views > 0
    return {
        "tokens_per_sample": found.length,
        "supervised_per_sample": found.supervised,
        "images_per_sample": found.images,
        "tokens_per_image": found.visual / found.images if known else None,
        "views_per_image": found.views / found.images if known else None,
        "rows_filled": found.fill,
        "found": found.found,
    }


def as_dict(value: Memory) -> dict[str, float]:
    """Its parts by name."""
    return {name: getattr(value, name) for name in Memory.__slots__}


def trained_by_part(what: StagePlan) -> dict[str, int]:
    """Trained parameters of each part; those of adapters apart."""
    found: dict[str, int] = {}
    for name, (parameter, _) in what.trained.items():
        part = name.split(".")[0]
        found[part] = found.get(part, 0) + parameter.numel()
    return found | ({"adapters": what.adapters} if what.adapters else {})


def cost_of(
    model: Skeleton, stage: StageSpec, what: StagePlan, shape: Shape, precision: str, gpu: bool
) -> Cost:
    """Arithmetic and kept bytes of one pass, with the stage set on the skeleton."""
    import torch

    from lucida.apps.plan.depth import cost_by_kinds
    from lucida.apps.plan.step import fake, run_pass
    from lucida.model.adapters import attach, named_adapters
    from lucida.training.layers import equip

    if what.adapted:
        with torch.device("meta"):  # else PEFT draws numbers, which nobody looks at
            attach(model, what.adapted, stage.lora)
    mode = fake(model, gpu)
    for weight in model.parameters():
        weight.requires_grad_(False)
    named = dict(model.named_parameters(remove_duplicate=False))
    for name in what.trained:
        named[name].requires_grad_(True)
    for weight in named_adapters(model).values() if what.adapted else ():
        weight.requires_grad_(True)
    equip(model, stage.batch.checkpointing, compiled=False)
    how = stage.batch.checkpointing
    return cost_by_kinds(model, partial(run_pass, model, shape, precision, gpu, mode, how))


def memory(planned: PlannedPass, engine: EngineName) -> Memory:
    """Bytes on one device; FSDP divides weights, gradients and moments."""
    recipe, stage, model, what = planned.recipe, planned.stage, planned.model, planned.what
    cost, count = planned.cost, planned.count
    quantised = BITS.get(recipe.model.language.quantize or "", FP32)
    weights = {name: count_parameters(part) * FP32 for name, part in parts(model).items()}
    # Adapters stay fp32 beside matrices of few bits.
    weights["language"] += (count_parameters(model.language) - what.adapters) * (quantised - FP32)
    held = sum(weights.values())
    share = 1
    if engine == "fsdp":
        share = count
        held = count_sharded_bytes(planned, weights)
    trained = {name: size * FP32 / share for name, size in trained_by_part(what).items()}
    trained["language"] = trained.get("language", 0) + trained.pop("adapters", 0)
    gradients = sum(trained.values())
    # AdamW's two moments are as large as the gradients.
    moments = 2 * gradients - muon_saves(planned) * FP32 / share
    logits = cost.kept.get("head", 0) + head_transient(planned)
    kept = {name: cost.kept.get(name, 0) for name in BACKWARDS}
    # Where passes accumulate, the gradients of those before are there from the beginning, and so
    # they count under several ranks; else they come as the activations go.
    together = stage.batch.accumulate > 1 or engine != "single"
    moving = most_at_once(kept, cost.working, {} if together else trained, logits)
    peak = held + moments + moving + (gradients if together else 0.0)
    activations = sum(kept.values()) + max(cost.working.get(name, 0) for name in BACKWARDS)
    return Memory(held, gradients, moments, activations, logits, peak)


def muon_saves(planned: PlannedPass) -> int:
    """Numbers that Muon does not keep: of a matrix it has one moment, where AdamW has two."""
    from lucida.training.muon import find_matrices

    if planned.stage.optim.kind != "muon":
        return 0
    matrices = find_matrices(planned.model)
    own = [weight.numel() for weight, _ in planned.what.trained.values() if weight in matrices]
    return sum(own) + planned.what.adapters


def count_parameters(module: nn.Module) -> int:
    """Its parameters."""
    return sum(weight.numel() for weight in module.parameters())


def count_sharded_bytes(planned: PlannedPass, weights: dict[str, float]) -> float:
    """Bytes of weights on one rank (`training.sharding`): a frozen encoder whole, a part of all
    else, and what is gathered: all that stands in no layer, and two layers at a time."""
    from lucida.training.blocks import blocks

    model = planned.model
    divided = {name: size for name, size in weights.items() if name != "vision"}
    layers = list(blocks(model.language).values())
    if planned.what.touches("vision"):
        divided = weights
        layers += blocks(model.vision).values()
    outside = sum(divided.values()) - sum(map(count_parameters, layers)) * FP32
    two = (
        2 * max(map(count_parameters, layers)) * (FP32 if planned.precision == "fp32" else FP32 / 2)
    )
    whole = sum(weights.values()) - sum(divided.values())
    return whole + sum(divided.values()) / planned.count + max(0.0, outside) + two


BACKWARDS = ("language", "projector", "vision")
"""The parts in the order in which the backward pass comes through them; gated layers stand between
those of the language model."""


def most_at_once(
    kept: dict[str, float], working: dict[str, int], gradients: dict[str, float], logits: float
) -> float:
    """The most bytes of activations and gradients that are there together in one backward pass.

    Activations go as gradients come, part by part; where the backward pass is, it needs `working`
    bytes besides. Gradients that stay from pass to pass are left out of `gradients`.

    Worked example: kept 8 and 4, gradients 6 and 1 (language, then vision), logits 2, working 3 in
    both. At first 8 + 4 + 2 or 8 + 4 + 3, then 6 + 4 + 3, at last 6 + 1 + 3: the most is 15.
    """
    left, come = sum(kept.values()), 0.0
    most = left + logits
    for name in BACKWARDS:
        if not kept[name] and not gradients.get(name):
            continue  # the backward pass ends before it, or needs nothing of it
        most = max(most, come + left + working.get(name, 0))
        left -= kept[name]
        come += gradients.get(name, 0)
        if name == "language":
            come += gradients.get("cross_attention", 0)
        most = max(most, come + left + working.get(name, 0))
    return most


def head_transient(planned: PlannedPass) -> float:
    """The gradient of the logits while the head is differentiated; of a chunk of them where there
    are several, and these logits themselves, which are computed again."""
    from lucida.training.objective import CHUNK_LOGITS

    vocabulary = planned.model.language.get_output_embeddings().weight.shape[0]
    every = planned.shape.supervised * vocabulary
    each = FP32 if planned.precision == "fp32" else FP32 / 2
    return every * each if every <= CHUNK_LOGITS else 2 * CHUNK_LOGITS * each


def exports(recipe: Recipe, model: Skeleton) -> dict[str, Any]:
    """The formats that a trained model can be exported to, why it is no Llava (or with tiles no
    LlavaNext) where it is none, and of each format why vLLM does not run it."""
    from lucida.model.configs import encoder_shape
    from lucida.model.conversion.fits import (
        OBSTACLES,
        gguf_obstacles,
        language_obstacles,
        nearest,
        vllm_obstacles,
    )

    spec = recipe.model
    vision = None
    if spec.vision is not None:
        saved = spec.start is not None
        vision = model.blueprint.encoders[0].config if saved else encoder_shape(spec.vision.path)[0]
    language = language_obstacles(model.language)
    found = {
        name: obstacles(spec, vision, model.language.config, spec.image.size) + language
        for name, obstacles in OBSTACLES.items()
    }
    formats = [name for name, why in found.items() if not why]
    why = [] if formats else found[nearest(spec)]
    config = model.language.config
    formats.append("remote-code")
    served = {name: vllm_obstacles(spec, name, vision, config) for name in formats}
    if not gguf_obstacles(spec, vision, config, spec.image.size):
        formats.append("gguf")
    return {"formats": formats, "no_llava_because": why, "no_vllm_because": served}
