"""The plan of a recipe: parameters, tokens, memory, arithmetic and time, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lucida.apps.plan.devices import Device
from lucida.apps.plan.lengths import Lengths, lengths, root
from lucida.core.spec import Recipe, StageSpec

if TYPE_CHECKING:
    from torch import nn

    from lucida.apps.plan.step import Cost, Shape
    from lucida.model.configs import Skeleton
    from lucida.train.stage import StagePlan

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


def plan_recipe(recipe: Recipe, device: Device, count: int = 1) -> dict[str, Any]:
    """All of it as plain values; no weights are read and nothing is fetched.

    ModelError names a part whose shape is unknown, RecipeError what a stage cannot train.
    """
    from lucida.model.configs import skeleton

    whole = skeleton(recipe.model)
    views = largest_views(recipe)
    stages = [plan_one(recipe, stage, device, count) for stage in recipe.stages]
    return {
        "recipe": recipe.name,
        "device": {"name": device.name, "count": count, "precision": precision_of(recipe, device)}
        | {"peak_flops": device.peak, "share_of_peak": device.share, "memory": device.memory},
        "modules": {
            name: sum(weight.numel() for weight in part.parameters())
            for name, part in parts(whole).items()
        },
        "tokens_per_image": {"one_view": whole.visual_tokens, "most": whole.visual_tokens * views},
        "stages": stages,
        "exports": exports(recipe, whole),
    }


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """Name → part, those that are there."""
    named = {name: getattr(model, name) for name in ("vision", "projector", "language")}
    return {name: part for name, part in named.items() if part is not None}


def largest_views(recipe: Recipe) -> int:
    """Squares that one picture becomes at most."""
    image = recipe.model.image
    return image.max_tiles + 1 if image.policy in ("anyres", "split") else 1


def precision_of(recipe: Recipe, device: Device) -> str:
    """The recipe's precision, or the device's."""
    return device.precision if recipe.precision == "auto" else recipe.precision


def plan_one(recipe: Recipe, stage: StageSpec, device: Device, count: int) -> dict[str, Any]:
    """One stage."""
    from lucida.model.configs import skeleton
    from lucida.train.stage import plan_stage

    model = skeleton(recipe.model)
    what = plan_stage(model, stage.train, f"stage {stage.name} of {recipe.name}", stage.lora)
    found = lengths(recipe, stage, model.visual_tokens * largest_views(recipe))
    rows = math.ceil(stage.batch.samples / (stage.batch.accumulate * count))
    shape = shape_of(recipe, model, stage, what, found, rows)
    precision = precision_of(recipe, device)
    cost = cost_of(model, stage, what, shape, precision, device.gpu)
    passes = stage.batch.accumulate * count
    flops = cost.total * passes
    seconds = flops / (device.peak * device.share * count)
    steps = steps_of(stage, found, shape, seconds)
    trained, every = what.counts
    return {
        "name": stage.name,
        "trained": trained,
        "frozen": every - trained,
        "trained_by_part": trained_by_part(what),
        "lengths": {
            "tokens_per_sample": found.length(model.visual_tokens * largest_views(recipe)),
            "supervised_per_sample": found.supervised,
            "images_per_sample": found.images,
            "found": found.found,
        },
        "tokens_per_step": shape.rows * shape.length * passes,
        "tokens_per_pass": shape.rows * shape.length,
        "flops_per_step": flops,
        "flops_by_part": {name: value * passes for name, value in cost.flops.items()},
        "features_cached": shape.features_cached,
        "seconds_per_step": seconds,
        "steps": steps,
        "hours": None if steps is None else steps * seconds / 3600,
        "memory": {
            engine: as_dict(memory(recipe, model, what, cost, shape, stage, count, engine))
            for engine in (("single",) if count == 1 else ("ddp", "fsdp"))
        },
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


def shape_of(
    recipe: Recipe,
    model: Skeleton,
    stage: StageSpec,
    what: StagePlan,
    found: Lengths,
    rows: int,
) -> Shape:
    """What one pass of one device holds."""
    from lucida.apps.plan.step import Shape
    from lucida.model.configs import encoder_shape

    views = largest_views(recipe)
    visual = model.visual_tokens * views
    length = max(2, round(found.length(visual)))
    side = 0
    if recipe.model.vision is not None:
        side = recipe.model.image.size or encoder_shape(recipe.model.vision.path)[1].size
    frozen = not what.touches("vision")
    return Shape(
        rows=rows,
        length=length,
        attended=root(found.square),
        images=round(rows * found.images * views),
        side=side,
        supervised=max(1, min(rows * length, round(rows * found.supervised))),
        features_cached=bool(side) and frozen and stage.batch.cache_features,
    )


def cost_of(
    model: Skeleton, stage: StageSpec, what: StagePlan, shape: Shape, precision: str, gpu: bool
) -> Cost:
    """Arithmetic and kept bytes of one pass, with the stage set on the skeleton."""
    from lucida.apps.plan.step import fake, run_pass
    from lucida.model.adapters import attach, named_adapters
    from lucida.train.layers import equip

    if what.adapted:
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
    return run_pass(model, shape, precision, gpu, mode)


def memory(
    recipe: Recipe,
    model: Skeleton,
    what: StagePlan,
    cost: Cost,
    shape: Shape,
    stage: StageSpec,
    count: int,
    engine: EngineName,
) -> Memory:
    """Bytes on one device.

    In the backward pass activations go as gradients come, so of the two the larger counts; with
    accumulation, and with DDP's buckets, gradients stay and both do. FSDP divides the language
    model's weights, gradients and moments, and holds two whole layers.
    """
    quantised = BITS.get(recipe.model.language.quantize or "", FP32)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(model).items()}
    plain = sum(size for name, size in sizes.items() if name != "language") * FP32
    language = (sizes["language"] - what.adapters) * quantised + what.adapters * FP32
    trained = trained_by_part(what)
    own = trained.get("language", 0) + trained.get("adapters", 0)
    rest = sum(trained.values()) - own
    share = count if engine == "fsdp" else 1
    layers = max(1, model.language.config.get_text_config().num_hidden_layers)
    whole = 2 * language / layers if engine == "fsdp" else 0.0
    weights = plain + language / share + whole
    gradients = (rest + own / share) * FP32
    logits = cost.kept.get("head", 0) + head_transient(model, shape)
    kept = sum(value for name, value in cost.kept.items() if name != "head")
    together = stage.batch.accumulate > 1 or engine != "single"
    moving = gradients + kept + logits if together else max(gradients, kept + logits)
    peak = weights + 2 * gradients + moving
    return Memory(weights, gradients, 2 * gradients, kept, logits, peak)


def head_transient(model: Skeleton, shape: Shape) -> float:
    """The gradient of the logits, in fp32, while the head is differentiated."""
    from lucida.train.objective import CHUNK_LOGITS

    vocabulary = model.language.get_output_embeddings().weight.shape[0]
    return min(shape.supervised * vocabulary, CHUNK_LOGITS) * FP32


def steps_of(stage: StageSpec, found: Lengths, shape: Shape, seconds: float) -> int | None:
    """Optimizer steps of the stage, None where they cannot be known."""
    budget, samples = stage.budget, stage.batch.samples
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        return (
            None
            if found.records is None
            else max(1, math.ceil(budget.epochs * found.records / samples))
        )
    if budget.tokens is not None:
        return max(1, math.ceil(budget.tokens / (samples * shape.length)))
    return max(1, round(budget.minutes * 60 / seconds))


def exports(recipe: Recipe, model: Skeleton) -> dict[str, Any]:
    """The formats that a trained model can be exported to, and why it is no Llava."""
    from lucida.model.configs import encoder_shape
    from lucida.model.conversion.fits import language_obstacles, llava_obstacles

    spec = recipe.model
    vision = None if spec.vision is None else encoder_shape(spec.vision.path)[0]
    found = llava_obstacles(spec, vision, model.language.config, spec.image.size)
    found += language_obstacles(model.language)
    return {"formats": [*([] if found else ["llava"]), "remote-code"], "no_llava_because": found}
