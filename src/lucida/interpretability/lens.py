"""The words that visual tokens already say: each layer's states read by the model's own output.

Reference: nostalgebraist, interpreting GPT: the logit lens, 2020; for visual tokens Neo et al.,
Towards Interpreting Visual Information Processing in Vision-Language Models, 2024,
arXiv 2410.07149, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lucida.interpretability.watching import States
from lucida.model.vlm import LucidaModel

TOP = 3
"""Words that are kept of each visual token."""
CHUNK_LOGITS = 2**24
"""Most logits alive at once: 64 MiB in fp32."""


@dataclass(frozen=True, eq=False)
class Lens:
    """By layer (0: before the first one), for each visual token: the likeliest words.

    words, chances [layers + 1, visual, TOP]: ids and probabilities, the likeliest first. answer
    [layers + 1, visual, tokens]: the probability of each token of the answer.
    """

    words: np.ndarray
    chances: np.ndarray
    answer: np.ndarray


@torch.no_grad()
def read_lens(model: LucidaModel, states: States, visual: Tensor, answer: Tensor) -> Lens:
    """visual: positions of visual tokens. answer: ids of the answer's tokens."""
    size = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    words, chances, said = [], [], []
    for layer in states.layers:
        found = []
        for part in layer[visual].split(size):
            shares = model.logits(states.finish(part)).float().softmax(-1)  # [tokens, vocabulary]
            top = shares.topk(min(TOP, shares.shape[-1]), dim=-1)
            found.append((top.indices.cpu(), top.values.cpu(), shares[:, answer].cpu()))
        for kept, parts in zip((words, chances, said), zip(*found, strict=True), strict=True):
            kept.append(torch.cat(parts))
    return Lens(*(torch.stack(each).numpy() for each in (words, chances, said)))
