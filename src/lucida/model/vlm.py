"""The vision-language model, as transformers knows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast

from lucida.core.errors import ModelError
from lucida.core.spec import MaskName
from lucida.data.sample import Batch, Views
from lucida.model import attention
from lucida.model.attention import Layout
from lucida.model.config import LucidaConfig
from lucida.model.cross_attention import GatedCrossAttention
from lucida.model.encoders.encoder import VisionEncoder
from lucida.model.encoders.fusion import FusedEncoder, encoders_of, new_vision
from lucida.model.fuse import fuse, reduce_visual
from lucida.model.generation import (
    PromptGenerationMixin,
    image_numbers,
    prompt_mask,
    prompt_positions,
)
from lucida.model.last_layer import only_at
from lucida.model.masks import check_branches, fields_of
from lucida.model.projectors import make_projector
from lucida.model.rotary import check_rotary, rotating
from lucida.model.saved import SavedModel
from lucida.model.views import encode_views, visual_of

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor


class LucidaModel(SavedModel, PreTrainedModel, PromptGenerationMixin):
    """A vision encoder, a projector and a language model, joined at placeholders.

        pixel_values [images, 3, side, side]        input_ids [rows, length]
          └─ vision ─▶ features [images, patches, vision]      │
               └─ projector ─▶ visual tokens [images, patches, width]
                                   └──────── fuse ─────────────┤ embedding
                                                               ▼
                                        language: decoder layers, mask from the layout
                                                               ▼
                                        hidden [rows, length, width] ─▶ logits

    Two ways in. Training calls `hidden(batch)` and then `logits` at supervised rows: a `Batch` may
    be packed and branched, and its fields alone decide who sees whom. Everything from transformers
    (`generate`, pipelines, PEFT) calls `forward` with an `attention_mask` of ones and zeros. A
    model without vision is blind: `vision` and `projector` are None, its text has no placeholders.

    Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.1.
    """

    config_class = LucidaConfig
    config: LucidaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        config: LucidaConfig,
        vision: VisionEncoder | FusedEncoder | None = None,
        language: PreTrainedModel | None = None,
    ) -> None:
        """Parts that are loaded already are taken as they are; others are made from `config`."""
        super().__init__(config)
        spec = config.model_spec
        self.arrangement = config.arrangement
        self.language = language or AutoModelForCausalLM.from_config(config.text_config)
        check_rotary(self.language, spec)
        self.vision: VisionEncoder | FusedEncoder | None = None
        self.projector: nn.Module | None = None
        if spec.vision is not None:
            self.vision = vision or new_vision(config)
            # Not `hidden_size`: OPT has embeddings that are narrower.
            width = self.get_input_embeddings().weight.shape[1]
            self.projector = make_projector(
                spec.projector, config.vision_width, width, config.patches
            )
            if self.arrangement.policy.line_ends:
                # In the projector, so that whatever trains, freezes or saves that has it too.
                self.projector.newline = nn.Parameter(torch.randn(width) * width**-0.5)
        self.cross_attention: GatedCrossAttention | None = None
        if spec.vision is not None and spec.cross_attention is not None:
            self.cross_attention = GatedCrossAttention(spec.cross_attention, self.language)
        for part in (vision, language):
            for module in () if part is None else part.modules():
                module._is_hf_initialized = True  # else post_init draws new weights over them
        self.post_init()
        # A configuration that is put into another one loses its attention implementation.
        for encoder in () if self.vision is None else encoders_of(self.vision):
            if encoder.model.config._attn_implementation is None:
                fast = "eager" if encoder.family.stages else "sdpa"
                encoder.model.set_attn_implementation(fast)
        if self.language.config._attn_implementation in (None, "sdpa"):
            self.language.set_attn_implementation(attention.NAME)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the projector keeps torch's own start (std ~ 1/sqrt(3 inputs)), as in LLaVA;
        transformers' general rule would draw it with the language model's std of 0.02."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language.set_output_embeddings(new_embeddings)

    @property
    def mask(self) -> MaskName:
        """The model's own attention mask, which its configuration holds."""
        return self.config.attention_mask

    def mask_for(self, processor: LucidaProcessor) -> MaskName:
        """The mask that prompts of this processor are answered under: a stage's, or the own."""
        return processor.attention_mask or self.mask

    # Training: batches whose fields carry all meaning.

    def hidden(
        self,
        batch: Batch,
        mask: MaskName | None = None,
        cache: Cache | None = None,
        wanted: Tensor | None = None,
        plain: bool = False,
        how: str = "segments",
    ) -> Float[Tensor, "rows length width"]:
        """Last hidden states of a packed, branched or padded batch; padding is arbitrary.

        mask: who sees whom, by its name in `MASKS`; None is the model's own. An empty `cache` is
        filled with the keys and values of all positions, as they stand in the batch. `wanted`: the
        flat positions whose states are needed; others come out arbitrary. `plain`: the batch is one
        causal text, where transformers' own mask is the same, and cheaper to make. `how`: a name in
        `attention.WAYS`, or `auto`; the results are equal.

        Nothing below the lowest trained parameter is differentiated: a frozen encoder runs without
        gradients, and with frozen parts autograd ends where the first trained weight enters.
        """
        if self.language.config._attn_implementation != attention.NAME:
            raise ModelError(
                "packed and branched batches need Lucida's attention",
                expected=attention.NAME,
                given=self.language.config._attn_implementation,
                remedy=f'call model.language.set_attn_implementation("{attention.NAME}")',
            )
        mask = mask or self.mask
        check_branches(batch, mask)
        visual = reduce_visual(self.visual(batch.pixel_values, batch.features), batch.reduced)
        # In front of the embedding, like what it stands for: engines count on one order.
        at_rest = visual is None and self.projector is not None and self.training
        rest = self.projector_at_rest() if at_rest else None
        embedded = self.embed(batch.input_ids, batch.image > 0, visual)
        embedded = embedded if rest is None else embedded + rest
        images = batch.features if batch.pixel_values is None else batch.pixel_values
        sizes = () if images is None else images.sizes
        placing = self.placing(batch.position, batch.image > 0, sizes)
        with only_at(self.language, wanted), placing:
            output = self.language.base_model(
                inputs_embeds=embedded,
                position_ids=batch.position,
                # A mask of rank 4 is passed on untouched; without it transformers would build a
                # dense mask of length² that nothing reads.
                attention_mask=None if plain else embedded.new_zeros(1, 1, 1, 1),
                past_key_values=cache,
                use_cache=cache is not None,
                layout=None if plain else Layout(fields_of(batch), mask, how),
            )
        return output.last_hidden_state

    def placing(
        self, position: Tensor, placeholder: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> AbstractContextManager[None]:
        """What a forward over visual tokens of images of these sizes runs within, so that they
        stand where `language.positions` says; nothing where position ids alone say it."""
        parts = None
        if self.arrangement.three_parts and len(sizes) and self.cross_attention is None:
            added = torch.from_numpy(self.arrangement.parts(sizes)).to(position.device)
            parts = position.expand(placeholder.shape)[..., None].repeat(1, 1, 3)
            parts[placeholder] += added  # both row by row, left to right
        return rotating(self.language, parts, self.arrangement.positions)

    def logits(self, hidden: Float[Tensor, "*any width"]) -> Float[Tensor, "*any vocabulary"]:
        """Scores of the next token for any selection of hidden states."""
        return self.get_output_embeddings()(hidden)

    def projector_at_rest(self) -> Tensor:
        """Zero, by way of the projector: a batch without images still gives it a gradient of 0.

        Otherwise a rank that has text only would leave the others waiting, and one rank would not
        equal two.
        """
        shape = (1, self.config.patches, self.config.vision_width)
        newline = getattr(self.projector, "newline", None)
        like = self.get_input_embeddings().weight
        nothing = torch.zeros(shape, dtype=like.dtype, device=like.device)
        rest = 0.0 * self.projector(nothing).sum()
        return rest if newline is None else rest + 0.0 * newline.sum()

    # Images.

    def encode_images(self, pixel_values: Views) -> Views:
        """Features of the vision encoder, without gradients (and without dropout) when frozen."""
        if self.vision is None:
            raise ModelError(
                "this model is blind (model.vision is null) and was given images",
                given=f"{len(pixel_values)} images",
                remedy="use the processor saved with this model; it drops images of a blind model",
            )
        encoders = encoders_of(self.vision)
        if len(pixel_values.shapes) != len(encoders):
            raise ModelError(
                "each encoder needs its own pixels of the images",
                expected=f"lucida.data.sample.Views for {len(encoders)} encoders",
                given=f"pixels for {len(pixel_values.shapes)}",
                remedy="use the processor saved with this model",
            )
        weight = next(self.vision.parameters())
        pixel_values = pixel_values.to(device=weight.device, dtype=weight.dtype)
        if any(weight.requires_grad for weight in self.vision.parameters()):
            return encode_views(self.vision, pixel_values)
        # Batch statistics and dropout of a frozen encoder stay off: cached features must be equal.
        self.vision.eval()
        with torch.no_grad():
            return encode_views(self.vision, pixel_values)

    def project(
        self,
        features: Float[Tensor, "images patches vision"],
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens of features; `grid` where it is not the usual one."""
        return self.projector(features) if grid is None else self.projector(features, grid)

    def visual(self, pixel_values: Views | None, features: Views | None) -> list[Tensor] | None:
        """Visual tokens [tokens, width] of each image, given as pixels or as features; None without
        images."""
        if pixel_values is not None and features is not None:
            raise ModelError("give pixel_values or features, not both")
        if pixel_values is not None and len(pixel_values):
            features = self.encode_images(pixel_values)
        if features is None or not len(features):
            return None
        weight = next(self.projector.parameters(), None)  # `identity` has none
        # Kept features are in fp16, which autocast does not join to bf16.
        features = features.to(torch.float32 if weight is None else weight.dtype)
        newline = getattr(self.projector, "newline", None)
        return visual_of(features, self.arrangement, self.project, newline)

    def embed(
        self,
        input_ids: Int[Tensor, "rows length"],
        placeholder: Tensor,
        visual: list[Tensor] | None,
    ) -> Float[Tensor, "rows length width"]:
        """Input embeddings with visual tokens in their places; refuses when the counts differ.

        With gated layers nothing is put in a place: they are shown the images.
        """
        embedded = self.get_input_embeddings()(input_ids)
        if self.cross_attention is not None:
            self.cross_attention.show(placeholder, visual)
            return embedded
        if visual is None:
            if not bool(placeholder.any()):
                return embedded
            visual = []
        return fuse(embedded, placeholder, visual)

    # The way in for transformers.

    def views_of(self, given: Tensor | Views | None) -> Views | None:
        """Images as transformers hands them on: one tensor where each is one square for one
        encoder, otherwise as the processor made them."""
        if isinstance(given, Tensor) and not self.arrangement.policy.one_square:
            raise ModelError(
                "this model sees images in several views or of their own shapes",
                expected="lucida.data.sample.Views",
                given=f"one tensor of shape {tuple(given.shape)}",
                remedy="use the processor saved with this model",
            )
        return None if given is None else Views.read(given)

    def image_counts(self, images: Views | None) -> list[int]:
        """Visual tokens of each image."""
        return [] if images is None else [self.arrangement.count(*size) for size in images.sizes]

    def forward(
        self,
        input_ids: Int[Tensor, "rows length"] | None = None,
        pixel_values: Tensor | Views | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Int[Tensor, "rows length"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "rows length width"] | None = None,
        labels: Int[Tensor, "rows length"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        features: Tensor | Views | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (and the loss, with `labels` as transformers means them: shifted inside).

        Rows may be padded on either side, marked by `attention_mask`. Images of all rows stand in
        `pixel_values` [images, 3, height, width] (or `features` [images, patches, vision]), or in
        `Views`, in reading order; they go with the prompt, not with the
        tokens that are decoded after it.
        """
        given = choose_input(input_ids, inputs_embeds, pixel_values, features)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        placeholder = images = None
        if inputs_embeds is None:
            placeholder = self.placeholders(input_ids)
            pixels, features = self.views_of(pixel_values), self.views_of(features)
            images = features if pixels is None else pixels
        if position_ids is None:
            position_ids = prompt_positions(
                self.arrangement, given, placeholder, attention_mask, past, images
            )
        placing = nullcontext()
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, placeholder, self.visual(pixels, features))
            counts = self.image_counts(images)
            attention_mask = self.prompt_mask(placeholder, attention_mask, past_key_values, counts)
            if images is not None and self.arrangement.positions != "1d":
                placing = self.placing(position_ids, placeholder, images.sizes)
                if attention_mask is None:  # else transformers takes equal positions for packing
                    attention_mask = placeholder.new_ones(len(given), past + given.shape[1]).long()
        with placing:
            output = self.language(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        if labels is not None:
            size = output.logits.shape[-1]
            output.loss = ForCausalLMLoss(output.logits, labels, size, **kwargs)
        return output

    def prompt_mask(
        self,
        placeholder: Tensor,
        attention_mask: Tensor | dict | None,
        cache: Cache | None,
        counts: int | list[int],
    ) -> Tensor | dict | None:
        """This model's mask over inputs that come without the fields of a batch."""
        image = image_numbers(placeholder, counts)
        return prompt_mask(self.config, self.mask, image, attention_mask, cache, self.dtype)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Where visual tokens belong; nowhere in a blind model."""
        if self.vision is None:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        return input_ids == self.config.image_token_id


def choose_input(input_ids: Tensor | None, inputs_embeds: Tensor | None, *images: object) -> Tensor:
    """The one of both that is given; ModelError for none or both, and for images beside embeddings,
    in which no place is kept for them: they would be left out without a word."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ModelError("give exactly one of input_ids and inputs_embeds")
    if input_ids is not None:
        return input_ids
    if any(each is not None for each in images):
        raise ModelError(
            "embeddings have no placeholders that images could take the place of",
            expected="input_ids with pixel_values or features, or inputs_embeds alone",
            given="inputs_embeds and images",
            remedy="give input_ids, or embeddings with the visual tokens in their places"
            " (LucidaModel.embed)",
        )
    return inputs_embeds
