"""Visual tokens take the places that the data side kept for them."""

from __future__ import annotations

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
