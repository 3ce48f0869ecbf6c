"""The vision encoder and the projector as llama.cpp's `clip` holds them, and which of its forms.

    Lucida                                       llama.cpp's `clip`
    vision.model.embeddings.patch_embedding      v.patch_embd, v.position_embd
    vision.model.encoder.layers.3.self_attn.q…   v.blk.3.attn_q, attn_k, attn_v, attn_out
    …layers.3.layer_norm1 / mlp.fc1              v.blk.3.ln1, ln2, ffn_up, ffn_down
    projector: transformer blocks                v.blk.N behind the encoder's own

llama.cpp has a program (`clip.projector_type`) for each family of models. Three of them reach every
projector that can be written, as a `Shape`: blocks of patches side by side in the channels, a norm,
one or two matrices with GELU between.

    form       norm             matrices     blocks  class token  several layers
    mlp        v.post_ln        mm.0, mm.2   no      no           yes, without norm
    lfm2       mm.input_norm    mm.1, mm.2   yes     no           no
    internvl   mm.0, always     mm.1, mm.3   yes     yes          no

Three rewritings, exact in real numbers:
one matrix is two, [W; -W] and [I, -I], as gelu(x) - gelu(-x) = x; the mean of a block and a matrix
is the matrix repeated for each of its patches, divided by their number; and the class token, which
llama.cpp puts behind the patches, has the last row of the table of positions instead of the first.

Reference: llama.cpp, tools/mtmd (clip.cpp, models/llava.cpp, siglip.cpp and internvl.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lucida.core.spec import ModelSpec

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

VISION_NAMES = {
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "embeddings.class_embedding": "v.class_embd",
    "pre_layrnorm": "v.pre_ln",
    "post_layernorm": "v.post_ln",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
"""transformers' names of CLIP's and SigLIP's encoder (of a layer: within it) -> llama.cpp's."""

BLOCK_NAMES = {
    "before_reading": "ln1",
    "reading.query": "attn_q",
    "reading.key": "attn_k",
    "reading.value": "attn_v",
    "reading.out": "attn_out",
    "before_mlp": "ln2",
    "mlp.0": "ffn_up",
    "mlp.2": "ffn_down",
}
"""Names within a block of the projector `transformer` -> llama.cpp's of an encoder's layer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A projector in these terms. factor: patches along a side of a block. norm: LayerNorm on what
    the first matrix takes. matrices: 0 (the features themselves), 1 or 2. layers: transformer
    blocks in front of all of it. mean: a block's mean instead of its patches side by side."""

    factor: int = 1
    norm: bool = False
    matrices: int = 1
    layers: int = 0
    mean: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """A program of llama.cpp's: its name, and its names of the norm and the matrices. marks: text
    that it puts in front of a picture and behind it. stacks: blocks of patches."""

    name: str
    norm: str
    matrices: tuple[str, str]
    marks: tuple[str, str] | None = None


MLP = Form("mlp", "v.post_ln", ("mm.0", "mm.2"))
LFM2 = Form("lfm2", "mm.input_norm", ("mm.1", "mm.2"), ("<|image_start|>", "<|image_end|>"))
INTERNVL = Form(
    "internvl", "mm.model.mlp.0", ("mm.model.mlp.1", "mm.model.mlp.3"), ("<img>", "</img>")
)


WRITTEN = "identity, linear, mlp, pixel_shuffle, downsample, pool and transformer"


def shape_of(spec: ModelSpec) -> Shape | list[str]:
    """The projector of a design, or every reason why it has no such shape."""
    projector = spec.projector
    kind = projector.kind
    shapes = {
        "identity": lambda: Shape(matrices=0),
        "linear": Shape,
        "pixel_shuffle": lambda: Shape(projector.factor),
        "transformer": lambda: Shape(norm=True, layers=projector.layers),
        "pool": lambda: Shape(projector.factor, matrices=projector.depth, mean=True),
        "mlp": lambda: Shape(norm=projector.norm, matrices=projector.depth),
        "downsample": lambda: Shape(
            projector.factor, norm=not projector.linear, matrices=1 if projector.linear else 2
        ),
    }
    if kind not in shapes:
        return [f"model.projector.kind is {kind}: {WRITTEN} are written"]
    return shape_obstacles(spec) or shapes[kind]()


def shape_obstacles(spec: ModelSpec) -> list[str]:
    """What no form has, in a projector of a kind that is written."""
    projector = spec.projector
    found = []
    if projector.kind == "downsample" and projector.factor == 3 and not projector.linear:
        found.append("model.projector.factor is 3: that has three matrices, and llama.cpp's forms "
                     "two")  # fmt: skip
    if getattr(projector, "depth", 1) > 2:
        found.append(f"model.projector.depth is {projector.depth}: llama.cpp's forms have two "
                     "matrices")  # fmt: skip
    if getattr(projector, "position", False):
        found.append("model.projector.position is true: llama.cpp's forms know no places")
    if projector.kind == "mlp" and projector.depth > 1 and projector.activation != "gelu":
        found.append(f"model.projector.activation is {projector.activation}: llama.cpp's is gelu")
    return found


def form_of(shape: Shape, vision: PreTrainedConfig) -> Form:
    """The only form that comes into question for this encoder."""
    if vision.model_type == "clip_vision_model":
        return INTERNVL
    return LFM2 if shape.factor > 1 else MLP


def form_obstacles(
    spec: ModelSpec, shape: Shape, vision: PreTrainedConfig, image_size: int | None
) -> list[str]:
    """Every reason why that form cannot hold a design, in the recipe's words."""
    form = form_of(shape, vision)
    layers = spec.vision.feature_layer
    several = isinstance(layers, list) and len(layers) > 1
    found = []
    if form is INTERNVL and not shape.norm:
        found.append(
            "an encoder with a class token needs a projector that begins with a norm (there, "
            "internvl): in front of others llama.cpp puts the class token behind the patches "
            "although it counts from the front, so that every patch would have its neighbour's "
            "place (its issue 25814, seen in build 11549)"
        )
    if several and (form is not MLP or shape.norm or spec.vision.normed):
        found.append(
            f"model.vision.feature_layer is {layers}: of several layers llama.cpp runs raw ones, "
            "patch by patch, and no norm on them"
        )
    elif form is MLP and shape.norm and spec.vision.normed:
        found.append("model.vision.normed is true and the projector has a norm of its own: "
                     "llama.cpp has one")  # fmt: skip
    side = (image_size or vision.image_size) // vision.patch_size
    if side % shape.factor:
        found.append(
            f"model.projector.factor is {shape.factor} and the grid has {side} x {side} patches: "
            "llama.cpp takes pictures whose blocks are whole"
        )
    if shape.layers and spec.projector.heads != vision.num_attention_heads:
        found.append(
            f"model.projector.heads is {spec.projector.heads} and the encoder has "
            f"{vision.num_attention_heads}: llama.cpp has one number for both"
        )
    if shape.layers and vision.hidden_act == "quick_gelu":
        found.append("the projector's blocks have gelu and the encoder's quick_gelu: llama.cpp has "
                     "one activation for both")  # fmt: skip
    return found


def vision_file(
    model: LucidaModel, processor: LucidaProcessor
) -> tuple[str, Mapping[str, Any], dict[str, Tensor]]:
    """Architecture, metadata and tensors of the encoder and the projector."""
    config, policy = model.vision.model.config, processor.image_policy
    shape = shape_of(model.config.model_spec)
    depth = config.num_hidden_layers + shape.layers
    tensors = encoder_tensors(model)
    form = form_of(shape, config)
    # Layers count from the end of the encoder as it is cut: -1 is its last hidden state.
    places = [depth + 1 + layer for layer in model.vision.layers]
    tensors |= projector_tensors(
        model.projector, form, shape, places, model.language.config.hidden_size
    )
    metadata = {
        "clip_has_vision_encoder": True,
        "clip_projector_type": form.name,
        "vision_use_gelu": config.hidden_act != "quick_gelu",
        "vision_image_size": policy.size,
        "vision_patch_size": config.patch_size,
        "vision_embedding_length": config.hidden_size,
        "vision_feed_forward_length": config.intermediate_size,
        "vision_block_count": depth,
        "vision_head_count": config.num_attention_heads,
        "vision_attention_layernorm_eps": config.layer_norm_eps,
        "vision_projection_dim": model.language.config.hidden_size,
        "vision_image_mean": [float(each) for each in policy.mean],
        "vision_image_std": [float(each) for each in policy.std],
    }
    if form is MLP:
        metadata["clip.vision.feature_layer"] = sorted(places)
    else:
        metadata["clip.vision.projector.scale_factor"] = shape.factor
    if form is INTERNVL:
        # One view of every picture: no tiles, and a grid of none for larger ones.
        metadata["clip.vision.preproc_min_tiles"] = 0
        metadata["clip.vision.preproc_max_tiles"] = 0
        metadata["clip.vision.image_grid_pinpoints"] = [0, 0]
    return "clip", metadata, tensors


def encoder_tensors(model: LucidaModel) -> dict[str, Tensor]:
    """Weights of the encoder, and behind its layers those of the projector's blocks."""
    encoder = model.vision.model
    depth = encoder.config.num_hidden_layers
    tensors = {}
    for name, value in encoder.state_dict().items():
        if named := vision_name(name, "encoder.layers.", 0, VISION_NAMES):
            tensors[named] = value
    for name, value in model.projector.state_dict().items():
        if named := vision_name(name, "blocks.", depth, BLOCK_NAMES):
            tensors[named] = value
    if "v.class_embd" in tensors:  # it stands in front here, and behind the patches there
        table = tensors["v.position_embd.weight"]
        tensors["v.position_embd.weight"] = table.roll(-1, 0)
    return tensors


def vision_name(name: str, layers: str, first: int, names: Mapping[str, str]) -> str | None:
    """llama.cpp's name of a weight; None for what no feature needs (pooling, numbers of positions).

    layers: what the names of layers begin with; the first of them is layer `first` there.
    """
    front, within = "", name.removeprefix("vision_model.")
    if within.startswith(layers):
        number, _, within = within.removeprefix(layers).partition(".")
        front = f"v.blk.{first + int(number)}."
    for theirs, ours in names.items():
        if within == theirs or within.startswith(f"{theirs}."):
            return front + ours + within.removeprefix(theirs)
    return None


def projector_tensors(
    projector: nn.Module, form: Form, shape: Shape, places: list[int], width: int
) -> dict[str, Tensor]:
    """The norm and the two matrices of a form. Features of several layers stand there by ascending
    layer, so the first matrix is put into that order. width: of the language model."""
    parts = [part for name, part in projector.named_modules() if not name.startswith("blocks.")]
    pairs = [weight_and_bias(part) for part in parts if isinstance(part, nn.Linear)]
    tensors = {}
    for norm in parts:
        if isinstance(norm, nn.LayerNorm):
            tensors |= {f"{form.norm}.{name}": value for name, value in norm.state_dict().items()}
    weight, bias = pairs[0] if pairs else (torch.eye(width), torch.zeros(width))
    blocks = weight.chunk(len(places), dim=1)  # columns of each feature layer
    weight = torch.cat([blocks[number] for number in np.argsort(places)], dim=1)
    if shape.mean:
        count = shape.factor**2
        weight = weight.repeat(1, count) / count
    if shape.matrices < 2:
        pairs = as_two(weight, bias)
    else:
        pairs[0] = weight, bias
    for name, (weight, bias) in zip(form.matrices, pairs, strict=True):
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return tensors


def weight_and_bias(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Both, zeros where there is no bias."""
    weight, bias = linear.weight.detach(), linear.bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()


def as_two(weight: Tensor, bias: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One matrix as two with GELU between them: gelu(x) - gelu(-x) = x."""
    one = torch.eye(len(weight), dtype=weight.dtype)
    return [
        (torch.cat([weight, -weight]), torch.cat([bias, -bias])),
        (torch.cat([one, -one], dim=1), torch.zeros_like(bias)),
    ]
