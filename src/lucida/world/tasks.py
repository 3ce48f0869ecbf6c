"""The task families, each the miniature of a benchmark of the field, as one table.

A task turns (seed, split, index) into an `Item`: one or two scenes, and either isolated questions
about them (`exchanges`) or a document or conversation (`turns`); the conversations of
`demonstrated` are made of exchanges, one about each of their scenes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from lucida.world import compositional, documents, questions, tissue
from lucida.world.demonstrated import MAKERS
from lucida.world.documents import Line
from lucida.world.questions import Exchange
from lucida.world.scenes import SPLITS, Scene, Split, make_scene, scene_rng
from lucida.world.tissue import Tissue


@dataclass(frozen=True, slots=True)
class Item:
    """What a task asks for one index. `turns` hold text and, as numbers, the scenes' pictures."""

    id: str
    scenes: tuple[Scene | Tissue, ...]
    exchanges: tuple[Exchange, ...] = ()
    turns: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Task:
    """One family. `twin` is the benchmark it is the miniature of; `metric` is how it is scored."""

    name: str
    twin: str
    metric: Literal["exact", "final", "box", "box-precise", "caption", "none"]
    make: Callable[[random.Random, int, Split, int, int, int], tuple]
    number: int = field(default=0)

    def item(self, seed: int, split: Split, index: int, questions: int = 8, size: int = 64) -> Item:
        """Item number `index`: up to `questions` isolated questions, or one document."""
        rng = scene_rng(seed, SPLITS.index(split), index, 1000 + self.number)
        scenes, exchanges, turns = self.make(rng, seed, split, index, questions, size)
        return Item(f"{self.name}/{split}-{seed}-{index}", scenes, exchanges, turns)


def mixed_item(
    tasks: list[Task], seed: int, split: Split, index: int, questions: int = 8, size: int = 64
) -> Item:
    """Questions of several families behind one picture: each question's family drawn at random.

    Families share a picture where they ask of the same kind of scene. Where `tasks` ask of several
    (ordinary scenes, crowds, signs, tissue), a family drawn at random decides the kind, and those
    that ask of it share. Families that need pictures or turns of their own (diagrams, comparisons,
    documents) cannot share; with one of them in `tasks` the item is of one family, drawn at random.
    """
    rng = scene_rng(seed, SPLITS.index(split), index, 999)
    if len(tasks) == 1 or any(task.name not in _SHARING for task in tasks):
        return rng.choice(tasks).item(seed, split, index, questions, size)
    makers = [_SHARING[task.name][1] for task in tasks]
    # No draw where there is no choice: it would move every draw behind it.
    make = makers[0] if len(set(makers)) == 1 else rng.choice(makers)
    scene = make(seed, split, index, size)
    askers = [asker for asker, maker in (_SHARING[task.name] for task in tasks) if maker is make]
    return Item(f"mixed/{split}-{seed}-{index}", (scene,), _ask(scene, rng, askers, questions))


def _ask(
    scene: Scene, rng: random.Random, askers: list[questions.Asker], count: int
) -> tuple[Exchange, ...]:
    """Up to `count` different questions about one scene."""
    return _different(lambda: rng.choice(askers)(scene, rng), count)


def _different(draw: Callable[[], Exchange | None], count: int) -> tuple[Exchange, ...]:
    """Up to `count` different questions, balanced; a draw may fail or repeat one."""
    asked: dict[tuple[str, str], Exchange] = {}
    for _ in range(4 * count):
        exchange = draw()
        if exchange is not None:
            asked.setdefault((exchange.task, exchange.question), exchange)
        if len(asked) == count:
            break
    return _balance(list(asked.values()))


def _balance(asked: list[Exchange]) -> tuple[Exchange, ...]:
    """Without the surplus of one answer among the yes/no questions (a scene has fewer things than
    absences, so that "no" would prevail)."""
    surplus = sum({"yes": 1, "no": -1}.get(e.answer, 0) for e in asked)
    kept = []
    # From the end, so that of the surplus those go that were asked last.
    for exchange in reversed(asked):
        if abs(surplus) > 1 and exchange.answer == ("yes" if surplus > 0 else "no"):
            surplus += -1 if surplus > 0 else 1
        else:
            kept.append(exchange)
    return tuple(reversed(kept))


def _about_one_scene(
    asker: questions.Asker,
    rng: random.Random,
    seed: int,
    split: Split,
    index: int,
    count: int,
    size: int,
    make: Callable[..., Scene] = make_scene,
) -> tuple:
    """Look through the scenes that belong to `index` until one carries the question."""
    for attempt in range(64):
        # Behind all that a source of fewer than a million records counts: no other index has this
        # scene.
        scene = make(seed, split, index + attempt * 1_000_003, size)
        exchanges = _ask(scene, rng, [asker], count)
        if exchanges:
            return (scene,), exchanges, ()
    raise RuntimeError(f"no scene near {split} {index} carries such a question")


def _about_two_scenes(
    rng: random.Random, seed: int, split: Split, index: int, count: int, size: int
) -> tuple:
    pair = tuple(make_scene(seed, split, 2 * index + k, size) for k in (0, 1))
    return pair, _different(lambda: questions.comparison(*pair, rng), count), ()


def _tell(
    teller: Callable[[list[Scene], random.Random], tuple[Line, ...]],
    scenes_needed: int,
    rng: random.Random,
    seed: int,
    split: Split,
    index: int,
    count: int,
    size: int,
) -> tuple:
    scenes = [
        make_scene(seed, split, scenes_needed * index + k, size) for k in range(scenes_needed)
    ]
    turns = teller(scenes, rng)
    shown = tuple(scenes) if any(isinstance(p, int) for line in turns for p in line.parts) else ()
    return shown, (), turns


_SHARING: dict[str, tuple[questions.Asker, Callable[..., Scene]]] = {
    name: (asker, make_scene)
    for name, asker in {
        "caption": documents.caption,
        "attribute": questions.attribute,
        "unanswerable": questions.unanswerable,
        "reading": questions.reading,
        "boxes": questions.boxes,
        "region": questions.region,
        "inventory": questions.inventory,
        "relation": questions.relation,
        "side": questions.side,
        "spatial": questions.spatial,
        "relation-pointed": partial(questions.relation, pointing=True),
        "spatial-pointed": partial(questions.spatial, pointing=True),
        "counting": questions.counting,
        "counting-pointed": partial(questions.counting, pointing="ordered"),
        "counting-pointed-unordered": partial(questions.counting, pointing="unordered"),
        "counting-pointed-wrong": partial(questions.counting, pointing="wrong"),
        "presence": questions.presence,
    }.items()
} | (compositional.SHARING | tissue.SHARING)
"""Task → how it is asked, and of which scenes."""


_LATER = [
    # Each is the harder kind of a task above, with room where that one is at its ceiling.
    ("attribute-by-relation", "GQA compositional", "exact"),
    ("presence-detailed", "AMBER attribute", "exact"),
    ("counting-compared", "CLEVR compare integer", "exact"),
    ("spatial-nearest", "VSR proximity", "exact"),
    ("boxes-precise", "RefCOCO/+/g at IoU 0.75", "box-precise"),
    ("reading-by-place", "ST-VQA, TextVQA", "exact"),
    # The words of `counting`, so that models that point and models that do not are asked alike.
    ("counting-pointed", "PixMo-Count", "final"),
    ("counting-pointed-unordered", "PixMo-Count", "none"),
    ("counting-pointed-wrong", "PixMo-Count", "none"),
]
"""Task, twin, metric: tasks that came later, behind the others, whose numbers seed their items."""


_TISSUE = [
    ("tissue-kind", "PathVQA open", "exact"),
    ("tissue-counting", "nuclei counting", "exact"),
    ("tissue-mitosis", "PathVQA yes/no", "exact"),
    ("tissue-denser", "PathVQA open", "exact"),
]
"""The same of the second domain (`tissue`), which came last."""


def _table() -> dict[str, Task]:
    one, labelled = partial, partial(make_scene, labelled=True)
    rows: list[tuple[str, str, str, Callable]] = [
        ("caption", "COCO Captions", "caption", one(_about_one_scene, documents.caption)),
        ("attribute", "VQAv2, GQA", "exact", one(_about_one_scene, questions.attribute)),
        ("unanswerable", "VizWiz", "exact", one(_about_one_scene, questions.unanswerable)),
        ("reading", "TextVQA", "exact", one(_about_one_scene, questions.reading)),
        ("boxes", "RefCOCO/+/g, OCID-Ref", "box", one(_about_one_scene, questions.boxes)),
        ("region", "Visual Genome regions", "none", one(_about_one_scene, questions.region)),
        ("inventory", "grounded captions", "none", one(_about_one_scene, questions.inventory)),
        ("relation", "GQA choose", "exact", one(_about_one_scene, questions.relation)),
        ("spatial", "VSR", "exact", one(_about_one_scene, questions.spatial)),
        ("counting", "TallyQA", "exact", one(_about_one_scene, questions.counting)),
        ("presence", "POPE", "exact", one(_about_one_scene, questions.presence)),
        *(
            (f"presence-{kind}", f"POPE {kind}", "exact", one(_about_one_scene, _presence(kind)))
            for kind in ("random", "popular", "adversarial")
        ),
        ("diagram", "AI2D", "exact", one(_about_one_scene, questions.diagram, make=labelled)),
        ("comparison", "two-image comparison", "exact", _about_two_scenes),
        ("long-caption", "detailed description", "none", one(_tell, documents.describe_scenes, 1)),
        ("alt-text", "COYO, LAION", "none", one(_tell, documents.alt_text, 1)),
        ("interleaved", "MMC4", "none", one(_tell, documents.write_interleaved_page, 3)),
        ("conversation", "LLaVA-Instruct", "none", one(_tell, documents.conversation, 1)),
        ("instruction", "ShareGPT, FLAN", "none", one(_tell, documents.instruction, 1)),
        ("text", "plain text", "none", one(_tell, documents.plain_text, 1)),
        ("side", "GQA position", "exact", one(_about_one_scene, questions.side)),
        ("relation-pointed", "GQA choose", "final", _share_questions("relation-pointed")),
        ("spatial-pointed", "VSR", "final", _share_questions("spatial-pointed")),
        *((name, twin, metric, _share_questions(name)) for name, twin, metric in _LATER),
        *((each, "in-context learning", "exact", make) for each, make in MAKERS.items()),
        *((name, twin, metric, _share_questions(name)) for name, twin, metric in _TISSUE),
    ]
    return {
        name: Task(name, twin, metric, make, number)
        for number, (name, twin, metric, make) in enumerate(rows)
    }


def _share_questions(name: str) -> Callable:
    asker, make = _SHARING[name]
    return partial(_about_one_scene, asker, make=make)


def _presence(kind: str) -> questions.Asker:
    return partial(questions.presence, kind=kind)


TASKS: dict[str, Task] = _table()
