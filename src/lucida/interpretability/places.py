"""Which pixels of the original picture each visual token stands for.

    patch of an encoder ─take, fusion─▶ feature ─projector─▶ token of a view ─policy─▶ picture

A place is a box in pixels of the picture as it was given. It may reach beyond the picture where the
policy padded it. A token of an attentive encoder has read the whole view; its place is the patch
that it started from. Tokens that start from no patch (class tokens, means, line ends, learned
queries) have no place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lucida.data.policies import Box, Frame, ImagePolicy
from lucida.model.encoders.encoder import VisionEncoder, find_stride
from lucida.model.encoders.fusion import FusedEncoder, encoders_of
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

NOWHERE = (math.nan,) * 4
ONE_TO_ONE = ("linear", "mlp", "fused_mlp", "transformer", "identity")
"""Projectors that make one visual token of each feature."""
BLOCKS = ("downsample", "pixel_shuffle", "pool")
"""Projectors that make one of each block of factor x factor patches."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the visual tokens of one picture stand, in their order.

    boxes [tokens, 4]: x0, y0, x1, y1 in pixels of the picture, NaN for a token without a place.
    view [tokens]: which view it belongs to; names: of the views. seen: the part of the picture that
    the encoders are shown at all, in pixels. why: where no token has a place, the reason.
    """

    width: int
    height: int
    boxes: np.ndarray
    view: np.ndarray
    names: tuple[str, ...]
    seen: Box
    why: str | None = None

    @property
    def known(self) -> np.ndarray:
        """Which tokens have a place: [tokens]."""
        return ~np.isnan(self.boxes[:, 0])

    def paint(self, values: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Amounts of tokens [*any, tokens] spread evenly over their places: a map of the picture in
        `shape` cells, [*any, rows, columns], and the rest [*any] that lies on no pixel: on padding,
        or of tokens without a place. Map and rest sum to the values.

        Worked example: a picture of 2 x 1 pixels as two cells, a token of amount 4 whose place is
        (1, 0, 3, 1): the map is [0, 2], the rest is 2.
        """
        known = self.known
        down, across = self._shares(shape)
        maps = np.einsum("...t,tr,tc->...rc", values[..., known], down, across, optimize=True)
        return maps, values.sum(-1) - maps.sum((-2, -1))

    def average(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The mean value of the tokens whose places lie on each cell, weighted by how much of the
        cell they cover: [*any, rows, columns], NaN where no token has its place."""
        down, across = self._shares(shape)
        boxes = self.boxes[self.known]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        summed = np.einsum(
            "...t,tr,tc->...rc", values[..., self.known] * area, down, across, optimize=True
        )
        total = np.einsum("t,tr,tc->rc", area, down, across, optimize=True)
        return np.divide(summed, total, out=np.full(summed.shape, np.nan), where=total > 1e-9)

    def _shares(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """How much of each known place lies in each row and in each column of cells."""
        x0, y0, x1, y1 = self.boxes[self.known].T
        return (
            _overlaps(y0, y1, np.linspace(0, self.height, shape[0] + 1)),
            _overlaps(x0, x1, np.linspace(0, self.width, shape[1] + 1)),
        )


def _overlaps(begin: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of each interval that lies between two edges: [intervals, edges - 1]."""
    low = np.maximum(begin[:, None], edges[None, :-1])
    high = np.minimum(end[:, None], edges[None, 1:])
    return np.clip(high - low, 0, None) / (end - begin)[:, None]


def find_places(model: LucidaModel, processor: LucidaProcessor, width: int, height: int) -> Places:
    """Places of the visual tokens of a picture of this size, in the order of their placeholders.

    Of gated layers (`cross_attention`), which read the visual tokens of one square, those.
    """
    policies = (processor.image_policy, *processor.more_policies)
    policy, encoders = policies[0], encoders_of(model.vision)
    first, spec = encoders[0], model.config.model_spec.projector
    if policy.own_shape:
        features = [_grid_boxes(*model.arrangement.patches(width, height))]
    else:
        features = [_feature_boxes(*pair) for pair in zip(encoders, policies, strict=True)]
    views = policy.frames(width, height)
    seen = _bounds(
        [to_picture(policy, box, frame, width, height) for frame in views for box in features[0]],
        width,
        height,
    )
    count = _tokens_of_view(model, width, height)
    numbers = np.repeat(range(len(views)), count)
    names = tuple(name for name, _ in views)
    tokens = _token_boxes(spec, _order_features(model, features), features[0], first)
    if tokens is None or len(tokens) != count:
        why = f"tokens of the projector `{spec.kind}` stand for no places of the picture"
        boxes = np.full((len(numbers), 4), np.nan)
        return Places(width, height, boxes, numbers, names, seen, why)
    every = [
        [
            NOWHERE if token is None else to_picture(policies[token[0]], token[1], f, width, height)
            for token in tokens
        ]
        for f in views
    ]
    boxes, numbers = _arrange(model, every, (width, height))
    why = None
    if np.isnan(boxes).all():
        why = "its visual tokens stand for the whole view: a class token or a mean"
    return Places(width, height, boxes, numbers, names, seen, why)


def to_picture(policy: ImagePolicy, box: Box, frame: Frame, width: int, height: int) -> Box:
    """A box in shares of a view → pixels of the picture."""
    shown = frame[1]
    if shown is None:
        return policy.from_frame(box, width, height)
    x, y = shown[2] - shown[0], shown[3] - shown[1]
    return (
        (shown[0] + box[0] * x) * width,
        (shown[1] + box[1] * y) * height,
        (shown[0] + box[2] * x) * width,
        (shown[1] + box[3] * y) * height,
    )


def _grid_boxes(rows: int, columns: int, x: float = 0.0, y: float = 0.0) -> list[Box]:
    """Patches row by row in shares of their view; x, y: of one patch, if they do not fill it."""
    x, y = x or 1 / columns, y or 1 / rows
    return [
        (column * x, row * y, (column + 1) * x, (row + 1) * y)
        for row in range(rows)
        for column in range(columns)
    ]


@torch.no_grad()
def _feature_boxes(encoder: VisionEncoder, policy: ImagePolicy) -> list[Box]:
    """The patches of a square, row by row, in shares of it. What an encoder leaves over at the
    right and the bottom (6 of 384 pixels in patches of 14) is in none of them. A class token alone
    and a mean stand for the whole square."""
    if encoder.take in ("cls", "mean"):
        return [(0.0, 0.0, 1.0, 1.0)]
    blank = torch.zeros(1, 3, policy.size, policy.size).to(next(encoder.parameters()))
    patches = encoder(blank).shape[1] - (encoder.take == "cls_patches")
    side = math.isqrt(patches)
    # 384 pixels in patches of 14 are 27 a side: a step is 14 / 384, and not 1 / 27.
    step = min(find_stride(encoder.model.config, policy.size, patches) / policy.size, 1 / side)
    return _grid_boxes(side, side, step, step)


Feature = tuple[int, Box] | None
"""Which encoder's frame a box is in, and the box; None without a place."""


def _order_features(model: LucidaModel, boxes: list[list[Box]]) -> list[Feature]:
    """The places of all features of a view, in the order in which they come to the projector."""
    every: list[list[Feature]] = []
    pairs = zip(
        encoders_of(model.vision), boxes, strict=False
    )  # under `native` the first's are all
    for number, (encoder, own) in enumerate(pairs):
        if encoder.take in ("cls", "mean"):
            every.append([None])
        else:
            in_front: list[Feature] = [None] if encoder.take == "cls_patches" else []
            every.append([*in_front, *((number, box) for box in own)])
    if not isinstance(model.vision, FusedEncoder) or model.vision.fusion == "channels":
        return every[0]
    if model.vision.fusion == "tokens":
        return [feature for own in every for feature in own]
    return [feature for turn in zip(*every, strict=True) for feature in turn]


def _token_boxes(
    spec: object, features: list[Feature], patches: list[Box], encoder: VisionEncoder
) -> list[Feature] | None:
    """The places of a view's visual tokens; None where a projector has none or is not known."""
    if spec.kind in ONE_TO_ONE:
        return features
    if encoder.take != "patches":
        return None
    rows = len({box[1] for box in patches})
    columns = len(patches) // rows
    if spec.kind in BLOCKS:
        size = spec.factor
        down = [(r, min(r + size, rows)) for r in range(0, rows, size)]
        across = [(c, min(c + size, columns)) for c in range(0, columns, size)]
    elif spec.kind == "c_abstractor":  # adaptive pooling's own bins
        down, across = (
            [(k * n // spec.side, -(-(k + 1) * n // spec.side)) for k in range(spec.side)]
            for n in (rows, columns)
        )
    else:
        return None
    return [
        (0, (*patches[r0 * columns + c0][:2], *patches[(r1 - 1) * columns + c1 - 1][2:]))
        for r0, r1 in down
        for c0, c1 in across
    ]


def _tokens_of_view(model: LucidaModel, width: int, height: int) -> int:
    if model.cross_attention is not None:
        with torch.no_grad():
            weight = next(model.parameters())
            features = torch.zeros(1, model.config.patches, model.config.vision_width).to(weight)
            return model.project(features).shape[1]
    arrangement = model.arrangement
    own = arrangement.policy.own_shape
    return arrangement.count(width, height) if own else arrangement.tokens


def _arrange(
    model: LucidaModel, views: list[list[Box]], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and numbers of views in the order of the placeholders: arranged as the tokens are, line
    ends included."""
    # Boxes go the way of the tokens themselves: [views, tokens, 5] in place of [views, tokens,
    # width], so that tiles, crops of padding and line ends end up where their tokens do.
    numbers = [np.full((len(view), 1), k) for k, view in enumerate(views)]
    every = torch.tensor(
        np.stack([np.hstack([view, n]) for view, n in zip(views, numbers, strict=True)])
    )
    ends = torch.tensor([math.nan] * 4 + [-1.0], dtype=every.dtype)
    placed = model.arrangement.arranged(every, size, ends).numpy()
    return placed[:, :4], placed[:, 4].astype(int)


def _bounds(boxes: list[Box], width: int, height: int) -> Box:
    """The part of the picture that these boxes lie in."""
    x0, y0, x1, y1 = np.array(boxes).T
    return (
        max(0.0, float(x0.min())),
        max(0.0, float(y0.min())),
        min(float(width), float(x1.max())),
        min(float(height), float(y1.max())),
    )
