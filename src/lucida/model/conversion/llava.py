"""Llava's and LlavaNext's names for Lucida's weights, both ways.

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

import torch
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
)

from lucida.core.errors import ModelError
from lucida.data.policies import candidates
from lucida.model.vlm import LucidaModel

AnyLlava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
LLAVAS: dict[str, type[AnyLlava]] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
}
"""`model_type` -> the class of transformers."""

VISION, PROJECTOR, LANGUAGE, HEAD, NEWLINE = (
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "model.language_model.",
    "lm_head.weight",
    "model.image_newline",
)


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
    if model.vision.family.cut == "modules":
        vision.num_hidden_layers += max(model.vision.named_layers) + 1
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
    grids = candidates(policy.max_tiles) if policy.grids is None else policy.grids
    return LlavaNextConfig(
        **values, image_grid_pinpoints=[[policy.size * side for side in grid] for grid in grids]
    )


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
        fill = 1.0 if name.endswith("weight") and wanted[name].ndim == 1 else 0.0
        state[name] = torch.full(wanted[name].shape, fill, dtype=dtype)
    load_exactly(other, state, "a Llava of this model")
    other.tie_weights()
    other.generation_config = model.generation_config
    return other.eval()


def llava_state(model: LucidaModel) -> dict[str, Tensor]:
    """The weights under Llava's names."""
    base = model.language.base_model_prefix
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelError(
            "Llava's output matrix has no bias and this language model's has one",
            given=type(model.language).__name__,
            remedy="export with --format remote-code",
        )
    state = {}
    for name, value in model.vision.model.state_dict().items():
        state[VISION + name] = value
    for name, value in getattr(model.language, base).state_dict().items():
        state[LANGUAGE + name] = value
    state[HEAD] = head.weight
    if hasattr(model.projector, "newline"):
        state[NEWLINE] = model.projector.newline.detach()
    first, second = two_layers(model)
    for number, layer in (("1", first), ("2", second)):
        state[f"{PROJECTOR}linear_{number}.weight"] = layer[0]
        state[f"{PROJECTOR}linear_{number}.bias"] = layer[1]
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


def load_exactly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Fill a module on the meta device with these tensors; ModelError unless every name and shape
    fits."""
    check_exactly(module, state, what)
    module.load_state_dict(state, assign=True)


def check_exactly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """ModelError unless these are the weights of this module, by every name and shape."""
    wanted = module.state_dict()
    for kind, names in (
        ("lacks", wanted.keys() - state.keys()),
        ("has no place for", state.keys() - wanted.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3])
            raise ModelError(f"{what} {kind} {len(names)} weights: {listed}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"{what}: {name} has another shape",
                expected=tuple(wanted[name].shape),
                given=tuple(value.shape),
            )
