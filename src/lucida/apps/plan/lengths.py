"""How long the samples of a stage are: counted in the real data where they are at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lucida.apps.plan.pictures import Pictures
from lucida.core.errors import DataError, LucidaError
from lucida.core.spec import Recipe, StageSpec
from lucida.data.images import image_size
from lucida.data.order import capacity
from lucida.data.pack import pack, waste
from lucida.data.sample import ImagePart, Sample
from lucida.data.templates import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """One sample. sides: pixels along each view."""

    text: int
    supervised: int
    visual: int
    images: int
    sides: tuple[float, ...]

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.text + self.visual


def lengths(recipe: Recipe, stage: StageSpec, pictures: Pictures) -> Lengths:
    """Counted in up to `LOOKED_AT` samples of each of the stage's sources, by their weights; or
    assumed, with the reason said, where sources or tokenizer are not at hand.

    DataError for a record that is longer than a row of the batch, unless such are skipped.
    """
    try:
        tokenizer = tokenizer_of(recipe.model.language.path)
        found = [
            (name, len(source), weight, measured(source, tokenizer, recipe, stage, pictures))
            for name, source, weight in opened(stage, recipe.seed)
        ]
    except (LucidaError, OSError, ValueError) as problem:
        return assumed(recipe, stage, pictures, str(problem))
    usable = [
        (size, weight, fitting(name, samples, stage)) for name, size, weight, samples in found
    ]
    if not any(samples for _, _, samples in usable):
        raise DataError(
            "no sample of the stage fits into a row of the batch",
            expected=f"at most {capacity(stage.batch)} tokens (batch.row, or batch.tokens over "
            "batch.accumulate)",
            origin=f"stage {stage.name} of {recipe.name}",
            remedy="raise batch.row",
        )
    return averaged(usable, stage, pictures)


def assumed(recipe: Recipe, stage: StageSpec, pictures: Pictures, problem: str) -> Lengths:
    """One picture at its most and a text of usual length, with the reason."""
    seen = recipe.model.vision is not None
    room = max(0, recipe.model.language.max_length - TEXT)
    visual = min(room, pictures.most_tokens) if seen else 0
    reason = problem.splitlines()[0][:120]
    images = "one image of the most visual tokens" if seen else "no image"
    return Lengths(
        text=TEXT,
        supervised=ANSWER if stage.loss == "answers" else TEXT,
        visual=visual,
        images=float(seen),
        views=float(pictures.most_views if seen else 0),
        side=pictures.side,
        square=(TEXT + visual) ** 2,
        fill=1.0,
        records=None,
        counted=False,
        found=f"assumed: {TEXT} tokens of text, {ANSWER} supervised, {images} ({reason})",
    )


def fitting(name: str, samples: list[Counted], stage: StageSpec) -> list[Counted]:
    """The samples that a row can hold; DataError for another unless the mixture skips such."""
    room = capacity(stage.batch)
    if room is None:
        return samples
    longest = max(samples, key=lambda each: each.length)
    if longest.length > room and stage.mixture.on_error != "skip":
        raise DataError(
            "a record is longer than a row of the batch",
            expected=f"at most {room} tokens (batch.row, or batch.tokens over batch.accumulate)",
            given=longest.length,
            origin=f"source {name} of stage {stage.name}",
            remedy="raise batch.row, or skip such records with mixture.on_error=skip",
        )
    return [each for each in samples if each.length <= room]


def averaged(
    sources: list[tuple[int, float, list[Counted]]], stage: StageSpec, pictures: Pictures
) -> Lengths:
    """Means over sources by their weights (shares of samples, of images or of tokens)."""
    sources = [entry for entry in sources if entry[2]]
    shares = [share / amount(samples, stage.mixture.by) for _, share, samples in sources]

    def mean(value) -> float:
        rows = zip(shares, sources, strict=True)
        return sum(
            share * sum(map(value, samples)) / len(samples) for share, (_, _, samples) in rows
        ) / sum(shares)

    views = mean(lambda each: len(each.sides))
    area = mean(lambda each: sum(side * side for side in each.sides))
    fill = 1.0
    if capacity(stage.batch) is not None:
        fill = fullness(drawn(shares, sources), capacity(stage.batch))
    return Lengths(
        text=mean(lambda each: each.text),
        supervised=mean(lambda each: each.supervised),
        visual=mean(lambda each: each.visual),
        images=mean(lambda each: each.images),
        views=views,
        side=math.sqrt(area / views) if views else pictures.side,
        square=mean(lambda each: each.length**2),
        fill=fill,
        records=sum(size for size, _, _ in sources),
        counted=True,
        found=f"counted in up to {LOOKED_AT} samples of each source",
    )


def amount(samples: list[Counted], by: str) -> float:
    """What one sample of a source weighs: 1, or its mean images or tokens."""
    if by == "sample":
        return 1.0
    values = [each.images if by == "image" else each.length for each in samples]
    if not sum(values):
        raise DataError(
            f"a source has no {by}s, and weights are shares of {by}s (mixture.by)",
            remedy="set mixture.by=sample, or leave the source out",
        )
    return sum(values) / len(values)


def drawn(shares: list[float], sources: list[tuple[int, float, list[Counted]]]) -> list[int]:
    """`PACKED` lengths in the proportions of the mixture."""
    found: list[int] = []
    for share, (_, _, samples) in zip(shares, sources, strict=True):
        many = max(1, round(PACKED * share / sum(shares)))
        found += [samples[number % len(samples)].length for number in range(many)]
    return found


def fullness(sizes: Sequence[int], room: int) -> float:
    """Share of the positions of rows of `room` that hold something when these samples are packed.

    Lengths are repeated until they fill some sixteen rows, so that the last one hardly counts.

    Worked example: lengths of 5 in rows of 8 leave 3 of 8 positions empty: 0.625.
    """
    times = math.ceil(16 * room / max(1, sum(sizes)))
    every = np.tile(np.asarray(sizes, dtype=np.int64), max(1, times))
    return 1 - waste(every, pack(every, room), room)


def tokenizer_of(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model that is at hand; nothing is fetched."""
    from transformers import AutoTokenizer

    from lucida.model.parts import part_path

    return AutoTokenizer.from_pretrained(
        part_path(path), local_files_only=True, trust_remote_code=False
    )


def opened(stage: StageSpec, seed: int) -> list[tuple]:
    """(name, source, weight) of each source, without what is held out and with its cap."""
    from lucida.data.stage import capped, parts

    sources = {name: parts(spec, name)[0] for name, spec in stage.mixture.sources.items()}
    found = []
    for name, source in capped(sources, stage.mixture.caps, seed).items():
        if not len(source):
            raise DataError("the source is empty", origin=name)
        found.append((name, source, stage.mixture.sources[name].weight))
    return found


def measured(
    source,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    stage: StageSpec,
    pictures: Pictures,
) -> list[Counted]:
    """Some samples of a source, evenly spread over it; those that training skips are left out."""
    many = min(LOOKED_AT, len(source))
    found = []
    for place in range(many):
        try:
            sample = source[place * len(source) // many]
            found.append(counted(sample, tokenizer, recipe, stage, pictures))
        except DataError:
            if stage.mixture.on_error != "skip":
                raise
    if not found:
        raise DataError(f"none of {many} records can be used")
    return found


def counted(
    sample: Sample,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    stage: StageSpec,
    pictures: Pictures,
) -> Counted:
    """What one sample has, cut as in training."""
    text, supervised = words(sample, tokenizer, recipe, stage)
    seen = sample.images if recipe.model.vision is not None else ()
    visual, sides = 0, []
    policy = pictures.arrangement.policy
    for number, source in enumerate(seen):
        # A policy of one square asks for no size, so that no picture has to be opened.
        size = (1, 1) if policy.one_square else image_size(source)
        places, names = pictures.places(*size)
        names = [policy.label(number, len(seen)), *names]
        visual += places
        text += sum(len(tokenizer.encode(n, add_special_tokens=False)) for n in names)
        sides += pictures.sides(*size)
    if stage.loss != "answers":
        supervised = text
    whole = min(recipe.model.language.max_length, text + visual)
    visual = min(visual, whole)
    return Counted(whole - visual, min(supervised, whole), visual, len(sample.images), tuple(sides))


def words(
    sample: Sample, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, stage: StageSpec
) -> tuple[int, int]:
    """Tokens of text of a sample in its template, and those of answers."""
    template = TEMPLATES[stage.template or recipe.model.language.template]
    supervised = 0
    length = 0 if tokenizer.bos_token_id is None else 1
    for number, branch in enumerate(sample.branches or ((),)):
        turns = (*sample.stem, *branch)
        roles = tuple(joined(turns))
        frames = () if "text" in roles else template(tokenizer, roles).frames
        for place, turn in enumerate(turns):
            if number and place < len(sample.stem):
                continue  # the stem is written once
            ids = sum(
                len(tokenizer.encode(part, add_special_tokens=False))
                if isinstance(part, str)
                else 0
                if isinstance(part, ImagePart)
                else 4
                for part in turn.parts
            )
            length += ids
            if turn.role in ("assistant", "text"):
                supervised += ids + 1
        for frame in frames:
            said = frame.before + frame.opening + frame.glue + frame.end + frame.after
            length += len(tokenizer.encode(said, add_special_tokens=False)) if said else 0
    return length, supervised


def joined(turns) -> list[str]:
    """Roles with consecutive equal ones as one; images alone belong to who speaks next."""
    roles: list[str] = []
    for turn in turns:
        if not roles or roles[-1] != turn.role:
            roles.append(turn.role)
    return roles


def root(value: float) -> int:
    """The length whose square this is, at least 1."""
    return max(1, round(math.sqrt(value)))
