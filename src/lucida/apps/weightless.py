"""The processor that a stage trains with, without any weights, to count the tokens of samples.

The tokenizer is needed; what pictures become in the text follows from the shapes of the parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lucida.core.spec import Recipe, StageSpec
from lucida.core.start import check_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lucida.model.processing import LucidaProcessor


def tokenizer_of(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model that is at hand; nothing is fetched."""
    from transformers import AutoTokenizer

    from lucida.model.parts import part_path

    return AutoTokenizer.from_pretrained(
        part_path(path), local_files_only=True, trust_remote_code=False
    )


def weightless_processor(recipe: Recipe, stage: StageSpec) -> LucidaProcessor:
    """The processor that a stage trains with, made without any weights.

    OSError or LucidaError when the tokenizer is not at hand or the shape of a part is unknown.
    """
    from lucida.apps.plan.pictures import pictures_of
    from lucida.data.boxes import box_tokens
    from lucida.model.arrangement import Arrangement
    from lucida.model.checkpoint import name_tiles
    from lucida.model.configs import skeleton
    from lucida.model.language import add_tokens
    from lucida.model.processing import LucidaProcessor

    spec = recipe.model
    tokenizer = tokenizer_of(spec.language.path if spec.start is None else str(check_start(spec)))
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
    return processor.for_stage(recipe.resolve(stage))
