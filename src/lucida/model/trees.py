"""Prompts that begin alike, as one tree; and batches within a budget.

    prompts   A a1    A a2    A a3      a picture with three questions about it
    tree      A a1 a2 a3                the beginning once, what stands behind it as branches
    branch    0 1  2  3                 which do not see one another (model/masks.py)

Answering (`model.decode`), reading prompts (`model.prefill`), comparing candidates
(`eval.likelihood`) and the loss of documents (`eval.loss`) all group and batch by this file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lucida.data.collate import images_of
from lucida.data.sample import IGNORED, Batch, ImageSource, Tokens

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

T = TypeVar("T")

SPREAD = 2
"""Positions behind a beginning, as a multiple of its length (and `LEAST` more), that share one
tree. Questions of a tree score each other's positions in vain, which grows with their square."""

LEAST = 64

PASS_TOKENS = 1024
"""Positions of one forward on a CPU, whose caches larger ones leave: per position 31 µs at 1,024
and 36 µs at 4,096 (`mini`, one core). A GPU takes everything at once."""

Branch = tuple[np.ndarray, int, int]
"""Ids behind a beginning, the number of their branch, the position of the first."""

Beginning = tuple[tuple[str, ...], bytes]
"""What must be equal for two prompts to share their first positions: pictures, of which the same
visual tokens are left, and ids."""


def shared_length(prompt: Tokens) -> int:
    """Positions that prompts of the same picture may share: up to the last visual token, or the
    end of the stem where that is later; never all of them, 0 where nothing is shared, as of a
    prompt that ends with its picture."""
    if prompt.image[-1] > 0:
        return 0
    shared = np.flatnonzero((prompt.image > 0) | (prompt.branch == 0))
    return min(int(shared[-1]) + 1, len(prompt) - 1) if len(shared) else 0


def beginning(prompt: Tokens, cut: int) -> Beginning:
    """What another prompt must begin with to share the first `cut` positions of this one."""
    left = b"".join(b"all" if into is None else into.tobytes() for into in prompt.reduced)
    return tuple(source.key for source in prompt.images), prompt.input_ids[:cut].tobytes() + left


def group_by_beginning(
    items: Iterable[T],
    key: Callable[[T], Hashable],
    cut: Callable[[T], int],
    behind: Callable[[T], int],
    longest: float = float("inf"),
) -> list[list[T]]:
    """Items of equal keys together, in their order, as long as not too much stands behind what
    they share (`SPREAD`, `LEAST`) and a tree has at most `longest` positions. An item with nothing
    behind begins a group.
    """
    groups: list[list[T]] = []
    latest: dict[Hashable, tuple[list[T], int]] = {}  # the group that may still grow, its size
    for item in items:
        group, filled = latest.get(key(item), ([], 0))
        own, shared = behind(item), cut(item)
        capacity = min(SPREAD * shared + LEAST, longest - shared)
        if not group or not own or filled + own > capacity:
            group, filled = [], 0
            groups.append(group)
        group.append(item)
        latest[key(item)] = group, filled + own
    return groups


def batches(
    items: Iterable[T], cost: Callable[[Sequence[T]], float], budget: float
) -> Iterator[list[T]]:
    """Items side by side, in their order, as many as cost at most `budget` together; one that costs
    more is alone."""
    batch: list[T] = []
    for item in items:
        if batch and cost([*batch, item]) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def in_order(numbered: Iterable[tuple[int, T]], count: int) -> list[T]:
    """Results that come with their number, each of `count` exactly once, as a list."""
    found = dict(numbered)
    return [found[number] for number in range(count)]


def total_length(items: Sequence[object]) -> int:
    """Positions of items that are packed: the usual cost."""
    return sum(map(len, items))


def branched(
    stem: Tokens, cut: int, behind: Sequence[Branch], ends: Sequence[int] | np.ndarray
) -> Tokens:
    """The first `cut` positions of a prompt and what stands behind them. `ends`: where the prompts
    end, so that masks know what is prompt.

    Worked example: of AAAb the first 3 with (b, 1, 3) and (cd, 2, 3) are AAAbcd in the branches
    0 0 0 1 2 2 at the positions 0 1 2 3 3 4; the prompts end at 3 and 5.
    """
    ids = [stem.input_ids[:cut], *(ids for ids, _, _ in behind)]
    branch = [np.zeros(cut, np.int64), *(np.full(len(ids), number) for ids, number, _ in behind)]
    position = [stem.position[:cut], *(first + np.arange(len(ids)) for ids, _, first in behind)]
    total = sum(map(len, ids))
    image, target = np.zeros(total, np.int64), np.full(total, IGNORED, np.int64)
    image[:cut] = stem.image[:cut]
    target[ends] = 0  # any token: masks take what stands before it for the prompt
    return Tokens(
        origin=stem.origin,
        images=stem.images,
        input_ids=np.concatenate(ids),
        branch=np.concatenate(branch),
        position=np.concatenate(position),
        image=image,
        target=target,
        reduced=stem.reduced,
    )


def with_images(
    batch: Batch, model: LucidaModel, processor: LucidaProcessor, rows: Sequence[Tokens]
) -> None:
    """Give a batch of these rows the features of their images; each picture is encoded once."""
    sources = images_of(rows)
    first: dict[str, ImageSource] = {source.key: source for source in sources}
    pixels = processor.pixels(list(first.values()))
    if pixels is None:
        return
    number = {key: place for place, key in enumerate(first)}
    batch.features = model.encode_images(pixels).select([number[s.key] for s in sources])
