"""How long the samples of a stage are: counted in the real data where they are at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lucida.apps.fetch.needs import count_published
from lucida.apps.weightless import weightless_processor
from lucida.core.errors import DataError, LucidaError
from lucida.core.spec import Recipe, StageSpec
from lucida.data.images import image_size
from lucida.data.order import capacity
from lucida.data.pack import fullness
from lucida.data.reader import Encoded, Reader, Unusable, offer_skipping, too_long
from lucida.data.sample import Tokens
from lucida.data.stage import find_stage, open_parts, weigh_samples

if TYPE_CHECKING:
    from lucida.model.blueprint import Blueprint

LOOKED_AT = 64
"""Samples of each source that are counted."""
TEXT, ANSWER = 100, 50
"""Tokens of text and supervised ones among them, where no data are at hand."""
PACKED = 1024
"""Samples that are laid into rows to see how full these become."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means over samples. text: tokens that are no visual ones; visual: placeholders; images:
    pictures, and views: the squares that the encoder sees of them; side: pixels along a view;
    square: mean of the squared length; fill: share of the positions of a step's rows that hold
    something, 1 without a budget of tokens; records: of the mixture, None where unknown; counted:
    in data, or assumed; found: where the numbers come from."""

    text: float
    supervised: float
    visual: float
    images: float
    views: float
    side: float
    square: float
    fill: float
    records: int | None
    counted: bool
    found: str

    @property
    def length(self) -> float:
        """Mean tokens of a sample."""
        return self.text + self.visual


@dataclass(frozen=True, slots=True)
class Counted:
    """One sample as it is trained on. sides: pixels along each view."""

    text: int
    supervised: int
    visual: int
    images: int
    sides: tuple[float, ...]

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.text + self.visual


@dataclass(frozen=True, slots=True)
class Sampled:
    """Some usable samples of each source, and its share of the stage's samples; records: of all
    sources together."""

    samples: dict[str, list[Counted]]
    shares: dict[str, float]
    records: int


def take_samples(recipe: Recipe, stage: StageSpec, blueprint: Blueprint) -> Sampled | str:
    """Up to `LOOKED_AT` records of each source, evenly spread, read and encoded as in training but
    for the room of a row; or the reason why they cannot be had, such as data that are elsewhere.

    DataError where the mixture's weights have no meaning for a source.
    """
    # As training has it: what caps keep is chosen by the seed of the stage.
    seed = recipe.seed + find_stage(recipe, stage.name)[0]
    try:
        processor = weightless_processor(recipe, stage)
        encode = partial(processor.encode, loss=stage.loss)
        sources, _ = open_parts(stage.mixture, seed, stage.validation)
        found = {
            name: count_samples(Reader(encode).spread(name, source, LOOKED_AT), stage, blueprint)
            for name, source in sources.items()
        }
    except (LucidaError, OSError, ValueError) as problem:
        return str(problem)
    weights = {name: spec.weight for name, spec in stage.mixture.sources.items()}
    shares = weigh_samples(weights, stage.mixture.by, sources, encode)
    return Sampled(found, shares, sum(map(len, sources.values())))


def count_samples(
    records: Sequence[Encoded | Unusable], stage: StageSpec, blueprint: Blueprint
) -> list[Counted]:
    """The usable ones. DataError where training would stop at another, or none can be used."""
    usable = [record for record in records if isinstance(record, Encoded)]
    for record in records:
        if isinstance(record, Unusable) and (stage.mixture.on_error != "skip" or not usable):
            raise offer_skipping(record.reason)
    if not usable:
        raise DataError("the source has no records")
    return [count_sample(record.tokens, blueprint) for record in usable]


def count_sample(tokens: Tokens, blueprint: Blueprint) -> Counted:
    """What a sample consists of."""
    # A policy of one square asks for no size, so that no picture has to be opened.
    policy = blueprint.arrangement.policy
    sizes = ((1, 1) if policy.one_square else image_size(image) for image in tokens.images)
    return Counted(
        text=len(tokens) - tokens.visual,
        supervised=tokens.supervised,
        visual=tokens.visual,
        images=len(tokens.images),
        sides=tuple(side for size in sizes for side in policy.sides(*size)),
    )


def mean_lengths(
    recipe: Recipe, stage: StageSpec, blueprint: Blueprint, sampled: Sampled | str
) -> Lengths:
    """Means over the stage's samples that a row can hold; or assumed ones, with the reason said.

    DataError for a record that is longer than a row of the batch, unless such are skipped.
    """
    if isinstance(sampled, str):
        return assume_lengths(recipe, stage, blueprint, sampled)
    usable = {name: keep_fitting(name, found, stage) for name, found in sampled.samples.items()}
    if not any(usable.values()):
        raise DataError(
            "no sample of the stage fits into a row of the batch",
            expected=f"at most {capacity(stage.batch)} tokens (batch.row, or batch.tokens over "
            "batch.accumulate)",
            origin=f"stage {stage.name} of {recipe.name}",
            remedy="raise batch.row",
        )
    return average(usable, sampled, stage, blueprint)


def assume_lengths(recipe: Recipe, stage: StageSpec, blueprint: Blueprint, problem: str) -> Lengths:
    """One picture at its most and a text of usual length, with the reason."""
    seen = recipe.model.vision is not None
    room = max(0, recipe.model.language.max_length - TEXT)
    visual = int(seen) if blueprint.gated else min(room, blueprint.most_tokens)
    reason = problem.splitlines()[0][:120]
    records = count_published(stage)
    if records is not None:
        reason += f"; {records:,} records, as published"
    images = "one image of the most visual tokens" if seen else "no image"
    return Lengths(
        text=TEXT,
        supervised=ANSWER if stage.loss == "answers" else TEXT,
        visual=visual,
        images=float(seen),
        views=float(blueprint.most_views),
        side=largest_side(blueprint),
        square=(TEXT + visual) ** 2,
        fill=1.0,
        records=records,
        counted=False,
        found=f"assumed: {TEXT} tokens of text, {ANSWER} supervised, {images} ({reason})",
    )


def largest_side(blueprint: Blueprint) -> float:
    """Pixels along the largest view that the first encoder is shown."""
    policy = blueprint.arrangement.policy
    return policy.sides(*policy.shapes()[-1])[0]


def keep_fitting(name: str, samples: list[Counted], stage: StageSpec) -> list[Counted]:
    """The samples that a row can hold; DataError for another unless the mixture skips such."""
    room = capacity(stage.batch)
    if room is None:
        return samples
    longest = max(each.length for each in samples)
    if longest > room and stage.mixture.on_error != "skip":
        raise offer_skipping(too_long(longest, room, f"source {name} of stage {stage.name}"))
    return [each for each in samples if each.length <= room]


def average(
    usable: dict[str, list[Counted]], sampled: Sampled, stage: StageSpec, blueprint: Blueprint
) -> Lengths:
    """Means over sources by their shares of the samples."""
    sources = [(sampled.shares[name], samples) for name, samples in usable.items() if samples]
    whole = sum(share for share, _ in sources)

    def mean(value: Callable[[Counted], float]) -> float:
        return sum(share * sum(map(value, few)) / len(few) for share, few in sources) / whole

    views = mean(lambda each: len(each.sides))
    area = mean(lambda each: sum(side * side for side in each.sides))
    fill = 1.0
    if (room := capacity(stage.batch)) is not None:
        # Lengths in the proportions of the mixture.
        counts = [max(1, round(PACKED * share / whole)) for share, _ in sources]
        repeated = (
            [samples[number % len(samples)].length for number in range(count)]
            for count, (_, samples) in zip(counts, sources, strict=True)
        )
        fill = fullness([length for several in repeated for length in several], room)
    return Lengths(
        text=mean(lambda each: each.text),
        supervised=mean(lambda each: each.supervised),
        visual=mean(lambda each: each.visual),
        images=mean(lambda each: each.images),
        views=views,
        side=math.sqrt(area / views) if views else largest_side(blueprint),
        square=mean(lambda each: each.length**2),
        fill=fill,
        records=sampled.records,
        counted=True,
        found=f"counted in up to {LOOKED_AT} samples of each source",
    )


def root(value: float) -> int:
    """The length whose square this is, at least 1."""
    return max(1, round(math.sqrt(value)))
