"""A trained model held in fewer bits, to be asked.

    int8   each matrix in 8 bits, a scale a row; what goes in is rounded to float16, then to 8 bits
    int4   each matrix in 4 bits (NF4), a scale for each 64 values; products in the own precision

The linear layers of the language model's decoder are held so: nearly all weights of a large model.
Embeddings, output matrix, projector, gated layers and vision encoder stay as they are.

Reference: Dettmers et al., LLM.int8(), 2022, arXiv 2208.07339, section 3; Dettmers et al., QLoRA,
2023, arXiv 2305.14314, section 3.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from lucida.core.errors import ModelError, suggestion
from lucida.model.cross_attention import decoder_layers

if TYPE_CHECKING:
    from lucida.model.vlm import LucidaModel

Weights = Literal["int8", "int4"]
ROWS, BLOCK = 32, 64
"""Sides of a matrix are multiples of the one, its numbers of the other, or it stays as it is."""
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


def check_weights(weights: str | None) -> None:
    """Refuse an unknown form, or a missing package, before a model is loaded."""
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise ModelError(
            f"weights cannot be held as `{weights}`", remedy=suggestion(weights, WEIGHTS)
        )
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as problem:
        raise ModelError(
            "holding weights in fewer bits needs the package bitsandbytes",
            given=str(problem),
            remedy="pip install 'lucida[quantize]', or leave --weights out",
        ) from problem


def hold_in_few_bits(model: LucidaModel, weights: Weights | None) -> None:
    """Exchange the decoder's linear layers, on the device on which the model is; with None nothing
    happens. Layers that are held in fewer bits already stay. The model can be asked, not trained or
    saved."""
    check_weights(weights)
    if weights is None:
        return
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(is_no_cast)
    for layer in decoder_layers(model.language)[1]:
        for name, module in list(layer.named_modules()):
            if (
                type(module) is nn.Linear  # no subclass: those are in few bits already
                and not module.weight.numel() % BLOCK
                and not any(side % ROWS for side in module.weight.shape)
            ):
                layer.set_submodule(name, shrink(module, weights))


def is_no_cast(record: logging.LogRecord) -> bool:
    """Leaves out what bitsandbytes says at every product: that its input becomes float16."""
    return "inputs will be cast" not in record.getMessage()


@torch.no_grad()
def shrink(plain: nn.Linear, weights: Weights) -> nn.Module:
    """The layer in fewer bits. Matrices are rounded when they come to a device."""
    import bitsandbytes as bnb

    shape = plain.in_features, plain.out_features, plain.bias is not None
    if weights == "int8":
        # Columns of inputs with numbers beyond 6 stay in float16: section 3.2 of the paper.
        held = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        held.weight = bnb.nn.Int8Params(
            plain.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False
        )
    else:
        kind = plain.weight.dtype
        held = bnb.nn.Linear4bit(*shape, compute_dtype=kind, quant_type="nf4")
        held.weight = bnb.nn.Params4bit(
            plain.weight.detach().cpu(), requires_grad=False, quant_type="nf4", module=held
        )
    if plain.bias is not None:
        held.bias = nn.Parameter(plain.bias.detach(), requires_grad=False)
    return held.to(plain.weight.device).eval()


def count_bytes(module: nn.Module) -> int:
    """Bytes of all weights and of the scales beside them."""
    total = 0
    for each in module.modules():
        for weight in each.parameters(recurse=False):
            total += weight.nbytes
            state = getattr(weight, "quant_state", None)
            scales = getattr(weight, "SCB", None)
            total += 0 if state is None else state.absmax.nbytes
            total += 0 if scales is None else scales.nbytes
    return total
