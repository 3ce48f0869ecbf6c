"""Who sees whom: attention masks as predicates over the fields of a batch.

A predicate takes the fields of a query position and of a key position and says whether the query
may attend to the key. All masks share one rule:

    same segment  and  key's branch is 0 or the query's own  and  key not after the query

A new mask is one function and one line in `MASKS`.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor, arange

from lucida.core.registry import Table
from lucida.data.sample import Batch


class Fields(NamedTuple):
    """What a mask may ask about a position. All four have the same shape, or broadcast together.

    segment: which packed sample, 0 = padding. branch: 0 = the shared stem. order: index within the
    row. image: 0 = text, k = visual token of the segment's k-th image.
    """

    segment: Tensor
    branch: Tensor
    order: Tensor
    image: Tensor

    def queries(self) -> Fields:
        """The fields with a new last axis, to be compared with `keys()`."""
        return Fields(*(field.unsqueeze(-1) for field in self))

    def keys(self) -> Fields:
        """The fields with a new second last axis."""
        return Fields(*(field.unsqueeze(-2) for field in self))


def causal(query: Fields, key: Fields) -> Tensor:
    """Each position sees the earlier ones of its segment, on the stem and on its own branch.

    Worked example, one segment: image of two visual tokens, then two isolated questions.

        token         I  I  a  b  a  b          I I a b a b   (keys)
        branch        0  0  1  1  2  2      I   x . . . . .
        order         0  1  2  3  4  5      I   x x . . . .
        image         1  1  0  0  0  0      a   x x x . . .
                                            b   x x x x . .
                                            a   x x . . x .
                                            b   x x . . x x
    """
    together = (query.segment == key.segment) & (query.segment > 0)
    reachable = (key.branch == 0) | (key.branch == query.branch)
    return together & reachable & (key.order <= query.order)


def image_block(query: Fields, key: Fields) -> Tensor:
    """As `causal`, and the visual tokens of one image also see the later ones of the same image.

    Worked example, as above but with two images (of two and one visual tokens) and one question:

        token         I  I  J  a  b             I I J a b     (keys)
        image         1  1  2  0  0         I   x x . . .     the first sees the second
                                            I   x x . . .
                                            J   x x x . .     a later image sees the earlier one
                                            a   x x x x .
                                            b   x x x x x

    Reference: Improved Alignment of Modalities in Large Vision Language Models, 2025,
    arXiv 2503.19508.
    """
    same_image = (query.segment == key.segment) & (query.image == key.image) & (query.image > 0)
    return causal(query, key) | (same_image & (query.segment > 0))


MASKS = Table(
    "attention mask",
    {
        "causal": "lucida.model.masks:causal",
        "image_block": "lucida.model.masks:image_block",
    },
)


def fields_of(batch: Batch) -> Fields:
    """The mask fields of a batch, each of shape [rows, length]."""
    length = batch.segment.shape[1]
    order = arange(length, device=batch.segment.device).expand_as(batch.segment)
    return Fields(batch.segment, batch.branch, order, batch.image)


def dense_mask(fields: Fields, name: str) -> Bool[Tensor, "rows 1 length length"]:
    """The whole mask, True where a query (second last axis) may attend to a key (last axis).

    Padding attends to itself and to nothing else, so that no softmax row is empty (NaN). Costs
    rows x length² bytes: for tests and small batches; training uses `attention.Layout`.
    """
    query, key = fields.queries(), fields.keys()
    allowed = MASKS[name](query, key)
    padding = (query.segment == 0) & (query.order == key.order)
    return (allowed | padding).unsqueeze(1)
