"""How long the samples of a stage are: counted in the real data where they are at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucida.core.errors import DataError, LucidaError
from lucida.core.spec import Recipe, StageSpec
from lucida.data.sample import ImagePart, Sample
from lucida.data.templates import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 64
"""Samples of a mixture that are counted."""
TEXT, ANSWER = 100, 50
"""Tokens of text and supervised ones among them, where no data are at hand."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means over samples. text: tokens that are no visual ones; square: mean of the squared length;
    records: of the mixture, None where unknown; found: where the numbers come from."""

    text: float
    supervised: float
    images: float
    square: float
    records: int | None
    found: str

    def length(self, visual: int) -> float:
        """Mean tokens of a sample whose images have so many visual tokens each."""
        return self.text + self.images * visual


def lengths(recipe: Recipe, stage: StageSpec, visual: int) -> Lengths:
    """Counted in up to `LOOKED_AT` samples of the stage's sources, by their weights; or assumed,
    with the reason said, where sources or tokenizer are not at hand."""
    try:
        tokenizer = tokenizer_of(recipe.model.language.path)
        counted = [
            (len(source), weight, counts)
            for source, weight in opened(stage)
            for counts in [measured(source, tokenizer, recipe, stage, visual)]
        ]
    except (LucidaError, OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0][:120]
        images = 0.0 if recipe.model.vision is None else 1.0
        whole = TEXT + images * visual
        found = f"assumed: {TEXT} tokens of text, {ANSWER} supervised, one image ({reason})"
        return Lengths(TEXT, ANSWER, images, whole**2, None, found)
    total = sum(weight for _, weight, _ in counted)
    means = [
        sum(weight * counts[place] for _, weight, counts in counted) / total for place in range(4)
    ]
    records = sum(size for size, _, _ in counted)
    return Lengths(*means, records, f"counted in {LOOKED_AT} samples of each source")


def tokenizer_of(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model that is at hand; nothing is fetched."""
    from transformers import AutoTokenizer

    from lucida.model.parts import part_path

    return AutoTokenizer.from_pretrained(
        part_path(path), local_files_only=True, trust_remote_code=False
    )


def opened(stage: StageSpec) -> list[tuple]:
    """(source, weight) of each source."""
    from lucida.data.sources import open_source

    found = []
    for name, spec in stage.mixture.sources.items():
        source = open_source(spec)
        if not len(source):
            raise DataError("the source is empty", origin=name)
        found.append((source, spec.weight))
    return found


def measured(
    source, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, stage: StageSpec, visual: int
) -> tuple[float, float, float, float]:
    """Means of text tokens, supervised tokens, images and squared length of a source."""
    step = max(1, len(source) // LOOKED_AT)
    rows = [
        counted(source[index], tokenizer, recipe, stage, visual)
        for index in range(0, step * min(LOOKED_AT, len(source)), step)
    ]
    return tuple(sum(row[place] for row in rows) / len(rows) for place in range(4))


def counted(
    sample: Sample,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    stage: StageSpec,
    visual: int,
) -> tuple[int, int, int, int]:
    """Text tokens, supervised ones, images and squared length of one sample, cut as in training."""
    template = TEMPLATES[stage.template or recipe.model.language.template]
    branches = sample.branches or ((),)
    text = supervised = 0
    length = 0 if tokenizer.bos_token_id is None else 1
    for number, branch in enumerate(branches):
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
            words = frame.before + frame.opening + frame.glue + frame.end + frame.after
            length += len(tokenizer.encode(words, add_special_tokens=False)) if words else 0
        text = length
    images = len(sample.images)
    if stage.loss != "answers":
        supervised = text
    most = recipe.model.language.max_length
    whole = min(most, text + images * visual)
    return whole - min(images * visual, whole), min(supervised, whole), images, whole**2


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
