"""Attention for packed and branched batches: one layout and one mask for all layers.

    fields of the batch ─▶ Layout ─▶ the same for every layer:  segments   each segment by itself
                                                                flex       blocks of the whole row
                                                                dense      the whole row, one mask

`Layout` travels through the language model as the keyword argument `layout` to the attention
implementation "lucida", which is registered with transformers when this module is imported.
Without a layout (generation, plain forward) "lucida" is transformers' own SDPA with its own masks.

The trap that this avoids: transformers isolates packed samples only while `attention_mask` and
`past_key_values` are both None; a mask of ones or the default cache silently lets the samples see
each other. Here isolation is in the layout and depends on neither.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lucida.core.errors import ModelError
from lucida.core.registry import Table
from lucida.model.masks import Fields, dense_mask
from lucida.model.segments import segments_of

NAME = "lucida"

FLEX_FROM = 1024
"""`auto` takes flex on a GPU from this length of the longest segment on. Below it a segment has few
blocks to leave out. By reasoning: no GPU was at hand to measure on."""

WAYS = Table(
    "way to attend",
    {
        "segments": "lucida.model.segments:Segments",
        "flex": "lucida.model.flex:Flex",
        "dense": "lucida.model.attention:Dense",
    },
)
"""How the attention of a packed batch is computed; the results are equal. Each is made of fields
and the name of a mask."""


class Way(Protocol):
    """What a layer asks of a way to attend."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Float[Tensor, "rows length heads size"]:
        """query, key, value: [rows, heads, length, size]; keys may have fewer heads."""


class Layout:
    """Where every segment of a batch stands and what its positions may see; shared by all layers.

    fields: those it was made of; gated layers read them too (cross_attention.py).
    longest: length of the longest segment. how: a name in `WAYS`, or `auto` (see `by_length`).
    """

    def __init__(self, fields: Fields, mask: str, how: str = "segments") -> None:
        self.fields = fields
        self.rows, self.length = fields.segment.shape
        self.longest = int(segments_of(fields)[2][0])  # lengths fall
        self.how = by_length(fields, self.longest) if how == "auto" else how
        self.way: Way = WAYS[self.how](fields, mask)
        self.witnesses: list[nn.Module] | None = None
        """When a list: every attention module that uses this layout adds itself (language.py)."""


def by_length(fields: Fields, longest: int) -> str:
    """`auto`: flex for long segments on a GPU, else by segment."""
    return "flex" if fields.segment.is_cuda and longest >= FLEX_FROM else "segments"


def trained_way(
    wanted: str, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> str:
    """How a language model will attend in training: what is `wanted`, proved to work here.

    `auto` stays on a GPU where flex works (and then goes `by_length`), else becomes `segments`.
    ModelError for `flex` where flex cannot train.
    """
    if wanted not in ("auto", "flex") or (wanted == "auto" and device.type != "cuda"):
        return "segments" if wanted == "auto" else wanted
    from lucida.model.flex import check_flex

    try:
        check_flex(config, device, dtype)
    except ModelError as problem:
        if wanted == "flex":
            raise
        from lucida.core.progress import say

        say(f"attention by segment: {str(problem).splitlines()[0]}")
        return "segments"
    return wanted


class Dense:
    """One SDPA call over whole rows: rows x length² bytes of mask, and nothing to gather.

    The plainest of the ways, for short rows and to hold the others against.
    """

    def __init__(self, fields: Fields, mask: str) -> None:
        self.allowed = dense_mask(fields, mask)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Float[Tensor, "rows length heads size"]:
        """Attention of packed rows. query, key, value: [rows, heads, length, size]."""
        groups = query.shape[1] // key.shape[1]
        keys, values = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        result = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=self.allowed, dropout_p=dropout, scale=scale
        )
        return result.transpose(1, 2)


# Compiled layers leave the graph here: what a way does follows from the segments of the batch, and
# would be compiled anew for nearly every one.
@torch.compiler.disable
def layout_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float
) -> Float[Tensor, "rows length heads size"]:
    """Attention of packed rows. query, key, value: [rows, heads, length, size]."""
    if torch.is_autocast_enabled(query.device.type):
        # Softmax inside autocast would go to fp32 and back, at twice the memory.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        return layout.way.attend(query, key, value, scale, dropout)


def lucida_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    Raises ModelError for what a layout cannot honour: a sliding window shorter than the longest
    segment, soft-capped scores, a position bias, or a key-value cache.
    """
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    window = kwargs.get("sliding_window")
    # By places, which is strict: behind a shared stem, branches are nearer to it by position.
    if window is not None and window < layout.longest:
        raise ModelError(
            "the language model's sliding window is shorter than the longest sample",
            expected=f"at most {window} positions",
            given=layout.longest,
            remedy=f"lower model.language.max_length to {window}",
        )
    for name in ("softcap", "position_bias"):
        if kwargs.get(name) is not None:
            raise ModelError(
                f"{type(module).__name__} attends with {name}, which packed batches do not support",
                remedy="choose another language model",
            )
    if key.shape[2] != layout.length or query.shape[2] != layout.length:
        raise ModelError(
            "a packed forward takes no key-value cache",
            expected=f"{layout.length} keys",
            given=f"{key.shape[2]} keys for {query.shape[2]} queries",
        )
    if layout.witnesses is not None:
        layout.witnesses.append(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling  # some models scale otherwise
    return layout_attention(query, key, value, layout, scale, dropout), None


AttentionInterface.register(NAME, lucida_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
