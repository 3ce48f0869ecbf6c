"""A recipe made ready to be examined: model, processor, one small batch of its own data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lucida.core.spec import Recipe, StageSpec
from lucida.data.collate import collate, collate_rows
from lucida.data.images import image_size
from lucida.data.order import check_rows
from lucida.data.pack import pack
from lucida.data.reader import OpenImages
from lucida.data.sample import IGNORED, Batch, ImageSource, Tokens
from lucida.data.stage import StageData, find_stage, open_stage
from lucida.model import adapters
from lucida.model.checkpoint import build, load
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.objective import supervised_loss
from lucida.training.observe import leave_untouched
from lucida.training.precision import Precision, choose_device, choose_precision
from lucida.training.stage import StagePlan, apply_plan, plan_stage
from lucida.training.state import seed_everything

SAMPLES = 4
"""Samples of the batch that is examined."""
LOOKED_AT = 64
"""Records looked through for samples with images."""


@dataclass(slots=True)
class Patient:
    """What the checks share. tokens: the samples of the batch; `dead`: some weight is not finite,
    so that nothing more can be learned from running the model. vision_trains: in any stage."""

    recipe: Recipe
    stage: StageSpec
    model: LucidaModel
    processor: LucidaProcessor
    data: StageData
    plan: StagePlan
    trained: dict[str, tuple[nn.Parameter, float]]
    precision: Precision
    from_run: bool
    vision_trains: bool
    tokens: list[Tokens] = dataclasses.field(default_factory=list)
    dead: bool = False

    @property
    def sees(self) -> bool:
        """Does the batch show the model anything?"""
        return self.model.vision is not None and any(each.images for each in self.tokens)

    @property
    def closed(self) -> bool:
        """Are all gates of gated cross-attention 0, so that nothing is seen through them yet?"""
        gated = self.model.cross_attention
        gates = () if gated is None else (w for n, w in gated.named_parameters() if "gate" in n)
        return gated is not None and not any(float(gate.detach()) for gate in gates)

    def batch(self, tokens: list[Tokens] | None = None) -> Batch:
        """The samples, or others in their place, on the device and with their pixels; in rows of
        the stage's fixed size where it has one."""
        pixels = self.processor.pixels if self.model.vision is not None else None
        pad = self.processor.tokenizer.pad_token_id
        samples, size = tokens or self.tokens, self.stage.batch.row
        if size is None:
            made = collate(samples, self.stage.batch.pack, pad, pixels)
        else:
            placed = pack([len(each) for each in samples], size)
            rows = [[samples[place] for place in row] for row in placed]
            made = collate_rows(rows, size, pad)
            images = [image for row in rows for each in row for image in each.images]
            if images and pixels is not None:
                made.pixel_values = pixels(images)
        return made.to(self.precision.device)

    def loss(self, tokens: list[Tokens] | None = None) -> float:
        """Mean loss per supervised token, without dropout."""
        batch = self.batch(tokens)
        with leave_untouched(self.model), self.precision.autocast():
            summed, count = supervised_loss(self.model, batch, self.stage.attention_mask)
        return summed.item() / max(1, count)


def admit(recipe: Recipe, stage_name: str | None, run: Path | None) -> Patient:
    """Build the model of a recipe, or load that of a finished run, and set the stage.

    LucidaError when a part or a source cannot be opened, the stage's patterns do not fit, or its
    batch cannot be cut into its passes.
    """
    name = stage_name or recipe.stages[-1].name
    index, stage = find_stage(recipe, name)
    check_rows(stage.batch, world=1)
    precision = choose_precision(recipe.precision, choose_device())
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    seed_everything(recipe.seed)
    from_run = run is not None and (run / "config.json").is_file()
    model, processor = load(run) if from_run else build(recipe.model)
    # Four-bit matrices that bitsandbytes repacks for a CPU pass no gradient on.
    if precision.device.type == "cpu":
        adapters.keep_differentiable(model)
    model.to(precision.device)
    processor = processor.for_stage(stage)
    plans = {
        each.name: plan_stage(
            model, each.train, f"stage {each.name} of recipe {recipe.name}", each.lora
        )
        for each in recipe.stages
    }
    plan = plans[name]
    vision_trains = any(each.touches("vision") for each in plans.values())
    trained = dict(plan.trained)
    if stage.lora is not None:
        adapters.attach(model, plan.adapted, stage.lora)
        rate = stage.lora.rate
        trained |= {each: (w, rate) for each, w in adapters.named_adapters(model).items()}
    apply_plan(model, trained)
    opening = None if model.vision is None else OpenImages()
    data, _ = open_stage(recipe, index, processor.encode, opening)
    return Patient(
        recipe, stage, model, processor, data, plan, trained, precision, from_run, vision_trains
    )


def choose(tokens: list[Tokens]) -> list[Tokens]:
    """The samples to examine: those with images first, each picture once."""
    with_images = [each for each in tokens if each.images]
    distinct = {each.images[0].key: each for each in with_images}
    rest = [each for each in tokens if not each.images]
    return [*distinct.values(), *rest][:SAMPLES]


def with_other_pictures(tokens: list[Tokens]) -> list[Tokens] | None:
    """The samples, each with the pictures of another, scaled to the size of its own; None when
    there are not two different pictures."""
    pictures = [image for each in tokens for image in each.images]
    if len({image.key for image in pictures}) < 2:
        return None
    turned, number, changed = pictures[1:] + pictures[:1], 0, []
    for each in tokens:
        others = turned[number : number + len(each.images)]
        pairs = zip(each.images, others, strict=True)
        images = tuple(_like(own, other) for own, other in pairs)
        changed.append(dataclasses.replace(each, images=images))
        number += len(each.images)
    return changed


def with_blank_pictures(tokens: list[Tokens]) -> list[Tokens]:
    """The samples with grey pictures of the same sizes."""
    return [
        dataclasses.replace(each, images=tuple(_like(image, None) for image in each.images))
        for each in tokens
    ]


def _like(own: ImageSource, other: ImageSource | None) -> ImageSource:
    """A picture of the size of `own` with the content of `other`, or grey."""
    size = image_size(own)

    def load() -> Image.Image:
        return (
            Image.new("RGB", size, (128, 128, 128)) if other is None else other.load().resize(size)
        )

    content = "grey" if other is None else other.key
    return ImageSource(origin=f"{own.origin} (exchanged)", key=f"{own.key}<-{content}", load=load)


def without_pictures(tokens: Tokens) -> Tokens | None:
    """The text of a sample alone, positions closed up; None when nothing is supervised then.

    Worked example:  image 0 1 1 0 0   position 0 1 2 3 4   →   image 0 0 0   position 0 1 2
    """
    visual = tokens.image > 0
    stem = tokens.branch == 0
    kept = ~visual
    position = np.zeros_like(tokens.position)
    in_stem = int((kept & stem).sum())
    for branch in np.unique(tokens.branch):
        inside = tokens.branch == branch
        # Each branch goes on behind the text of the stem.
        position[inside] = np.cumsum(kept[inside]) - 1 + (in_stem if branch else 0)
    if not (tokens.target[kept] != IGNORED).any():
        return None
    fields = {name: getattr(tokens, name)[kept] for name in ("input_ids", "branch", "target")}
    return Tokens(
        origin=tokens.origin,
        images=(),
        position=position[kept],
        image=np.zeros(int(kept.sum()), dtype=np.int64),
        **fields,
    )
