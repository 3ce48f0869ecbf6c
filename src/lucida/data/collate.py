"""Samples side by side: from `Tokens` to a `Batch`.

    pack=True    one row, samples end to end, told apart by `segment`; a long row is rounded up
    pack=False   a row for each sample, padded at its end to the longest; padding has segment 0
    rows         several samples to a row, and all rows of one length (what `pack` plans)

Images stand in the order in which their placeholders are met, row by row, left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lucida.core.errors import DataError
from lucida.data.sample import IGNORED, Batch, ImageSource, Tokens, Views

Images = Callable[[list[ImageSource]], Views]
"""From sources to pixels or features, with an entry for each."""

STEP = 64
"""Long rows end at multiples of this. Kernels are made for a shape, and rows packed to their end
have a new one in every step: on a CPU, making them took a quarter of the time of the matrix
products in a step of `mini`."""

FIELDS = ("input_ids", "segment", "branch", "position", "image", "target")


def collate(
    samples: Sequence[Tokens],
    pack: bool,
    pad_id: int,
    pixels: Images | None = None,
    *,
    features: Images | None = None,
) -> Batch:
    """The samples as one batch. `pixels` gives the pixels of their images, `features`, instead,
    their features; without either a batch carries no images.

    Worked example: samples of 3 and 2 tokens.

        pack=True    segment  1 1 1 2 2        pack=False    segment  1 1 1
                     position 0 1 2 0 1                               1 1 0
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    if pixels is not None and features is not None:
        raise ValueError("give pixels or features, not both")
    rows = [samples] if pack else [[sample] for sample in samples]
    longest = max(sum(map(len, row)) for row in rows)
    batch = collate_rows(rows, round_length(longest) if pack else longest, pad_id)
    sources = images_of(samples)
    if sources and pixels is not None:
        batch.pixel_values = pixels(sources)
    if sources and features is not None:
        batch.features = features(sources)
    return batch


def round_length(length: int) -> int:
    """Where a packed row ends: a long one at a multiple of `STEP`, with at most 1/16 empty."""
    return length if length < 16 * STEP else -(-length // STEP) * STEP


def collate_rows(rows: Sequence[Sequence[Tokens]], capacity: int, pad_id: int) -> Batch:
    """Rows of samples as one batch [rows, capacity]; each row's end is padding (segment 0).

    Samples and their images count row by row. ValueError for a row that is over the capacity.

    Worked example: rows of samples with 2 + 1 and 3 tokens, capacity 4: segment is
    [[1, 1, 2, 0], [1, 1, 1, 0]] and position [[0, 1, 0, 0], [0, 1, 2, 0]].
    """
    padding = {"input_ids": pad_id, "target": IGNORED}
    shape = (len(rows), capacity)
    fields = {name: np.full(shape, padding.get(name, 0), dtype=np.int64) for name in FIELDS}
    for number, row in enumerate(rows):
        for sample in row:
            _check_placeholders(sample)
        lengths = [len(sample) for sample in row]
        end = sum(lengths)
        if end > capacity:
            raise ValueError(f"a row of {end} positions is over the capacity {capacity}")
        fields["segment"][number, :end] = np.repeat(np.arange(1, len(row) + 1), lengths)
        for name in FIELDS:
            if name != "segment" and row:
                values = [getattr(sample, name) for sample in row]
                fields[name][number, :end] = np.concatenate(values)
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    samples = [sample for row in rows for sample in row]
    # One for each image, as the model goes through them in this order; none at all where all images
    # keep all of their tokens.
    reduced = [into for each in samples for into in each.reduced or (None,) * len(each.images)]
    return Batch(
        **tensors,
        origins=[sample.origin for sample in samples],
        reduced=tuple(reduced) if any(into is not None for into in reduced) else (),
    )


def images_of(samples: Sequence[Tokens]) -> list[ImageSource]:
    """The images of a batch of these samples, in its order."""
    return [image for sample in samples for image in sample.images]


def _check_placeholders(sample: Tokens) -> None:
    """Placeholders count 1, 2, .. up to the number of images; the names of tiles may part them."""
    # 1 1 0 1 2 2, where 0 is the name of a tile, has the runs 1 and 2: one place for each picture.
    numbers = sample.image[sample.image > 0]
    runs = numbers[np.diff(numbers, prepend=0) != 0]
    if not np.array_equal(runs, np.arange(1, len(sample.images) + 1)):
        raise DataError(
            "images and runs of placeholders differ",
            expected=f"images 1 to {len(sample.images)}, one after the other",
            given=runs.tolist(),
            origin=sample.origin,
        )
