"""How near visual tokens and words are to each other in each layer of the language model.

VILA's hypothesis: a model that learns from examples in its context has visual tokens that lie near
words in the *deep* layers, and this comes from training the language model on images.

Reference: Lin et al., VILA: On Pre-training for Visual Language Models, 2023, arXiv 2312.07533,
section 3.1 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.spec import MaskName
from lucida.data.sample import Batch
from lucida.model.vlm import LucidaModel
from lucida.training.blocks import blocks


def chamfer(visual: Float[Tensor, "tokens width"], text: Float[Tensor, "length width"]) -> float:
    """Chamfer distance of two sets of vectors on the cosine: 0 when each has its like in the other.

    The mean over both sets of 1 - cosine to the nearest vector of the other set; 2 when all are
    opposite. Worked example: visual (1, 0) and (0, 1), text (2, 0): the nearest cosines are 1 and 0
    for the visual ones and 1 for the text, so ((0 + 1) / 2 + 0) / 2 = 0.25.
    """
    near = (
        functional.normalize(visual.float(), dim=-1) @ functional.normalize(text.float(), dim=-1).T
    )
    return float((2 - near.amax(1).mean() - near.amax(0).mean()) / 2)


def alignment(model: LucidaModel, batch: Batch, mask: MaskName | None = None) -> list[float]:
    """Chamfer distance between visual tokens and text after each layer, the first layer first.

    Taken sample by sample (each text with its own images), then the mean. Samples without images
    or without text do not count; the list is empty when none is left.
    """
    with watch_layers(model) as states, torch.no_grad():
        model.hidden(batch, mask)
    sums, counted = [0.0] * len(states), 0
    for row in range(len(batch.segment)):
        for segment in batch.segment[row].unique().tolist():
            inside = batch.segment[row] == segment
            visual, text = inside & (batch.image[row] > 0), inside & (batch.image[row] == 0)
            if segment == 0 or not bool(visual.any()) or not bool(text.any()):
                continue
            counted += 1
            for layer, state in enumerate(states):
                # [visual tokens, width] and [text tokens, width] of one sample.
                sums[layer] += chamfer(state[row][visual], state[row][text])
    return [each / counted for each in sums] if counted else []


@contextmanager
def watch_layers(model: LucidaModel) -> Iterator[list[Tensor]]:
    """The output of every layer of the language model, filled while the model runs."""
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: object) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    layers = blocks(model.language).values()
    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
