"""transformers' Llava and LlavaNext, both ways: their names for Lucida's weights.

    Lucida                          LlavaForConditionalGeneration
    vision.model.*                  model.vision_tower.*
    projector.layers.0 / .2         model.multi_modal_projector.linear_1 / linear_2
    language.<base model>.*         model.language_model.*
    language's output matrix        lm_head.weight
    projector.newline               model.image_newline       (LlavaNext's, policy `anyres`)

What Lucida leaves out because no feature needs it (layers above the feature layer, the final norm,
pooling heads) is written as a neutral value: a Llava has to have it, and never reads it either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.checksums import seal
from lucida.model.conversion.format import (
    Choices,
    Format,
    check_exactly,
    fill_model,
    projector_state,
    refuse,
    weight_of,
)
from lucida.model.conversion.processors import (
    image_of_processor,
    llava_processor,
    tiles_of_processor,
)
from lucida.model.encoders.families import family_of
from lucida.model.folder import read_json
from lucida.model.loading import load_whole, quiet_loading, refusing
from lucida.model.vlm import LucidaModel

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor

AnyLlava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
LLAVAS: dict[str, type[AnyLlava]] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
}
"""`model_type` -> the class of transformers."""
ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}
"""transformers' -> Lucida's."""

VISION, PROJECTOR, LANGUAGE, HEAD, NEWLINE = (
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "model.language_model.",
    "lm_head.weight",
    "model.image_newline",
)


class Llava(Format):
    """A folder of transformers' Llava; its own processor and model say what is true."""

    name = "llava"
    model_type = "llava"

    @classmethod
    def detect(cls, folder: Path) -> bool:
        """Whether config.json names this type."""
        file = folder / "config.json"
        return file.is_file() and read_json(file).get("model_type") == cls.model_type

    def __init__(self, folder: Path, choices: Choices | None = None) -> None:
        if choices is not None and (choices.vision or choices.language):
            raise ModelError(
                "this checkpoint holds all of its parts",
                given="--vision or --language",
                origin=folder,
                remedy="leave them out",
            )
        self.whole: AnyLlava = load_whole(AutoModelForImageTextToText, str(folder)).eval()
        with quiet_loading(), refusing(folder, "its processor cannot be loaded"):
            self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer = self.processor.tokenizer
        self.vision = [self.whole.model.vision_tower]
        config = self.whole.config
        self.max_length = getattr(config.text_config, "max_position_embeddings", None) or 2048
        if choices is not None:  # else it is only asked
            self._take_apart(folder, config)

    def _take_apart(self, folder: Path, config: LlavaConfig | LlavaNextConfig) -> None:
        values = json.loads(self.processor.image_processor.to_json_string())
        self.pixels = [values]
        layers = self.whole.model.multi_modal_projector
        pairs = [
            (
                layer.weight,
                layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias,
            )
            for layer in (layers.linear_1, layers.linear_2)
        ]
        second, bias = pairs[1]
        identity = torch.eye(len(second), dtype=second.dtype)
        linear = (
            config.projector_hidden_act == "linear"
            and torch.equal(second, identity)
            and not bias.any()
        )
        self.projector = projector_state(pairs[:1] if linear else pairs, linear)
        self.spec = {
            "vision": vision_values(config, folder),
            "image": self.image(values, folder),
            "projector": projector_values(config, linear, folder),
        }
        self.language = self._own_language(config)

    def image(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Values of the image policy for the settings of its image processor."""
        return image_of_processor(values, folder)

    def _own_language(self, config: LlavaConfig | LlavaNextConfig) -> PreTrainedModel:
        """The language model as one of its own."""
        text = plain_config(config.text_config)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(text)
        own = self.whole.state_dict()
        state: dict[str, Tensor] = {
            f"{empty.base_model_prefix}.{name.removeprefix(LANGUAGE)}": value
            for name, value in own.items()
            if name.startswith(LANGUAGE)
        }
        state[weight_of(empty, empty.get_output_embeddings())] = own[HEAD]
        what = "the language model of this checkpoint"
        alone = fill_model(AutoModelForCausalLM, text, state, what)
        alone.generation_config = self.whole.generation_config
        return alone

    def inputs(self, group: list[Any]) -> dict[str, Tensor]:
        """What its processor makes of conversations."""
        return self.processor.apply_chat_template(
            group,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def logits(self, inputs: dict[str, Any], image_token: int) -> Tensor:
        """What its model makes of them."""
        return llava_logits(self.whole, inputs)


class LlavaNext(Llava):
    """The same of LlavaNext: an overview, a grid of tiles, and a vector that ends their rows."""

    name = "llava-next"
    model_type = "llava_next"

    def image(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Its tiles, and the vector that ends their rows."""
        self.projector["newline"] = self.whole.state_dict()[NEWLINE]
        return tiles_of_processor(values, self.whole.config, folder)


def vision_values(config: LlavaConfig | LlavaNextConfig, origin: object) -> dict[str, Any]:
    """What is taken from the encoder; ModelError for what Lucida has no counterpart of."""
    prefix = family_of(config.vision_config).prefix(config.vision_config)
    strategy = config.vision_feature_select_strategy
    if strategy == "default" and prefix != 1:
        refuse(
            f"it drops the first token of a {config.vision_config.model_type}",
            "one class token in front of the patches",
            f"{prefix} prefix tokens",
            origin,
        )
    if strategy == "full" and prefix > 1:
        refuse("it keeps register tokens", "at most one prefix token", prefix, origin)
    take = "cls_patches" if strategy == "full" and prefix else "patches"
    return {"feature_layer": config.vision_feature_layer, "take": take}


def projector_values(
    config: LlavaConfig | LlavaNextConfig, linear: bool, origin: object
) -> dict[str, Any]:
    """The projector's values; linear: whether its second layer is the identity."""
    act = config.projector_hidden_act
    if linear:
        return {"kind": "linear"}
    if act not in ACTIVATIONS:
        refuse("the projector's activation", ", ".join(ACTIVATIONS), act, origin)
    return {"kind": "mlp", "depth": 2, "activation": ACTIVATIONS[act]}


def llava_logits(model: AnyLlava, inputs: dict[str, Any]) -> torch.Tensor:
    """What a Llava or LlavaNext makes of Lucida's inputs or of its own processor's."""
    given = dict(inputs)
    if isinstance(given.get("pixel_values"), Views):
        given |= as_tiles(given["pixel_values"])
    return model(**given).logits


def as_tiles(views: Views) -> dict[str, torch.Tensor]:
    """Views of one encoder as LlavaNext has them: zeros where an image has fewer tiles than the
    one with most, and heights and widths."""
    pixels = torch.nn.utils.rnn.pad_sequence(views.images(), batch_first=True)
    sizes = torch.tensor([[height, width] for width, height in views.sizes])
    return {"pixel_values": pixels, "image_sizes": sizes}


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that remembers no attention implementation and no place it came from."""
    values = config.to_dict()
    for name in ("_attn_implementation", "_name_or_path", "attn_implementation"):
        values.pop(name, None)
    return type(config).from_dict(values)


def llava_config(model: LucidaModel) -> LlavaConfig | LlavaNextConfig:
    """The configuration of the same model as a Llava, or with tiles as a LlavaNext (see `fits`
    first, which says whether it is one)."""
    spec = model.config.model_spec
    vision = plain_config(model.vision.model.config)
    layers = list(model.vision.layers)  # counted from the end of the encoder as it is cut
    prefix = model.vision.family.prefix(vision)
    one_matrix = spec.projector.kind == "linear" or spec.projector.depth == 1
    values = {
        "vision_config": vision,
        "text_config": plain_config(model.language.config),
        "image_token_index": model.config.image_token_id,
        "image_seq_length": model.config.visual_tokens,
        "projector_hidden_act": "linear" if one_matrix else spec.projector.activation,
        "vision_feature_select_strategy": (
            "default" if prefix and spec.vision.take == "patches" else "full"
        ),
        "vision_feature_layer": layers[0] if len(layers) == 1 else layers,
        "multimodal_projector_bias": True,
        "tie_word_embeddings": bool(model.language.config.tie_word_embeddings),
    }
    policy = model.arrangement.policy
    if policy.policy != "anyres":
        return LlavaConfig(**values)
    return LlavaNextConfig(
        **values,
        image_grid_pinpoints=[[policy.size * side for side in grid] for grid in policy.choice],
    )


def write_llava(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> None:
    """Weights, configuration, tokenizer, image processor and chat template, into a folder that
    exists; transformers and `AutoProcessor` load it without Lucida."""
    with quiet_loading():
        other = to_llava(model)
        other.save_pretrained(folder)
        llava_processor(other.config, processor).save_pretrained(folder)
    seal(folder)


def to_llava(model: LucidaModel) -> AnyLlava:
    """The same weights in a Llava or LlavaNext; nothing is copied that need not be.

    ModelError when a weight of one side has no counterpart on the other.
    """
    config = llava_config(model)
    with torch.device("meta"):
        other = LLAVAS[config.model_type](config)
    state = llava_state(model)
    wanted = other.state_dict()
    dtype = model.get_input_embeddings().weight.dtype
    for name in wanted.keys() - state.keys():
        if not name.startswith(VISION):
            raise ModelError(f"Llava has a weight that this model lacks: {name}")
        # Scales of norms are 1, all else 0: what is never read, but never NaN either.
        fill = 1.0 if name.endswith("weight") and wanted[name].ndim == 1 else 0.0
        state[name] = torch.full(wanted[name].shape, fill, dtype=dtype)
    check_exactly(other, state, "a Llava of this model")
    other.load_state_dict(state, assign=True)
    other.tie_weights()
    other.generation_config = model.generation_config
    return other.eval()


def llava_state(model: LucidaModel) -> dict[str, Tensor]:
    """The weights under Llava's names."""
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelError(
            "Llava's output matrix has no bias and this language model's has one",
            given=type(model.language).__name__,
            remedy="export with --format remote-code",
        )
    newline = getattr(model.projector, "newline", None)
    return named_weights(model.vision.model, model.language, two_layers(model), newline)


def named_weights(
    vision: PreTrainedModel,
    language: PreTrainedModel,
    linears: Sequence[tuple[Tensor, Tensor]],
    newline: Tensor | None,
) -> dict[str, Tensor]:
    """The weights of these parts under Llava's names; linears: (weight, bias) of its two layers."""
    state = {VISION + name: value for name, value in vision.state_dict().items()}
    base = getattr(language, language.base_model_prefix)
    state |= {LANGUAGE + name: value for name, value in base.state_dict().items()}
    state[HEAD] = language.get_output_embeddings().weight
    if newline is not None:
        state[NEWLINE] = newline.detach()
    for number, (weight, bias) in enumerate(linears, 1):
        state[f"{PROJECTOR}linear_{number}.weight"] = weight
        state[f"{PROJECTOR}linear_{number}.bias"] = bias
    return state


def two_layers(model: LucidaModel) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of Llava's two linear layers, each `width` wide."""
    linears = [each for each in model.projector.modules() if isinstance(each, nn.Linear)]
    width = linears[-1].out_features
    like = linears[0].weight.detach()
    if len(linears) == 1:
        identity = torch.eye(width, dtype=like.dtype), like.new_zeros(width)
        return [(linears[0].weight.detach(), linears[0].bias.detach()), identity]
    first, second = linears
    missing = width - first.out_features
    pad = nn.functional.pad  # hidden places of zero: activation(0) = 0, read with weight 0
    return [
        (pad(first.weight.detach(), (0, 0, 0, missing)), pad(first.bias.detach(), (0, missing))),
        (pad(second.weight.detach(), (0, missing)), second.bias.detach()),
    ]


def llava_next_of(
    checkpoint: Format, pinpoints: list[list[int]], token: int
) -> LlavaNextForConditionalGeneration:
    """The parts of another checkpoint as transformers' LlavaNext, which it is compared with."""
    (tower,), language = checkpoint.vision, checkpoint.language
    linears = [(weight.float(), bias.float()) for weight, bias in checkpoint.linears]
    if len(linears) > 2:
        raise ModelError("tiles with a projector of more than two layers are not known here")
    taken = checkpoint.spec["vision"]
    text = {**language.config.to_dict(), "tie_word_embeddings": False}
    missing = max(0, token + 1 - text["vocab_size"])  # transformers looks the placeholder up too
    text["vocab_size"] += missing
    config = LlavaNextConfig(
        vision_config=tower.config.to_dict(),
        text_config=text,
        image_token_index=token,
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=taken["feature_layer"],
        vision_feature_select_strategy="default" if taken["take"] == "patches" else "full",
        projector_hidden_act="gelu" if len(linears) == 2 else "linear",
        tie_word_embeddings=False,
    )
    width = len(linears[0][1])
    both = [*linears, (torch.eye(width), torch.zeros(width))][:2]  # behind one matrix an identity
    state = named_weights(tower, language, both, checkpoint.projector["newline"])
    embedding = LANGUAGE + weight_of(language.base_model, language.get_input_embeddings())
    for name in (HEAD, embedding):
        state[name] = nn.functional.pad(state[name].detach(), (0, 0, 0, missing))
    with quiet_loading():
        return LlavaNextForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        ).eval()
