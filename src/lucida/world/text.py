"""Plain text of the world for the language model: never a picture.

Half of it is reading comprehension: a scene told in words and boxes, then questions about it, each
by itself. A model that answers these has learnt to look things up, to count and to compare; what
remains for it to learn from pictures is where the facts stand.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lucida.world import documents, questions
from lucida.world.phrases import long_caption, short_caption, sign_name
from lucida.world.questions import Asker, Exchange
from lucida.world.scenes import SPLITS, Scene, Split, make_scene, scene_rng

ASKERS: dict[str, tuple[Asker, float, float, float]] = {
    "attribute": (questions.attribute, 6, 4, 4),
    "region": (questions.region, 6, 2, 2),
    "reading": (questions.reading, 2, 1, 1),
    "boxes": (questions.boxes, 2, 4, 4),
    "side": (questions.side, 3, 2, 1),
    "relation": (questions.relation, 4, 6, 0.5),
    "spatial": (questions.spatial, 2, 6, 0.5),
    "counting": (questions.counting, 3, 4, 6),
    "presence": (questions.presence, 4, 3, 3),
    "unanswerable": (questions.unanswerable, 1, 1, 1),
    "caption": (documents.caption, 0.5, 1, 1),
    "relation-pointed": (partial(questions.relation, pointing=True), 0, 0, 5),
    "spatial-pointed": (partial(questions.spatial, pointing=True), 0, 0, 7),
}
"""Task → how it is asked, its weight at first, once looking up is learnt, and in the end.

Answers that point at two things before they judge come last: from the beginning on they kept
looking up itself from being learnt (LOG.md).
"""

QUESTIONS = 12
"""About one scene at most."""

SIGNS = (
    "a sign that says {}",
    "a sign with {} on it",
    "{} on a sign",
    "a sign: {}",
    "the word {} on a white sign",
)

Told = tuple[str | tuple[int, int, int, int], ...]
"""Text and boxes (pixels of the scene) in the order in which they are said."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """A scene in words and isolated questions about it.

    `told` alternates text and boxes (pixels of the scene).
    """

    scene: Scene
    told: Told
    exchanges: tuple[Exchange, ...] = ()


def exercise(seed: int, split: Split, index: int, progress: float = 1.0) -> Exercise:
    """Scene number `index` told in words, with up to `QUESTIONS` questions.

    `progress` is where training stands: from 0 to 1 scenes grow from two or three things to all of
    them, and relations are asked more often; 2 is the end of training, with answers that point.
    """
    rng = scene_rng(seed, SPLITS.index(split), index, 555)
    scene = make_scene(seed, split, index)
    # Two or three things at first; in the end a limit of up to 27, so that most scenes are whole.
    limit = 2 + rng.randrange(2 + int(24 * min(1.0, progress)))
    scene = replace(scene, things=scene.things[:limit])
    weights = [float(np.interp(progress, (0, 1, 2), known)) for _, *known in ASKERS.values()]
    asked: dict[str, Exchange] = {}
    for name in rng.choices(list(ASKERS), weights, k=3 * QUESTIONS):
        exchange = ASKERS[name][0](scene, rng)
        if exchange is not None:
            asked.setdefault(exchange.question, exchange)
        if len(asked) == QUESTIONS:
            break
    return Exercise(
        scene, _signs(questions.tell_scene(scene, rng), scene, rng), tuple(asked.values())
    )


def _signs(told: Told, scene: Scene, rng: random.Random) -> Told:
    """The same with the sign told in one of several ways: what is read must not hang on one word
    that happens to stand before it."""
    if scene.sign is None:
        return told
    plain = sign_name(scene.sign)
    other = rng.choice(SIGNS).format(scene.sign.word)
    return tuple(part.replace(plain, other) if isinstance(part, str) else part for part in told)


def document(seed: int, split: Split, index: int) -> str:
    """A text that is no exercise: a story (at times told twice), captions, a small task."""
    rng = scene_rng(seed, SPLITS.index(split), index, 556)
    scene = make_scene(seed, split, index)
    draw = rng.random()
    if draw < 0.3:
        words = documents.story(scene, rng)
        return f"{words} once more: {words}"
    if draw < 0.5:
        return documents.story(scene, rng)
    if draw < 0.65:
        return long_caption(scene, rng)
    if draw < 0.75:
        return short_caption(scene, rng.randrange(5))
    if draw < 0.8:
        (line,) = documents.alt_text([scene], rng)
        return str(line.parts[-1]).strip()
    asked, answered = documents.instruction([scene], rng)
    return f"{asked.parts[0]} {answered.parts[0]}"
