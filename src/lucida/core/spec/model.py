"""The parts of a VLM as one value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, create_model, model_validator

from lucida.core.registry import list_added_names
from lucida.core.spec.projector import MlpProjectorSpec, ProjectorSpec
from lucida.core.spec.value import Spec
from lucida.core.spec.vision import ImageSpec, VisionSpec

MaskName = Literal[
    "causal",
    "image_block",
    "all_images",
    "prefix",
    "mutual",
    "diagonal",
    *list_added_names("lucida.masks"),
]
TemplateName = Literal[
    "plain",
    "qa",
    "chatml",
    "vicuna",
    "llama2",
    "mistral",
    "phi",
    "prismatic",
    "prismatic_llama2",
    "tokenizer",
]
ImagePlaces = Literal["in_place", "at_start"]
Positions = Literal["1d", "reset", "mrope", "mrope_interleaved"]

ONE_SQUARE = ("resize", "letterbox", "crop")
"""Image policies that make one square of a picture."""


class LanguageSpec(Spec):
    """The language model and its tokenizer."""

    path: str
    """Hub id, local Hugging Face folder, or `lucida:NAME` for a part that ships with Lucida."""
    template: TemplateName = "qa"
    """How turns become tokens. `tokenizer` follows the tokenizer's own chat template."""
    images: ImagePlaces = "in_place"
    """Visual tokens stand where the data have them (inside the question, as in LLaVA), or all of a
    conversation's right behind the start token, before any system text, as in Prismatic. Those of a
    document always stand among its words."""
    positions: Positions = "1d"
    """How far apart visual tokens stand. `1d`: one behind the other, as words do. `reset`: those of
    a picture (of each run of them, where names of tiles part them) share one position, as CogVLM's
    do (arXiv 2311.03079); V2PE (arXiv 2412.09616) lets them advance by less than one. `mrope`:
    Qwen2-VL's three parts, of which height and width count a picture's rows and columns, and what
    follows stands behind the longer of them (arXiv 2409.12191); `mrope_interleaved`: Qwen3-VL's,
    the same parts on other frequencies. Both need a language model with rotary positions, and
    visual tokens that stand for places."""
    max_length: int = Field(default=2048, gt=0)
    """Longest sample in tokens, visual tokens included."""
    quantize: Literal["4bit", "8bit"] | None = None
    """Hold the frozen weights in fewer bits (bitsandbytes, an extra); with LoRA this is QLoRA."""


class CrossAttentionSpec(Spec):
    """Gated layers between those of the language model that read the visual features, instead of
    visual tokens among the words (Flamingo)."""

    every: int = Field(default=4, ge=1)
    """One gated layer before every so many layers of the language model."""
    heads: int = Field(default=8, ge=1)
    """They have to divide the language model's width."""
    sees: Literal["last", "all"] = "last"
    """The images that a position reads: the last one in front of it (Flamingo's rule), or all."""


class _Start(Spec):
    """Where the weights come from. `from` is no name for a field in Python, but the right word."""

    @property
    def start(self) -> str | None:
        """The field `from`."""
        return getattr(self, "from")


_FROM = Field(
    default=None,
    description="""A model to go on from, with its weights: a finished run, the end of one of its
stages that was kept (`RUN@STAGE`), an export for Lucida (`--format remote-code`), or what `lucida
import` made of another checkpoint. Its design stands for whatever the recipe leaves out; the
recipe may change how it is asked (attention_mask; template, images and max_length of `language`),
or go on from its language model alone (`vision: null`), and any other difference is refused.
Adapters of a run are part of its weights. null begins with the parts.""",
)
_Begun = create_model("_Begun", __base__=_Start, **{"from": (str | None, _FROM)})


class ModelSpec(_Begun):
    """The parts of a VLM. Without `vision` it is the language-only (blind) model."""

    vision: VisionSpec | None
    """null: images contribute no tokens at all; the blind baseline."""
    image: ImageSpec = ImageSpec()
    projector: ProjectorSpec = MlpProjectorSpec()
    language: LanguageSpec
    attention_mask: MaskName = "causal"
    """`image_block` lets the visual tokens of one image see each other (arXiv 2503.19508)."""
    cross_attention: CrossAttentionSpec | None = None
    """null puts visual tokens among the words; otherwise gated layers read them."""
    coordinate_bins: int = Field(default=32, ge=8, le=1000)
    """A box is written as four coordinates, each one of this many bins of the processed image."""

    @model_validator(mode="after")
    def _gated_layers_read_one_square(self) -> ModelSpec:
        if self.cross_attention is not None and self.image.policy not in ONE_SQUARE:
            raise ValueError(
                f"cross_attention reads one square of an image: image.policy has to be one of "
                f"{', '.join(ONE_SQUARE)}, not {self.image.policy}"
            )
        if self.cross_attention is not None and self.language.positions != "1d":
            raise ValueError(
                f"language.positions={self.language.positions} is about visual tokens among the "
                "words, and under cross_attention there are none: leave it at 1d"
            )
        return self
