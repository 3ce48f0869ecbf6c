"""A design worked out from the shapes of its parts: the same with weights and without.

    ModelSpec ─▶ of each encoder: configuration, pixels, policy ─▶ features of a view, fused
              ─▶ visual tokens of the projector ─▶ their arrangement ─▶ Blueprint

Sizes, policies, token counts and names are decided here and nowhere else. Loading takes them from
here (`checkpoint`), and so do the processor without weights, `plan`, and `skeleton`: the parts on
the meta device. What does not fit together is refused here, before a weight is read. Nothing is
drawn from a random generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from lucida.core.errors import ModelError
from lucida.core.spec import EncoderSpec, ModelSpec
from lucida.core.start import check_start
from lucida.data.policies import ImagePolicy, read_policy
from lucida.model.arrangement import Arrangement, policy_of
from lucida.model.config import LucidaConfig
from lucida.model.configs import encoder_shape, language_shape
from lucida.model.cross_attention import GatedCrossAttention
from lucida.model.encoders.encoder import (
    VisionEncoder,
    check_choices,
    find_grid,
    find_stride,
    make_encoder,
    new_model,
    truncate_config,
)
from lucida.model.encoders.families import family_of
from lucida.model.encoders.fusion import fused_shape, joined
from lucida.model.encoders.preprocessing import Preprocessing
from lucida.model.encoders.timm_model import TimmConfig
from lucida.model.folder import PROCESSOR_CONFIG, read_json
from lucida.model.loading import refusing
from lucida.model.projectors import PROJECTORS, make_projector, visual_tokens
from lucida.model.rotary import check_rotary

ShapeOf = Callable[[str], tuple[PreTrainedConfig, Preprocessing]]
"""From an encoder's path to its configuration, uncut, and the pixels that it expects."""

BLIND_SIZE = 224
"""Pixels per side of a blind model's frame; boxes are shares of it, so it only rounds."""

NEUTRAL = (0.5, 0.5, 0.5)
"""Mean and deviation of pixels that no encoder sees."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """One encoder: its configuration as it is cut at its feature layer, its layers, counted from
    the end of that, and how it is shown pictures."""

    spec: EncoderSpec
    config: PreTrainedConfig
    layers: tuple[int, ...]
    policy: ImagePolicy

    def make(self) -> VisionEncoder:
        """The encoder with new weights, on torch's default device."""
        return make_encoder(new_model(self.config), self.spec.normed, self.spec.take, self.layers)


@dataclass(frozen=True)
class Blueprint:
    """What the parts of a design are to each other.

    encoders: none for a blind design. patches, width: shape of the features of one view (`native`:
    of the largest square). arrangement: of the visual tokens that the projector makes, of one view
    `arrangement.tokens`.
    """

    spec: ModelSpec
    encoders: tuple[EncoderShape, ...]
    patches: int
    width: int
    arrangement: Arrangement

    @property
    def policies(self) -> tuple[ImagePolicy, ...]:
        """How each encoder is shown pictures; a blind design has one policy all the same, because
        boxes in its text stand in the frame of the square."""
        return tuple(each.policy for each in self.encoders) or (self.arrangement.policy,)

    @property
    def gated(self) -> bool:
        """Do gated layers read the visual tokens, so that the text keeps one place for an image?"""
        return self.spec.cross_attention is not None and bool(self.encoders)

    @property
    def visual_tokens(self) -> int:
        """Places that the text keeps for one view."""
        return 1 if self.gated else self.arrangement.tokens

    @property
    def names(self) -> list[str]:
        """The tokens that name tiles, which the tokenizer has to have."""
        return self.arrangement.policy.names() if self.encoders else []

    @cached_property
    def most_tokens(self) -> int:
        """Visual tokens of an image at most."""
        shapes = self.arrangement.policy.shapes() if self.encoders else []
        return max((self.arrangement.count(*shape) for shape in shapes), default=0)

    def view_sides(self, side: float) -> tuple[int, ...]:
        """Pixels along what each encoder is shown of a view whose side the first one sees; under
        `native` of a square of so many."""
        first = self.arrangement.policy
        if not first.own_shape:
            return tuple(each.policy.size for each in self.encoders)
        shares = [(side / first.size * own.size, own.unit) for own in self.policies]
        return tuple(max(1, round(length / unit)) * unit for length, unit in shares)

    @cached_property
    def most_views(self) -> int:
        """Views of an image at most."""
        policy = self.arrangement.policy
        shapes = policy.shapes() if self.encoders else []
        return max((len(policy.sides(*shape)) for shape in shapes), default=0)


def make_blueprint(spec: ModelSpec, shape_of: ShapeOf = encoder_shape) -> Blueprint:
    """The design of a recipe, by the shapes that `shape_of` finds for its encoders, or that of the
    saved model which it goes on from.

    ModelError, with both values, names what does not fit together; RecipeError what differs from
    the saved model.
    """
    if spec.start is not None and spec.vision is not None:
        return read_blueprint(spec)
    if spec.vision is None:
        policy = policy_of(spec.image, spec.image.size or BLIND_SIZE, NEUTRAL, NEUTRAL)
        return Blueprint(spec, (), 0, 0, arrange(spec, policy, 0, 1))
    # Under `native`, sides are whole blocks of a projector that takes nothing but whole blocks.
    block = PROJECTORS[spec.projector.kind].block(spec.projector)
    every = (spec.vision, *spec.vision.more)
    encoders = tuple(shape_encoder(each, spec, *shape_of(each.path), block) for each in every)
    first = encoders[0].policy
    found, grids = [], []
    for encoder in encoders:
        # The largest square; of several encoders each sees as many units of it as the first.
        side = encoder.policy.size
        if first.own_shape:
            side = first.size // first.unit * encoder.policy.unit
        found.append(measure_features(encoder, side))
        grids.append(find_grid(encoder.spec.take, side, side, found[-1][0]))
    patches, width = fused_shape(spec.vision.fusion, found, grids)
    tokens = visual_tokens(spec.projector, patches)
    check_arrangement(spec, first, tokens)
    arrangement = arrange(spec, first, tokens, block)
    check_positions(spec, arrangement)
    return Blueprint(spec, encoders, patches, width, arrangement)


def arrange(spec: ModelSpec, policy: ImagePolicy, tokens: int, unit_patches: int) -> Arrangement:
    """Where the visual tokens of a design stand."""
    return Arrangement(policy, tokens, spec.projector, unit_patches, spec.language.positions)


def read_blueprint(spec: ModelSpec) -> Blueprint:
    """The design of a saved model, as its configuration and its processor's tell it."""
    folder = check_start(spec)
    config = read_config(folder)
    values = read_json(folder / PROCESSOR_CONFIG, "image_policy")
    with refusing(folder / PROCESSOR_CONFIG, "these settings cannot be used"):
        given = (values["image_policy"], *values.get("more_policies", ()))
        policies = tuple(map(read_policy, given))
    every = (spec.vision, *spec.vision.more)
    rows = zip(every, config.vision_configs, config.layers, policies, strict=True)
    encoders = tuple(EncoderShape(*row) for row in rows)
    tokens = visual_tokens(spec.projector, config.patches)
    arrangement = arrange(spec, policies[0], tokens, config.unit_patches)
    return Blueprint(spec, encoders, config.patches, config.vision_width, arrangement)


def read_config(folder: Path) -> LucidaConfig:
    """The configuration of a saved model."""
    with refusing(folder):
        return LucidaConfig.from_pretrained(folder)


def find_language(spec: ModelSpec) -> PreTrainedConfig:
    """The configuration of a design's language model."""
    if spec.start is not None:
        return read_config(check_start(spec)).text_config
    return language_shape(spec.language.path)


def shape_encoder(
    encoder: EncoderSpec,
    spec: ModelSpec,
    whole: PreTrainedConfig,
    expected: Preprocessing,
    block: int,
) -> EncoderShape:
    """One encoder of a design. whole, expected: as in `ShapeOf`; block: patches per side of what
    the projector takes."""
    with refusing(encoder.path, "its configuration cannot be used"):
        config, layers = truncate_config(whole, encoder.feature_layer)
        check_choices(config, encoder.normed, encoder.take, layers)
    size = encoder.size or spec.image.size or expected.size
    smallest = getattr(config, "patch_size", 1)
    if isinstance(smallest, int) and size < smallest:
        raise ModelError(
            "the image size is smaller than one patch of the encoder",
            expected=f"at least {smallest} pixels",
            given=size,
            origin=encoder.path,
            remedy="set model.image.size",
        )
    policy = policy_of(spec.image, size, expected.mean, expected.std)
    square = EncoderShape(encoder, config, layers, policy)
    if not policy.own_shape:
        return square
    # A unit is a patch, or a block of patches that the projector joins; sides are whole units.
    unit = find_stride(config, size, measure_features(square, size)[0]) * block
    if size < unit:
        raise ModelError(
            "the longest side is shorter than one block of patches",
            expected=f"at least {unit} pixels",
            given=size,
            origin=encoder.path,
            remedy="set model.image.size",
        )
    policy = policy_of(spec.image, size, expected.mean, expected.std, unit)
    return EncoderShape(encoder, config, layers, policy)


@torch.no_grad()
def measure_features(encoder: EncoderShape, side: int) -> tuple[int, int]:
    """Number and width of the features of a square of so many pixels a side."""
    config = encoder.config
    # Strides of stages and of timm's networks stand in no field: the shape comes out of a dry run.
    if isinstance(config, TimmConfig) or family_of(config).stages:
        with torch.device("meta"):
            _, places, width = encoder.make().float().eval()(torch.zeros(1, 3, side, side)).shape
        return places, width
    patches = (side // config.patch_size) ** 2
    taken = {"patches": patches, "cls_patches": patches + 1, "cls": 1, "mean": 1}
    return taken[encoder.spec.take], config.hidden_size * len(encoder.layers)


def check_arrangement(spec: ModelSpec, policy: ImagePolicy, tokens: int) -> None:
    """Refuse designs whose visual tokens, so many of a view, cannot be arranged: both values, and
    what to do."""
    projector, vision = PROJECTORS[spec.projector.kind], spec.vision
    every = (vision, *vision.more)
    if len(every) > 1 and vision.fusion != "channels" and projector.neighbours:
        raise ModelError(
            f"the projector `{spec.projector.kind}` joins neighbours, but patches of several"
            " encoders stand one after the other",
            expected="model.vision.fusion=channels",
            given=f"model.vision.fusion={vision.fusion}",
            remedy="fuse the channels, or choose a projector such as mlp or perceiver",
        )
    square = math.isqrt(tokens) ** 2 == tokens
    if policy.line_ends and not (projector.places and square):
        raise ModelError(
            f"the policy {policy.policy} puts the visual tokens of tiles together as one grid",
            expected="a square grid of tokens from each tile",
            given=f"{tokens} tokens of the projector `{spec.projector.kind}`",
            remedy="set model.image.policy=split, take=patches, or choose another projector",
        )
    if not policy.own_shape:
        return
    taken = [encoder.take for encoder in every]
    if set(taken) != {"patches"} or (len(every) > 1 and vision.fusion != "channels"):
        raise ModelError(
            f"the policy {policy.policy} needs the patches of a grid",
            expected="take=patches for every encoder, and fusion=channels",
            given=f"take={', '.join(taken)}, fusion={vision.fusion}",
            remedy="set them so, or choose another model.image.policy",
        )
    if getattr(spec.projector, "position", False):
        raise ModelError(
            "pictures of their own shape have no fixed places, which the projector's learned"
            " positions need",
            expected="model.projector.position=false",
            given="model.projector.position=true",
            remedy="set it to false, or choose a policy of squares",
        )


def check_positions(spec: ModelSpec, arrangement: Arrangement) -> None:
    """Refuse positions of rows and columns where visual tokens stand for none: both values, and
    what to do."""
    if not arrangement.three_parts:
        return
    projector, vision = PROJECTORS[spec.projector.kind], spec.vision
    every = (vision, *vision.more)
    taken = {encoder.take for encoder in every}
    alone = len(every) == 1 or vision.fusion == "channels"
    sizes = arrangement.policy.shapes()
    fits = projector.places and all(
        sum(rows * columns for rows, columns in arrangement.blocks(*size))
        == arrangement.count(*size)
        for size in sizes
    )
    if taken == {"patches"} and alone and fits:
        return
    raise ModelError(
        f"model.language.positions={spec.language.positions} counts rows and columns",
        expected="visual tokens that stand for the places of a grid: take=patches, one encoder or"
        " fusion=channels, and a projector that keeps places",
        given=f"take={', '.join(sorted(taken))}, fusion={vision.fusion}, projector "
        f"{spec.projector.kind} with {arrangement.tokens} tokens of a view",
        remedy="change these, or set model.language.positions to 1d or reset",
    )


class Skeleton(nn.Module):
    """The parts of a design on the meta device, under the names that they have in a `LucidaModel`,
    so that `plan_stage` can be asked what a stage of a full-scale recipe trains."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        spec, self.blueprint = blueprint.spec, blueprint
        self.vision: nn.Module | None = None
        self.projector: nn.Module | None = None
        self.cross_attention: nn.Module | None = None
        with torch.device("meta"):
            self.language = AutoModelForCausalLM.from_config(find_language(spec))
            check_rotary(self.language, spec)
            if spec.vision is None:
                return
            width = self.language.get_input_embeddings().weight.shape[1]
            self.projector = make_projector(
                spec.projector, blueprint.width, width, blueprint.patches
            )
            if blueprint.arrangement.policy.line_ends:
                self.projector.newline = nn.Parameter(torch.empty(width))
            if spec.cross_attention is not None:
                self.cross_attention = GatedCrossAttention(spec.cross_attention, self.language)
            encoders = [encoder.make() for encoder in blueprint.encoders]
            self.vision = joined(encoders, spec.vision.fusion)


def skeleton(design: ModelSpec | Blueprint) -> Skeleton:
    """The parts of a design without weights or memory: shapes and names.

    Encoders are cut at their feature layer, as they are when they are loaded. Tokens that Lucida
    adds for images and boxes are not counted. ModelError names a part whose shape is unknown, or
    parts that do not fit together; RecipeError what differs from the model that it goes on from.
    """
    return Skeleton(design if isinstance(design, Blueprint) else make_blueprint(design))
