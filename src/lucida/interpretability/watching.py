"""One forward of a model in which every layer's attention is seen, and heads can be put to zero.

    Batch ─visual, embed─▶ layers, each attending by a `Watcher` ─▶ hidden states, attention

The masks are the model's own (`model.masks`); the watcher is a way to attend like the others
(`model.attention`), so nothing of the language model is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.core.spec import MaskName
from lucida.data.sample import Batch
from lucida.model.attention import Layout
from lucida.model.cross_attention import decoder_layers
from lucida.model.masks import Fields, dense_mask, fields_of
from lucida.model.vlm import LucidaModel

Head = tuple[int, int]
"""Layer and head, both counted from 0."""


class Watcher:
    """A way to attend that keeps what it saw, or leaves heads out.

    asking: positions whose attention is kept, by layer [heads, asking, length]; None keeps nothing.
    mean: where attention is kept, also of all positions, averaged over heads [length, length].
    off: for each row the head whose result is put to zero.
    """

    def __init__(
        self,
        fields: Fields,
        mask: str,
        asking: Tensor | None = None,
        off: Sequence[Head] = (),
    ) -> None:
        self.allowed = dense_mask(fields, mask)
        self.asking, self.off = asking, off
        self.layer = 0
        self.kept: list[Tensor] = []
        self.mean: list[Tensor] = []

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Tensor:
        """Attention of whole rows; query, key, value [rows, heads, length, size]."""
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        # Kept for the first row alone: where attention is looked at, the batch is one question.
        if self.asking is not None:
            self.keep(query[0], key[0], scale)
        result = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.allowed, dropout_p=dropout, scale=scale
        )
        for row, (layer, head) in enumerate(self.off):
            if layer == self.layer:
                result[row, head] = 0
        self.layer += 1
        return result.transpose(1, 2)

    def keep(self, query: Tensor, key: Tensor, scale: float) -> None:
        """The weights of one layer, head by head: [length, length] of all heads at once may be
        more than fits."""
        allowed = self.allowed[0, 0]
        mean = torch.zeros(allowed.shape, device=query.device)
        kept = []
        for asks, read in zip(query.float(), key.float(), strict=True):
            scores = (asks @ read.T * scale).masked_fill(~allowed, -math.inf)
            weights = scores.softmax(-1)
            mean += weights / len(query)
            kept.append(weights[self.asking])
        self.kept.append(torch.stack(kept).cpu())
        self.mean.append(mean.cpu())


@dataclass(eq=False)
class States:
    """What comes out of each layer, caught on its way [length, width], before the first layer
    included; tail: what the language model still does behind its last layer (its final norm)."""

    layers: list[Tensor] = field(default_factory=list)
    tail: list[nn.Module] = field(default_factory=list)

    def finish(self, states: Tensor) -> Tensor:
        """States of any layer as if it were the last one: ready for the output matrix."""
        for module in self.tail:
            states = module(states)
        return states


@torch.no_grad()
def watch(
    model: LucidaModel,
    batch: Batch,
    visual: list[Tensor] | None,
    mask: MaskName,
    asking: Tensor | None = None,
    off: Sequence[Head] = (),
    states: States | None = None,
    sizes: Sequence[tuple[int, int]] = (),
) -> tuple[Tensor, Watcher]:
    """Last hidden states [rows, length, width] of a batch of one sample a row, and what was seen.

    visual: visual tokens of all images in their order, as `model.visual` gives them; sizes: width
    and height of each. ModelError
    where layers of the language model do not attend in the usual way, once each.
    """
    fields = fields_of(batch)
    layout = Layout(fields, mask, "dense")
    watcher = Watcher(fields, mask, asking, off)
    layout.way = watcher
    embedded = model.embed(batch.input_ids, batch.image > 0, visual)
    placing = model.placing(batch.position, batch.image > 0, sizes)
    with placing, nullcontext() if states is None else _catching(model, states):
        output = model.language.base_model(
            inputs_embeds=embedded,
            position_ids=batch.position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
            layout=layout,
        )
    expected = len(decoder_layers(model.language)[1])
    if watcher.layer != expected:
        raise ModelError(
            "not every layer of this language model attends in the usual way, so its heads cannot"
            " be looked at",
            expected=f"{expected} layers",
            given=f"{watcher.layer} that attend",
            remedy="ask for occlusion alone: --show occlusion",
        )
    return output.last_hidden_state, watcher


@contextmanager
def _catching(model: LucidaModel, states: States) -> Iterator[None]:
    """Hooks that fill `states` within the block; the first row of the batch only."""
    owner, layers = decoder_layers(model.language)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        states.layers.append(given[0])

    def behind(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        states.layers.append((output if isinstance(output, Tensor) else output[0])[0])

    def last(module: nn.Module, args: tuple, output: object) -> None:
        # What stands beside the layers and is called behind the last of them: the final norm. What
        # is called in front (the embedding, rotary tables) finds the list shorter.
        if len(states.layers) == len(layers) + 1:
            states.tail.append(module)

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [layer.register_forward_hook(behind) for layer in layers]
    others = [child for child in owner.children() if child is not layers]
    hooks += [child.register_forward_hook(last) for child in others]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def roll_out(mean: Sequence[Tensor], asking: Tensor) -> Tensor:
    """Attention rolled out through all layers, with half of each layer's states passed on as they
    are: how much of each position there is in those that ask, [asking, length]; rows sum to 1.

    Reference: Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020,
    arXiv 2005.00928, section 3.
    """
    # Rows of the positions that ask, taken through the layers from the last to the first: a product
    # of [asking, length] with each, and never one of two whole matrices.
    flow = torch.eye(len(mean[0]))[asking.cpu()]
    for weights in reversed(mean):
        flow = 0.5 * flow + 0.5 * flow @ weights
    return flow
