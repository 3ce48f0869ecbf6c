"""How many tokens a sample has: under a recipe as it trains on it, or its text alone.

    recipe + stage ─▶ Encoding ─┐
    tokenizer ──────▶ Words ────┴─(sample, cut)─▶ Measure

The recipe's tokenizer is needed, its weights are not: what pictures become follows from shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lucida.core.spec import LossMode, Recipe, StageSpec
from lucida.data.reader import too_long
from lucida.data.sample import IGNORED, ImagePart, Sample, Turn

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor


@dataclass(frozen=True, slots=True)
class Measure:
    """Tokens of a sample as it is trained on; those supervised and the visual ones among them,
    None where only text is counted."""

    tokens: int
    supervised: int | None = None
    visual: int | None = None


Count = Callable[[Sample, Counter[str]], Measure]
"""Counts a sample and adds to the counter what was cut away."""


@dataclass(frozen=True)
class Encoding:
    """Counts as a stage of a recipe sees samples: its template, image policy, `max_length`, and the
    positions of a row where it packs to a budget of tokens."""

    processor: LucidaProcessor
    loss: LossMode
    row: int | None = None

    def __call__(self, sample: Sample, cut: Counter[str]) -> Measure:
        """DataError for a sample that training could not use."""
        tokens = self.processor.encode(sample, loss=self.loss, counts=cut)
        if self.row is not None and len(tokens) > self.row:
            raise too_long(len(tokens), self.row, tokens.origin)
        supervised = int((tokens.target != IGNORED).sum())
        return Measure(len(tokens), supervised, int((tokens.image > 0).sum()))


@dataclass(frozen=True)
class Words:
    """Counts the text of samples with a tokenizer: no template, no pictures."""

    tokenizer: Any

    def __call__(self, sample: Sample, cut: Counter[str]) -> Measure:
        """Tokens of all turns, none of them cut."""
        said = "\n".join(texts(sample))
        return Measure(len(self.tokenizer.encode(said, add_special_tokens=False)))


def texts(sample: Sample, answers: bool = False) -> list[str]:
    """The text of each turn, as the data hold it; of `answers` and documents alone. A picture
    between two words parts them as a space does."""
    return [
        _said(turn)
        for branch in (sample.stem, *sample.branches)
        for turn in branch
        if not answers or turn.role in ("assistant", "text")
    ]


def _said(turn: Turn) -> str:
    """Worked example: `a kite`, a picture, `over trees` is `a kite over trees`; no space is added
    where one stands."""
    said = ""
    parted = False
    for part in turn.parts:
        if isinstance(part, ImagePart):
            parted = True
            continue
        text = str(part)
        between = parted and said and text and not said[-1].isspace() and not text[0].isspace()
        said += f" {text}" if between else text
        parted = parted and not text
    return said


def processor_of(recipe: Recipe, stage: StageSpec) -> LucidaProcessor:
    """The processor that a stage trains with, made without any weights.

    OSError or LucidaError when the tokenizer is not at hand or the shape of a part is unknown.
    """
    from lucida.apps.plan.lengths import tokenizer_of
    from lucida.apps.plan.pictures import pictures_of
    from lucida.data.boxes import box_tokens
    from lucida.model.arrangement import Arrangement
    from lucida.model.checkpoint import name_tiles
    from lucida.model.configs import skeleton
    from lucida.model.language import add_tokens
    from lucida.model.processing import LucidaProcessor
    from lucida.train.begin import with_template

    spec = recipe.model
    tokenizer = tokenizer_of(spec.language.path)
    parts = skeleton(spec)
    seen = pictures_of(recipe, parts).arrangement
    if spec.vision is not None:
        name_tiles(tokenizer, Arrangement(seen.policy, 0).names())
    placeholder = add_tokens(parts.language, tokenizer, box_tokens(spec.coordinate_bins))
    marker = spec.vision is not None and spec.cross_attention is not None
    processor = LucidaProcessor(
        tokenizer,
        image_token=placeholder,
        image_policy=seen.policy,
        template=spec.language.template,
        image_places=spec.language.images,
        visual_tokens=1 if marker else seen.tokens,
        projector=spec.projector,
        unit_patches=seen.unit_patches,
        coordinate_bins=spec.coordinate_bins,
        max_length=spec.language.max_length,
    )
    return with_template(processor, stage)
