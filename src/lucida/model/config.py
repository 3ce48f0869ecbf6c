"""What is saved beside the weights: the configurations of the parts and the recipe's model."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from lucida.core.errors import ModelError
from lucida.core.spec import MaskName, ModelSpec
from lucida.model.arrangement import Arrangement, policy_of

MASK: MaskName = ModelSpec.model_fields["attention_mask"].default
"""That of a spec which names none."""


@strict
class LucidaConfig(PreTrainedConfig):
    """The configuration of a `LucidaModel`.

    vision_config is the encoder as it was cut at its feature layer, None for a blind model;
    more_vision holds those of further encoders. feature_layers: for each encoder the hidden states
    that are taken, counted from the end of the cut one. spec is the `ModelSpec` of the recipe as
    JSON. patches, vision_width: shape of the features of one square; visual_tokens: what the
    projector makes of them; image_size: pixels per side of what the first encoder gets; unit:
    pixels that sides are rounded to under the policy `native`; unit_patches: patches along a unit.
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
    more_vision: list[Any] | None = None
    feature_layers: list[Any] | None = None
    unit: int = 1
    unit_patches: int = 1
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """ModelError for a model of Lucida's first layout, which counted `patches` and
        `visual_tokens` as one: the shape of its features is not known for certain."""
        super().__post_init__(**kwargs)
        if self.vision_config is not None and self.visual_tokens and not self.patches:
            raise ModelError(
                "this model was saved by a Lucida before commit 41a483e (2026-11-21), which did "
                "not tell patches from visual tokens; this Lucida cannot load it",
                expected="`patches` in config.json",
                given=f"visual_tokens={self.visual_tokens} alone",
                origin=self.name_or_path or None,
                remedy="train it again from its recipe (lucida train FOLDER/recipe.yaml --run NEW),"
                " or load it with the Lucida that its environment.json names",
            )

    @property
    def vision_configs(self) -> list[PreTrainedConfig]:
        """The configurations of all encoders; none for a blind model."""
        if self.vision_config is None:
            return []
        more = [dict(values) for values in self.more_vision or ()]
        return [
            self.vision_config,
            *(AutoConfig.for_model(values.pop("model_type"), **values) for values in more),
        ]

    @property
    def layers(self) -> list[tuple[int, ...]]:
        """The hidden states taken of each encoder."""
        given = self.feature_layers or [[-1]] * len(self.vision_configs)
        return [tuple(layers) for layers in given]

    @property
    def attention_mask(self) -> MaskName:
        """The mask that the model is asked under."""
        return (self.spec or {}).get("attention_mask", MASK)

    @property
    def arrangement(self) -> Arrangement:
        """Where the visual tokens of an image stand."""
        spec = self.model_spec
        # Only sizes are asked of it, never pixels: mean and deviation do not matter.
        policy = policy_of(spec.image, self.image_size, (0.0,) * 3, (1.0,) * 3, self.unit)
        return Arrangement(
            policy,
            self.visual_tokens,
            spec.projector,
            self.unit_patches,
            spec.language.positions,
        )

    @property
    def model_spec(self) -> ModelSpec:
        """The recipe's model, validated."""
        if self.spec is None:
            raise ModelError(
                "this configuration carries no model spec",
                remedy="make it with lucida.model.checkpoint.build, or load a saved model",
            )
        return ModelSpec.model_validate(self.spec)
