"""Plain text of the world for the language model: never a picture.

Half of it is reading comprehension: a scene told in words and boxes, then questions about it, each
by itself. A model that answers these has learnt to look things up, to count and to compare; what
remains for it to learn from pictures is where the facts stand.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from lucida.world import documents, questions
from lucida.world.phrases import article, full_name, long_caption, short_caption, sign_name
from lucida.world.questions import Asker, Exchange
from lucida.world.scenes import SPLITS, Scene, Split, make_scene, scene_rng

ASKERS: dict[str, tuple[Asker, float, float]] = {
    "attribute": (questions.attribute, 6, 4),
    "reading": (questions.reading, 2, 1),
    "boxes": (questions.boxes, 2, 4),
    "spatial": (questions.spatial, 1, 8),
    "counting": (questions.counting, 3, 4),
    "presence": (questions.presence, 4, 3),
    "unanswerable": (questions.unanswerable, 1, 1),
    "caption": (documents.caption, 0.5, 1),
}
"""Task → how it is asked, its weight at the beginning of training and its weight at the end."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """A scene in words and isolated questions about it.

    `told` alternates text and boxes (pixels of the scene); text-only documents have no exchanges.
    """

    scene: Scene
    told: tuple[str | tuple[int, int, int, int], ...]
    exchanges: tuple[Exchange, ...] = ()


def exercise(
    seed: int, split: Split, index: int, count: int = 12, progress: float = 1.0
) -> Exercise:
    """Scene number `index` told in words, with up to `count` questions.

    `progress` (0 to 1) is where training stands: it begins with scenes of one or two things and with
    looking up, and ends with whole scenes and many relations, the skill that comes last.
    """
    rng = scene_rng(seed, SPLITS.index(split), index, 555)
    scene = make_scene(seed, split, index)
    limit = 1 + rng.randrange(1 + int(24 * progress))
    scene = replace(scene, things=scene.things[:limit])
    weights = [start + (end - start) * progress for _, start, end in ASKERS.values()]
    asked: dict[str, Exchange] = {}
    for name in rng.choices(list(ASKERS), weights, k=3 * count):
        exchange = ASKERS[name][0](scene, rng)
        if exchange is not None:
            asked.setdefault(exchange.question, exchange)
        if len(asked) == count:
            break
    return Exercise(scene, told(scene, rng), tuple(asked.values()))


def told(scene: Scene, rng: random.Random) -> tuple[str | tuple[int, int, int, int], ...]:
    """Everything in the scene in random order, each with its box."""
    entries = [(article(full_name(t)), t.box) for t in scene.things]
    if scene.sign is not None:
        entries.append((sign_name(scene.sign), scene.sign.box))
    rng.shuffle(entries)
    parts: list[str | tuple[int, int, int, int]] = []
    opening = f"picture: {article(scene.background)} background;"
    for words, box in entries:
        parts += [f"{opening} {words} ", box]
        opening = ";"
    return tuple(parts)


def document(seed: int, split: Split, index: int) -> str:
    """A text that is no exercise: a story, captions, a small task and its answer."""
    rng = scene_rng(seed, SPLITS.index(split), index, 556)
    scene = make_scene(seed, split, index)
    draw = rng.random()
    if draw < 0.4:
        return documents.story(scene, rng)
    if draw < 0.6:
        return long_caption(scene, rng)
    if draw < 0.7:
        return short_caption(scene, rng.randrange(5))
    if draw < 0.8:
        (line,) = documents.alt_text([scene], rng)
        return str(line.parts[-1]).strip()
    asked, answered = documents.instruction([scene], rng)
    return f"{asked.parts[0]} {answered.parts[0]}"
