"""What is saved beside the weights: the configurations of the parts and the recipe's model."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from lucida.core.errors import ModelError
from lucida.core.spec import ModelSpec


@strict
class LucidaConfig(PreTrainedConfig):
    """The configuration of a `LucidaModel`.

    vision_config is the encoder as it was cut at its feature layer, None for a blind model.
    spec is the `ModelSpec` of the recipe as JSON. patches, vision_width: shape of one image's
    features; visual_tokens: what the projector makes of them; image_size: pixels per side of what
    the encoder gets.
    """

    model_type = "lucida"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="siglip_vision_model", optional=True),
        "text_config": SubConfigSpec(AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    spec: dict | None = None
    image_token_id: int = 0
    patches: int = 0
    visual_tokens: int = 0
    vision_width: int = 0
    image_size: int = 0
    tie_word_embeddings: bool = False

    @property
    def model_spec(self) -> ModelSpec:
        """The recipe's model, validated."""
        if self.spec is None:
            raise ModelError(
                "this configuration carries no model spec",
                remedy="make it with lucida.model.checkpoint.build, or load a saved model",
            )
        return ModelSpec.model_validate(self.spec)
