"""Web pages with pictures as documents: which pictures stay, and where they stand.

    sentences, pictures ─matched─▶ items ─thinned─▶ fewer pictures ─arranged─▶ parts of a document

An item is a sentence (text) or a `Shown` picture, in reading order. Everything here is a pure
function; what is left out is counted by reason, never forgotten.

Reference: Lin et al., VILA, 2023, arXiv 2312.07533, sections 3.2 and 4.4; Zhu et al., Multimodal
C4, 2023, arXiv 2304.06939.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lucida.data.sample import ImagePart, Part

Order = Literal["matched", "images_first", "pairs", "text_only"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a page: its number there, its likeness to its sentence and its size in bytes
    (None where unknown)."""

    number: int
    similarity: float | None = None
    size: int | None = None


Item = str | Shown


def match_sentences(sentences: Sequence[str], pictures: Sequence[tuple[Shown, int]]) -> list[Item]:
    """Each picture right before its sentence; several of one sentence in their given order.

    Worked example: sentences a, b and pictures 0 → b, 1 → a give [1, "a", 0, "b"].
    """
    items: list[Item] = []
    for place, sentence in enumerate(sentences):
        items += [shown for shown, whose in pictures if whose == place]
        items.append(sentence)
    return items


def thin_out(
    items: Sequence[Item],
    most: int,
    choose: Literal["first", "similar"] = "first",
    min_similarity: float | None = None,
    min_bytes: int = 0,
) -> tuple[list[Item], Counter[str]]:
    """The items without unfit pictures and without those beyond `most`; counts by reason.

    `first` keeps the pictures with the lowest numbers (the order of the annotation), `similar` the
    most similar ones; their order on the page stays. A picture of unknown similarity or size is
    unfit where a least one is asked for.
    """
    lost: Counter[str] = Counter()
    fit: list[Shown] = []
    for item in items:
        if isinstance(item, str):
            continue
        if min_similarity is not None and likeness(item) < min_similarity:
            lost[f"pictures below similarity {min_similarity:g}"] += 1
        elif min_bytes and (item.size or 0) < min_bytes:
            lost[f"pictures below {min_bytes} bytes"] += 1
        else:
            fit.append(item)
    if choose == "similar":
        fit.sort(key=lambda shown: (-likeness(shown), shown.number))
    else:
        fit.sort(key=lambda shown: shown.number)
    if len(fit) > most:
        lost[f"pictures beyond {most} of a page"] += len(fit) - most
    kept = {shown.number for shown in fit[:most]}
    return [item for item in items if isinstance(item, str) or item.number in kept], lost


def likeness(shown: Shown) -> float:
    """Similarity of a picture to its sentence; below everything where it is unknown."""
    return float("-inf") if shown.similarity is None else shown.similarity


def arrange_items(
    items: Sequence[Item], order: Order, drop_trailing: bool = True
) -> tuple[list[Item], Counter[str]]:
    """The items in the order that is asked for; counts by reason.

    Worked example: of [a, 0, b, c, 1, d, 2] `match_sentences` drops 2 (nothing follows it),
    `images_first` gives [0, 1, a, b, c, d], `pairs` [0, b, 1, d] and `text_only` [a, b, c, d].
    """
    lost: Counter[str] = Counter()
    found = [item for item in items if isinstance(item, Shown) or item.strip()]
    pictures = [item for item in found if isinstance(item, Shown)]
    texts = [item for item in found if isinstance(item, str)]
    if order == "text_only":
        if pictures:
            lost["pictures left out (text_only)"] += len(pictures)
        return texts, lost
    while drop_trailing and found and isinstance(found[-1], Shown):
        found.pop()
        lost["pictures behind the last text"] += 1
    if order == "images_first":
        return [item for item in found if isinstance(item, Shown)] + texts, lost
    if order == "pairs":
        kept: list[Item] = []
        for place, item in enumerate(found):
            if isinstance(item, Shown) or (place and isinstance(found[place - 1], Shown)):
                kept.append(item)
        if len(found) > len(kept):
            lost["sentences without a picture (pairs)"] += len(found) - len(kept)
        return kept, lost
    return found, lost


def document(items: Sequence[Item], between: str = " ") -> tuple[tuple[Part, ...], list[int]]:
    """Parts of a document and the numbers of its pictures in the order in which they are shown.

    Sentences are joined by `between`; nothing stands between a picture and its neighbours. The
    sentence behind a picture is a string of its own (for `loss: after_each_image`).

    Worked example: [a, b, 0, c, d, e] gives "a b", the picture, "c", " d e".
    """
    parts: list[Part] = []
    numbers: list[int] = []
    behind = False
    for item in items:
        if isinstance(item, Shown):
            parts.append(ImagePart(len(numbers)))
            numbers.append(item.number)
        elif words := item.strip():
            if not (parts and isinstance(parts[-1], str)):
                parts.append(words)
                behind = len(parts) > 1
            elif behind:
                parts.append(between + words)
                behind = False
            else:
                parts[-1] += between + words
    return tuple(parts), numbers
