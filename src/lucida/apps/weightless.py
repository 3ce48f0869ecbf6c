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
    import torch
    from transformers import AutoModelForCausalLM

    from lucida.model.blueprint import find_language, make_blueprint
    from lucida.model.checkpoint import make_processor

    spec = recipe.model
    tokenizer = tokenizer_of(spec.language.path if spec.start is None else str(check_start(spec)))
    # Shapes without memory: the tokens of images and boxes are added, and its embedding grows by
    # them.
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(find_language(spec))
    processor = make_processor(make_blueprint(spec), language, tokenizer)
    return processor.for_stage(recipe.resolve(stage))
