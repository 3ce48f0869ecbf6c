"""The first batch of a stage, taken apart: pictures, tokens with their labels, the mask, counts.

    recipe ─▶ processor of the stage ─▶ the samples of its first step ─▶ Look

Records are drawn, refused and replaced by what training asks too (`data.stage`). It measures every
record before its first step; here only the first window of draws is, which decides about that step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from lucida.core.spec import BatchSpec, Recipe, StageSpec
from lucida.data.collate import collate
from lucida.data.order import capacity
from lucida.data.reader import Encoded, OpenImages
from lucida.data.sample import IGNORED, Tokens
from lucida.data.stage import find_stage, open_stage
from lucida.data.views import open_for_policies
from lucida.interpretability.answer import write_token
from lucida.model.checkpoint import build
from lucida.model.masks import cells, fields_of
from lucida.model.processing import LucidaProcessor

MASK_TOKENS = 640
"""Longest row whose mask is drawn: whole samples up to here."""


@dataclass(frozen=True)
class Position:
    """One position of a sample, or a run of visual tokens of one image (`run` of them).

    text, target: the token and what has to be predicted there, as people read them; target is None
    where nothing is supervised. last: the position of the last of a run. learnt: some position
    before predicts this one.
    """

    index: int
    text: str
    target: str | None
    branch: int
    position: int
    last: int
    image: int
    run: int = 1
    learnt: bool = False


@dataclass(frozen=True)
class Shown:
    """A picture as it came and as the encoder gets it (tiles in the order of their tokens)."""

    origin: str
    original: Image.Image
    views: list[Image.Image]


@dataclass(frozen=True)
class Seen:
    """One sample of the batch; row counts from 1 in the step, segment from 1 in its row."""

    source: str
    row: int
    segment: int
    tokens: Tokens
    positions: list[Position]
    images: list[Shown]


@dataclass(frozen=True)
class Look:
    """A batch taken apart. mask: cells [length, length] of the first samples (see
    `lucida.model.masks.cells`), `mask_samples` of them; borders: where samples begin in it."""

    recipe: Recipe
    stage: StageSpec
    samples: list[Seen]
    counts: dict[str, int]
    dropped: list[str]
    mask: np.ndarray
    borders: list[int] = field(default_factory=list)

    @property
    def shares(self) -> dict[str, float]:
        """Percent of all tokens, of the counts that are some of them."""
        tokens = max(1, self.counts["tokens"])
        return {name: 100 * self.counts[name] / tokens for name in ("visual tokens", "supervised")}


def look(recipe: Recipe, stage_name: str | None = None, shown: int = 4) -> Look:
    """The first batch of a stage; pictures and positions of its first `shown` samples.

    LucidaError when a part or a source cannot be opened, or a record cannot be used and the mixture
    does not skip such records.
    """
    index, stage = find_stage(recipe, stage_name)
    model, processor = build(recipe.model)
    processor = processor.for_stage(stage)
    opening = None if model.vision is None else OpenImages()
    data, _ = open_stage(recipe, index, processor.encode, opening)
    rows, lost = data.step()
    placed = [
        (row, segment, sample)
        for row, samples in enumerate(rows, start=1)
        for segment, sample in enumerate(samples, start=1)
    ]
    scaled = stage.batch.decoding == "scaled"
    samples = [
        Seen(
            sample.source,
            # Unpacked, each sample is a row of its own.
            row if stage.batch.pack else segment,
            segment if stage.batch.pack else 1,
            sample.tokens,
            positions_of(sample.tokens, processor),
            pictures_of(sample.tokens, processor, scaled) if model.vision is not None else [],
        )
        for row, segment, sample in placed[:shown]
    ]
    mask, borders = mask_of([sample.tokens for sample in rows[0]], stage.attention_mask)
    return Look(
        recipe,
        stage,
        samples,
        counts_of(rows, stage.batch),
        [f"{each.source}: {each.reason}" for each in lost],
        mask,
        borders,
    )


def counts_of(rows: list[list[Encoded]], batch: BatchSpec) -> dict[str, int]:
    """What a step consists of, by kind, and what was cut or left out of its records; with a budget
    of tokens also its rows and what is left of them."""
    drawn = [sample for row in rows for sample in row]
    every = [sample.tokens for sample in drawn]
    by_source = Counter(sample.source for sample in drawn)
    noted = sum((sample.noted for sample in drawn), Counter())
    total = sum(map(len, every))
    counts = {
        "samples": len(every),
        **{f"from {name}": many for name, many in sorted(by_source.items())},
        "tokens": total,
        "visual tokens": sum(tokens.visual for tokens in every),
        "supervised": sum(tokens.supervised for tokens in every),
        "images": sum(len(tokens.images) for tokens in every),
        "samples without image": sum(not tokens.images for tokens in every),
        "longest sample": max(map(len, every)),
    }
    room = capacity(batch)
    if room is not None:
        counts |= {"rows": len(rows), "positions of a row": room}
        if batch.row is not None:
            counts["padding"] = room * len(rows) - total
    return counts | {name.replace("_", " "): many for name, many in noted.items()}


def positions_of(tokens: Tokens, processor: LucidaProcessor) -> list[Position]:
    """Every position as people read it; the visual tokens of an image as one entry."""
    found: list[Position] = []
    at, learnt = 0, False
    while at < len(tokens):
        image, run = int(tokens.image[at]), 1
        while image and at + run < len(tokens) and tokens.image[at + run] == image:
            run += 1
        # Of the visual tokens of a run only the last may have a word to predict.
        target = int(tokens.target[at + run - 1])
        found.append(
            Position(
                at,
                f"image {image}" if image else write_token(int(tokens.input_ids[at]), processor),
                None if target == IGNORED else write_token(target, processor),
                int(tokens.branch[at]),
                int(tokens.position[at]),
                int(tokens.position[at + run - 1]),
                image,
                run,
                learnt,
            )
        )
        at += run
        # What is predicted at a position is the token behind it.
        learnt = target != IGNORED
    return found


def pictures_of(tokens: Tokens, processor: LucidaProcessor, scaled: bool) -> list[Shown]:
    """The pictures of a sample, and what the first encoder is given of each (`scaled`: of a large
    JPEG as the stage decodes it)."""
    policy = processor.image_policy
    shown = []
    for source in tokens.images:
        original = source.load()
        taken = (
            open_for_policies(source, (policy, *processor.more_policies), True)
            if scaled
            else original
        )
        views = policy.views(taken, policy.grid(*original.size))
        shown.append(Shown(source.origin, original, views))
    return shown


def mask_of(samples: list[Tokens], name: str) -> tuple[np.ndarray, list[int]]:
    """Who sees whom among the first samples of a packed row, and where each sample begins."""
    taken, length = [], 0
    for tokens in samples:
        if taken and length + len(tokens) > MASK_TOKENS:
            break
        taken.append(tokens)
        length += len(tokens)
    batch = collate(taken, pack=True, pad_id=0)
    with torch.no_grad():
        drawn = cells(fields_of(batch), name).numpy()
    ends = np.cumsum([len(tokens) for tokens in taken]).tolist()
    return drawn, [0, *ends[:-1]]
