"""The contract between data and model: what a sample is, what a batch is.

A `Sample` is what a source yields: images and turns of text, nothing tokenised. `Tokens` is one
sample after the chat template: integers per position that carry all meaning. A `Batch` is many of
them side by side. Attention masks, position ids, the loss, packing and the order of images derive
from these fields and from nothing else.

    Sample ──chat──▶ Tokens ──collate──▶ Batch ──▶ model
    images, turns    segment-free        segment, rows, pixels

Worked example: one image (2 visual tokens), two isolated questions, answers supervised.

    input_ids   <bos>  I   I   Q1  A1  <eos>  Q2  A2  <eos>
    branch        0    0   0   1   1    1     2   2    2
    position      0    1   2   3   4    5     3   4    5
    image         0    1   1   0   0    0     0   0    0
    target        -    -   -   A1 <eos> -     A2 <eos> -

`target[i]` is the token that the model should predict *at* position i (already shifted): no other
code shifts labels again. The first token of a branch is never a target when there are several
branches, because the stem's last position would need two answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from PIL import Image as PillowImage

IGNORED = -100
"""The target of a position that is not supervised."""

Role = Literal["system", "user", "assistant", "text"]


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where one image comes from; nothing is decoded before `load`.

    `origin` names the file or generator for error messages. `key` identifies the content: equal
    keys mean equal pixels (the feature cache relies on it). `load` gives an RGB Pillow image;
    `measure`, where there is one, gives its width and height without decoding it
    (`images.image_size` asks whichever there is, once). `smaller((width, height))`, where there is
    one, may give a picture of fewer pixels, but of no fewer than that, and faster.
    """

    origin: str
    key: str
    load: Callable[[], PillowImage.Image]
    measure: Callable[[], tuple[int, int]] | None = None
    smaller: Callable[[tuple[int, int]], PillowImage.Image] | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """Stands in a turn where image number `index` (0-based, of the sample) is shown."""

    index: int


@dataclass(frozen=True, slots=True)
class BoxPart:
    """A box in pixels of the *original* image `index`; becomes text in the frame the model sees."""

    index: int
    x0: float
    y0: float
    x1: float
    y1: float


Part = str | ImagePart | BoxPart


def is_blank(parts: Iterable[Part]) -> bool:
    """Whether nothing is said: no parts at all, or white space alone."""
    return all(isinstance(part, str) and not part.strip() for part in parts)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says. Role `text` is a document: no template around it, all of it supervised
    unless the loss mode says otherwise. Strings that stand side by side are one text; in a document
    the first one behind an image is the sentence that belongs to it."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Images and turns as a source yields them.

    `stem` is shared (images, system text); each branch is a conversation or question that sees the
    stem and itself, never another branch. An ordinary conversation has one branch and an empty or
    image-only stem. `origin` says where the record stands ("file.json: record 17").
    """

    origin: str
    images: tuple[ImageSource, ...] = ()
    stem: tuple[Turn, ...] = ()
    branches: tuple[tuple[Turn, ...], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One sample as integers; all arrays have length n and dtype int64.

    branch: 0 stem, 1.. branches in order. position: rotary position, restarting after the stem in
    every branch; what follows a token stands one behind it, except within a picture, where
    `language.positions` decides (`model.arrangement`). image: 0 text, k for a placeholder of the
    sample's k-th image (1-based). target: next token or IGNORED. The placeholders of an image are
    one contiguous run, or one for each of its tiles with nothing between them but the names of the
    tiles (policy `split`), which are text (image 0) and never a target.

    reduced: how the visual tokens of each image become fewer (`model.reduction`): int64 [its visual
    tokens], the number of the one that each goes into, counted among those of its image that are
    left, or -1 for one that is taken away; None where all stay, empty where they do so everywhere.
    Positions then have gaps, and `image` marks what is left.
    """

    origin: str
    images: tuple[ImageSource, ...]
    input_ids: np.ndarray
    branch: np.ndarray
    position: np.ndarray
    image: np.ndarray
    target: np.ndarray
    reduced: tuple[np.ndarray | None, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        """Positions with a target."""
        return int((self.target != IGNORED).sum())

    @property
    def visual(self) -> int:
        """Placeholders of images."""
        return int((self.image > 0).sum())

    def behind(self, cut: int) -> int:
        """The position of what is put behind the first `cut` tokens, of which none is in the midst
        of a picture."""
        if self.reduced and cut < len(self):  # the last visual tokens may be missing in front of it
            return int(self.position[cut])
        return int(self.position[cut - 1]) + 1 if cut else 0


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What is seen of images, as pixels or as features, whatever their shapes.

    A picture is one view (a square, or a rectangle of its own shape) or several (tiles and an
    overview). `values` is flat and holds all of them: image after image as the first encoder sees
    them, then as the next one does. `shapes[e][i]` is what stands there of image i for encoder e:
    (views, 3, height, width) of pixels, (views, patches, width) of features, which are always of
    one encoder (`e` is 0). Views number k of different encoders show the same part of the picture.
    `sizes[i]` is the width and height of the whole picture, from which the number and the places of
    its visual tokens follow; (0, 0) where they do not, and it is not known.

    Worked example: a picture in 3 tiles of 2 x 2 pixels and one in 1 tile. `shapes` is
    (((3, 3, 2, 2), (1, 3, 2, 2)),), and of the 48 values the first 36 are the first picture's.
    """

    values: torch.Tensor
    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """Images."""
        return len(self.sizes)

    def encoders(self) -> list[list[torch.Tensor]]:
        """What each encoder sees of each image, in their shapes; nothing is copied."""
        parts = iter(self.values.split([math.prod(s) for each in self.shapes for s in each]))
        return [[next(parts).view(shape) for shape in each] for each in self.shapes]

    def together(self) -> list[torch.Tensor]:
        """For each encoder all its views as one tensor [views, ...], nothing copied; only where
        each encoder's views are of one shape."""
        wholes = [(sum(s[0] for s in each), *each[0][1:]) for each in self.shapes]
        parts = self.values.split([math.prod(whole) for whole in wholes])
        return [part.view(whole) for part, whole in zip(parts, wholes, strict=True)]

    def images(self) -> list[torch.Tensor]:
        """What the first encoder sees of each image, or the features of each."""
        return self.encoders()[0]

    def to(self, *args: Any, **kwargs: Any) -> Views:
        """The same on another device or in another dtype; arguments as of `Tensor.to`."""
        return Views(self.values.to(*args, **kwargs), self.shapes, self.sizes)

    def select(self, numbers: Sequence[int]) -> Views:
        """These images, in this order; a number may come several times."""
        chosen = [[images[n] for n in numbers] for images in self.encoders()]
        return Views.of(chosen, [self.sizes[n] for n in numbers])

    @staticmethod
    def of(encoders: Sequence[Sequence[torch.Tensor]], sizes: Sequence[tuple[int, int]]) -> Views:
        """Of tensors [views, ...] for each encoder and image."""
        import torch

        parts = [image.flatten() for images in encoders for image in images]
        values = torch.cat(parts) if parts else torch.empty(0)
        shapes = tuple(tuple(tuple(image.shape) for image in images) for images in encoders)
        return Views(values, shapes, tuple(sizes))

    @staticmethod
    def joined(parts: Sequence[Views]) -> Views:
        """All images of the parts, one part after the other."""
        encoders = zip(*(part.encoders() for part in parts), strict=True)
        sizes = chain.from_iterable(part.sizes for part in parts)
        return Views.of([list(chain.from_iterable(images)) for images in encoders], list(sizes))

    @staticmethod
    def read(given: torch.Tensor | Views) -> Views:
        """Also of one tensor, as other programs have them: pixels [images, 3, height, width] or
        [images, views, 3, height, width], or features [images, patches, width]; for one encoder,
        of pictures whose sizes are not known."""
        if isinstance(given, Views):
            return given
        whole = given if given.ndim == 5 else given[:, None]
        shape, many = tuple(whole.shape[1:]), len(whole)
        return Views(whole.reshape(-1), ((shape,) * many,), ((0, 0),) * many)


@dataclass(slots=True, eq=False)
class Batch:
    """Samples side by side: the only thing that crosses from data to model.

    All integer fields are int64 of shape [rows, length]. segment: which packed sample of its row,
    1-based, 0 = padding. branch, position, image, target: as in `Tokens` (image counts within its
    segment). Exactly one of `pixel_values` and `features` is given when there are images, none
    otherwise; images are ordered as their placeholders are met row by row, left to right. origins,
    sources: of every sample, row by row; `sources` may be empty. weight, float32 [rows, length]:
    how much a supervised position counts in the loss; None is 1 everywhere. pairs: what makes the
    loss one of pairs of answers (`lucida.training.preference.Pairs`). reduced: as in `Tokens`, of
    all images in their order.
    """

    input_ids: torch.Tensor
    segment: torch.Tensor
    branch: torch.Tensor
    position: torch.Tensor
    image: torch.Tensor
    target: torch.Tensor
    pixel_values: Views | None = None
    features: Views | None = None
    origins: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    weight: torch.Tensor | None = None
    pairs: Any = None
    reduced: tuple[np.ndarray | None, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {}
        for name in ("input_ids", "segment", "branch", "position", "image", "target"):
            moved[name] = getattr(self, name).to(device, non_blocking=True)
        for name in ("pixel_values", "features", "weight"):
            value = getattr(self, name)
            moved[name] = None if value is None else value.to(device, non_blocking=True)
        kept = ("origins", "sources", "pairs", "reduced")
        return Batch(**moved, **{name: getattr(self, name) for name in kept})

    @property
    def supervised(self) -> int:
        """Number of supervised positions."""
        return int((self.target != IGNORED).sum())

    @property
    def counting(self) -> float:
        """Sum of the weights of the supervised positions: what their losses are divided by; under
        `pairs` the number of samples."""
        if self.pairs is not None:
            return len(self.origins)
        return self.supervised if self.weight is None else float(self.weight.double().sum())
