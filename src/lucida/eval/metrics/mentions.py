"""CHAIR in the miniature world: every thing that a caption names is there or is not, exactly.

"a large red star and a blue ring"  ─▶  (large, red, star), (blue, ring)  ─▶  each there?
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lucida.eval.metrics.outputs import as_text
from lucida.world.scenes import COLOURS, SHAPES, SIZES, TEXTURES, WORDS

Thing = Mapping[str, str]
"""size, colour, texture, shape of a thing of the scene; of a sign `word`."""

_SLOTS = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(TEXTURES, "texture"),
}
_NOUNS = (
    {name: name for name in SHAPES} | {f"{name}s": name for name in SHAPES} | {"crosses": "cross"}
)


def find_mentions(caption: object) -> list[dict[str, str]]:
    """What a caption says is there: a shape with the sizes, colours and textures right before it,
    or a sign with its word.

    Of two words for one slot the last counts. A noun by itself is a mention too ("a star"); what is
    not of the world's vocabulary ("a dog") names nothing.

    Worked example: "A large red star on a sandy background, and a sign that says stop." gives
    {size: large, colour: red, shape: star} and {word: stop}.
    """
    words = re.findall(r"[a-z]+", as_text(caption).lower())
    found, said = [], {}
    for place, word in enumerate(words):
        if word in _SLOTS:
            said[_SLOTS[word]] = word
            continue
        if word in _NOUNS:
            found.append({**said, "shape": _NOUNS[word]})
        if word in WORDS and words[max(0, place - 3) : place] == ["sign", "that", "says"]:
            found.append({"word": word})
        said = {}  # any other word ends a description: "a red and a star" names a star
    return found


def is_there(mention: Thing, scene: Sequence[Thing]) -> bool:
    """Whether one thing of the scene has everything that the mention says.

    Worked example: "red star" is there beside a small red striped star; "large red star" is not.
    """
    return any(all(thing.get(name) == value for name, value in mention.items()) for thing in scene)


@dataclass(frozen=True, slots=True)
class Chair:
    """CHAIRi: mentions that are not there, of all; CHAIRs: captions with one of them, of all;
    cover: things and signs that are mentioned, of all in the scenes; mentions: for each caption."""

    instances: float
    sentences: float
    cover: float
    mentions: float


def chair_scores(captions: Sequence[object], scenes: Sequence[Sequence[Thing]]) -> Chair:
    """CHAIR of captions about scenes that are known exactly; of no captions it is all 0.

    A caption without mentions invents nothing, so cover belongs beside it. ValueError when the two
    differ in number.

    Worked example: "a red star and a blue ring" about a red star and a green ring: one of two
    mentions is not there (0.5), in one of one captions (1.0); one of two things is covered (0.5).

    Reference: Rohrbach et al., Object Hallucination in Image Captioning, 2018, arXiv 1809.02156,
    section 3.1; cover as in Wang et al., AMBER, 2023, arXiv 2311.07397, section 3.3.
    """
    total = wrong = sentences = covered = things = 0
    for caption, scene in zip(captions, scenes, strict=True):
        mentions = find_mentions(caption)
        invented = sum(not is_there(mention, scene) for mention in mentions)
        total, wrong, sentences = (
            total + len(mentions),
            wrong + invented,
            sentences + bool(invented),
        )
        covered += sum(any(is_there(mention, [thing]) for mention in mentions) for thing in scene)
        things += len(scene)
    count = len(captions)
    return Chair(
        wrong / total if total else 0.0,
        sentences / count if count else 0.0,
        covered / things if things else 0.0,
        total / count if count else 0.0,
    )
