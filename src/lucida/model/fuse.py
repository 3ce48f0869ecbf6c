"""Visual tokens take the places that the data side kept for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lucida.core.errors import ModelError


def fuse(
    embedded: Float[Tensor, "rows length width"],
    placeholder: Bool[Tensor, "rows length"],
    visual: list[Tensor],
) -> Float[Tensor, "rows length width"]:
    """The embeddings with every placeholder replaced by the next visual token, in reading order.

    `visual` are the visual tokens [tokens, width] of each image.

    Worked example, one image of two visual tokens v w:

        ids       <bos> <image> <image> What ?
        result      b      v       w     W   ?

    Raises ModelError when the counts differ: then lengths and placeholders were fixed for other
    images, another encoder or another image size than those given here.
    """
    where = placeholder.flatten().nonzero().squeeze(1)
    width = embedded.shape[-1]
    flat = torch.cat(visual) if visual else embedded.new_zeros(0, width)
    if len(where) != len(flat):
        counts = [len(image) for image in visual]
        each = " + ".join(map(str, counts[:8])) if len(set(counts)) > 1 else (*counts, 0)[0]
        raise ModelError(
            "the places kept in the text and the visual tokens differ in number",
            expected=f"{len(where)} (placeholders in the text)",
            given=f"{len(flat)} ({len(visual)} images of {each} visual tokens)",
            remedy="use the processor saved with this model and pass one image for each <image>",
        )
    rows = embedded.reshape(-1, width)
    return rows.index_copy(0, where, flat.to(rows.dtype)).view_as(embedded)


def reduce_visual(
    visual: list[Tensor] | None, reduced: Sequence[np.ndarray | None]
) -> list[Tensor] | None:
    """Of each image [tokens, width] the visual tokens that are left: the mean of all that go into
    one (`Tokens.reduced`), and itself, to the bit, where one goes alone.

    Worked example: of a b c d with (0, -1, 1, 0) two are left, (a + d) / 2 and c.
    """
    if not reduced or visual is None:
        return visual
    if len(reduced) != len(visual):
        raise ModelError(
            "it is not known for each image which of its visual tokens are left",
            expected=len(visual),
            given=len(reduced),
        )
    return [
        tokens if into is None else _means(tokens, into)
        for tokens, into in zip(visual, reduced, strict=True)
    ]


def _means(tokens: Float[Tensor, "tokens width"], into: np.ndarray) -> Tensor:
    if len(into) != len(tokens):
        raise ModelError(
            "the visual tokens of an image are not those of which some were to stay",
            expected=len(into),
            given=len(tokens),
        )
    stays = np.flatnonzero(into >= 0)
    counts = np.bincount(into[stays])
    if len(stays) == len(counts):  # nothing is joined: in the order of their numbers
        return tokens[torch.from_numpy(stays[into[stays].argsort()]).to(tokens.device)]
    number = torch.from_numpy(into[stays]).to(tokens.device)
    given = tokens[torch.from_numpy(stays).to(tokens.device)].float()
    sums = given.new_zeros(len(counts), tokens.shape[1]).index_add_(0, number, given)
    size = torch.from_numpy(counts).to(sums)
    return (sums / size[:, None]).to(tokens.dtype)
