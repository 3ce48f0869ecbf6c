"""Which designs transformers' Llava and LlavaNext, and llama.cpp's files, can hold: a question of
specs and configurations.

No weights are needed, so `lucida plan` answers it before anything is trained.
"""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from lucida.core.spec import ModelSpec
from lucida.model.conversion.mmproj import Shape, form_obstacles, shape_of
from lucida.model.encoders.families import family_of
from lucida.model.encoders.timm_model import TimmConfig


def llava_obstacles(
    spec: ModelSpec,
    vision: PreTrainedConfig | None,
    language: PreTrainedConfig | None,
    image_size: int | None = None,
) -> list[str]:
    """Every reason why a design is no Llava, in the recipe's words; empty when it is one.

    vision, language: the configurations of the parts, None where they are not at hand. image_size:
    pixels per side that the encoder gets, None for its own.
    """
    found = [*joint_obstacles(spec), *image_obstacles(spec)]
    if spec.vision is None:
        return ["model.vision is null: Llava always has a vision encoder", *found]
    found += vision_obstacles(spec, vision, image_size)
    found += projector_obstacles(spec, vision, language)
    return found


def llava_next_obstacles(
    spec: ModelSpec,
    vision: PreTrainedConfig | None,
    language: PreTrainedConfig | None,
    image_size: int | None = None,
) -> list[str]:
    """The same for LlavaNext, which is a Llava that sees an overview and a grid of tiles."""
    found = joint_obstacles(spec)
    if spec.image.policy != "anyres":
        found.append(f"model.image.policy is {spec.image.policy}: LlavaNext's is anyres")
    if spec.vision is None:
        return ["model.vision is null: LlavaNext always has a vision encoder", *found]
    found += vision_obstacles(spec, vision, image_size)
    own = getattr(vision, "image_size", None)
    if image_size is not None and own is not None and image_size != own and spec.image.size:
        found.append(
            f"tiles have {image_size} pixels per side and the encoder's own size is {own}, "
            "from which LlavaNext counts tokens"
        )
    return found + projector_obstacles(spec, vision, language)


OBSTACLES = {"llava": llava_obstacles, "llava-next": llava_next_obstacles}
"""Formats of transformers -> why a design is none of it."""


GGUF_VISION = ("siglip_vision_model", "clip_vision_model")
GGUF_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "quick_gelu")
"""Encoders that llama.cpp can run as they were trained, and activations."""
GGUF_LANGUAGES = ("llama", "mistral", "qwen2", "qwen3")


def gguf_obstacles(
    spec: ModelSpec,
    vision: PreTrainedConfig | None,
    language: PreTrainedConfig | None,
    image_size: int | None = None,
) -> list[str]:
    """Every reason why llama.cpp cannot run a design as it was trained."""
    found = joint_obstacles(spec, "llama.cpp")
    if spec.vision is None:
        return ["model.vision is null: llama.cpp's mmproj is a vision encoder", *found]
    if spec.image.policy in ("anyres", "split", "native"):
        found.append(
            f"model.image.policy is {spec.image.policy}: one square per picture is written"
        )
    if spec.vision.more or spec.vision.take != "patches":
        found.append("llama.cpp takes the patches of one encoder")
    shape = shape_of(spec)
    if isinstance(shape, list):
        found += shape
    if vision is not None:
        found += _gguf_vision(vision, image_size)
        if isinstance(shape, Shape) and vision.model_type in GGUF_VISION:
            found += form_obstacles(spec, shape, vision, image_size)
    if language is not None:
        found += _gguf_language(language.get_text_config())
    return found


def _gguf_vision(config: PreTrainedConfig, image_size: int | None) -> list[str]:
    """What speaks against llama.cpp in an encoder."""
    kind = config.model_type
    if kind not in GGUF_VISION:
        return [f"{kind} encoders have no names there: {', '.join(GGUF_VISION)} are written"]
    found = []
    if config.hidden_act not in GGUF_ACTIVATIONS:
        found.append(f"the encoder's activation is {config.hidden_act}")
    if config.intermediate_size == config.hidden_size:
        found.append("the encoder's MLP is as wide as the encoder: llama.cpp would take its two "
                     "matrices for one another")  # fmt: skip
    if image_size not in (None, config.image_size):
        found.append(
            f"images have {image_size} pixels per side and the encoder's positions "
            f"{config.image_size}: llama.cpp does not interpolate them"
        )
    return found


def _gguf_language(config: PreTrainedConfig) -> list[str]:
    """What speaks against llama.cpp in a language model."""
    kind = config.model_type
    if kind not in GGUF_LANGUAGES:
        return [f"language models of type {kind}: {', '.join(GGUF_LANGUAGES)} are written"]
    found = []
    if config.hidden_act != "silu":
        found.append(f"the language model's activation is {config.hidden_act}: there it is silu")
    rope = config.rope_parameters.get("rope_type", "default")
    if rope != "default":
        found.append(f"the language model's rope_type is {rope}: the default is written")
    if kind == "llama" and (config.attention_bias or config.mlp_bias):
        found.append("the language model has biases, which a llama has not there")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        found.append(f"the language model's sliding_window is {window}: full attention is written")
    return found


VLLM_VISION = ("clip_vision_model", "siglip_vision_model")


def vllm_obstacles(
    spec: ModelSpec,
    format: str,
    vision: PreTrainedConfig | None,
    language: PreTrainedConfig | None = None,
) -> list[str]:
    """Every reason why vLLM does not run an export, natively or (`remote-code`) through its
    transformers backend; empty when it does.

    Reference: vLLM 0.33, model_executor/models/llava.py and llava_next.py: two types of encoder, a
    projector as wide as one feature layer, and activations that it knows by name.
    """
    if format == "remote-code":
        return backend_obstacles(spec, language)
    if format not in OBSTACLES:
        return [f"{format} is none of its formats: it runs Llava and LlavaNext"]
    found = []
    if vision is not None and vision.model_type not in VLLM_VISION:
        found.append(f"{vision.model_type} encoders: it has {', '.join(VLLM_VISION)}")
    if isinstance(spec.vision.feature_layer, list) and len(spec.vision.feature_layer) > 1:
        found.append("features of several layers: it has those of one")
    if spec.projector.kind == "linear" or spec.projector.depth == 1:
        found.append("a projector of one matrix: written with an activation that it does not know")
    return found


def backend_obstacles(spec: ModelSpec, language: PreTrainedConfig | None) -> list[str]:
    """Every reason why vLLM's transformers backend does not run the remote-code export as it was
    trained (`model.backend` is what it asks for)."""
    if spec.vision is None:
        return ["a blind model takes no pictures: its language model alone can be served"]
    found = joint_obstacles(spec, "vLLM")
    if spec.image.policy in ("anyres", "split", "native") or spec.vision.more:
        found.append("pictures in several views or by several encoders: it slices one tensor")
    if language is not None and not language.get_text_config().tie_word_embeddings:
        found.append("an output matrix of its own, which it looks for by the name lm_head.weight")
    return found


def nearest(spec: ModelSpec) -> Literal["llava", "llava-next"]:
    """The format of transformers that a design comes closest to."""
    return "llava-next" if spec.image.policy == "anyres" else "llava"


def joint_obstacles(spec: ModelSpec, program: str = "Llava") -> list[str]:
    """What speaks against it in the way the parts are joined."""
    found = []
    if spec.attention_mask != "causal":
        found.append(f"model.attention_mask is {spec.attention_mask}: {program}'s is causal")
    if spec.cross_attention is not None:
        found.append(f"model.cross_attention is set: {program} puts visual tokens among the words")
    if spec.language.positions != "1d":
        found.append(
            f"model.language.positions is {spec.language.positions}: {program} counts visual "
            "tokens one by one, as words"
        )
    if spec.language.quantize is not None:
        found.append(
            f"model.language.quantize is {spec.language.quantize}: "
            "an export holds plain weights; load the run without it"
        )
    return found


def image_obstacles(spec: ModelSpec) -> list[str]:
    """What speaks against it in how pictures are prepared."""
    why = {
        "letterbox": "Llava's processor pads before it resizes, as model.image.pad `first` does",
        "anyres": "Llava has one square per picture (tiles are LlavaNext's)",
        "split": "Llava has one square per picture (tiles are Idefics3's)",
        "native": "Llava has one square size",
    }
    policy = spec.image.policy
    if policy in ("crop", "letterbox") and spec.image.odd != "transformers":
        return [
            f"model.image.odd is {spec.image.odd}: Llava's processor shares odd margins its way"
        ]
    if policy == "letterbox" and spec.image.pad == "first":
        return []
    return [f"model.image.policy is {policy}: {why[policy]}"] if policy in why else []


def vision_obstacles(
    spec: ModelSpec, config: PreTrainedConfig | None, image_size: int | None
) -> list[str]:
    """What speaks against it in the encoder and in what is taken from it."""
    vision = spec.vision
    found = []
    if vision.more:
        count = 1 + len(vision.more)
        found.append(f"model.vision.more makes {count} encoders: Llava has one")
    if vision.normed:
        found.append("model.vision.normed is true: Llava takes hidden states before the norm")
    if vision.take not in ("patches", "cls_patches"):
        found.append(f"model.vision.take is {vision.take}: Llava takes patches or all tokens")
    if vision.path.startswith("timm:") or isinstance(config, TimmConfig):
        found.append("a timm encoder is loaded by timm, not by transformers alone")
    if config is None:
        return found
    family = family_of(config)
    prefix = family.prefix(config)
    if family.stages:
        found.append(f"{config.model_type} gives maps: Llava reads sequences of patches")
        return found
    if prefix > 1:
        found.append(f"{config.model_type} has {prefix} prefix tokens: Llava drops one or none")
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int):
        found.append(f"{config.model_type} names no patch_size, from which Llava counts tokens")
    own = getattr(config, "image_size", None)
    if family.resolution == "flag" and image_size not in (None, own):
        found.append(
            f"images have {image_size} pixels per side and the encoder's positions {own}: "
            "Llava does not interpolate them"
        )
    return found


def language_obstacles(language: PreTrainedModel) -> list[str]:
    """What speaks against it in the language model, which may be on the meta device."""
    found = []
    if getattr(language.get_output_embeddings(), "bias", None) is not None:
        found.append(f"{type(language).__name__} has an output bias: Llava's head has none")
    tied = language.config.get_text_config().tie_word_embeddings
    if tied and not hasattr(language.base_model, "embed_tokens"):
        found.append(
            f"{type(language).__name__} ties its output matrix to an embedding that is not called "
            "embed_tokens, which is what Llava ties to"
        )
    return found


def projector_obstacles(
    spec: ModelSpec, vision: PreTrainedConfig | None, language: PreTrainedConfig | None
) -> list[str]:
    """What speaks against it in the projector. Llava's is linear, activation, linear; one matrix is
    the same with an identity behind it, and a narrower hidden layer is one with zeros."""
    projector = spec.projector
    if projector.kind == "linear":
        return []
    if projector.kind != "mlp":
        return [f"model.projector.kind is {projector.kind}: Llava's is an MLP of two layers"]
    found = []
    if projector.depth > 2:
        found.append(f"model.projector.depth is {projector.depth}: Llava's MLP has two layers")
    if projector.norm:
        found.append("model.projector.norm is true: Llava's MLP has no norm")
    if projector.position:
        found.append("model.projector.position is true: Llava's MLP knows no places")
    width = None if language is None else language.get_text_config().hidden_size
    if projector.hidden and width and projector.hidden > width:
        found.append(
            f"model.projector.hidden is {projector.hidden}: Llava's hidden layer is as wide as "
            f"the language model ({width})"
        )
    return found
