"""Samples of the miniature world: drawn when asked for, the same for the same arguments."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from importlib.resources import files

import PIL

from lucida.core.errors import DataError, suggestion
from lucida.data.sample import BoxPart, ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.source import Source
from lucida.data.sources.conversation import one_conversation
from lucida.world.drawing import draw
from lucida.world.questions import Exchange
from lucida.world.scenes import Scene, Split
from lucida.world.tasks import TASKS, Item, mixed_item
from lucida.world.tissue import Tissue, draw_tissue


class WorldSource(Source):
    """`count` records of the tasks named, `questions` isolated questions behind each picture."""

    def __init__(
        self,
        tasks: list[str],
        split: Split = "train",
        count: int = 4096,
        questions: int = 8,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        for name in tasks:
            if name not in TASKS:
                raise DataError(f"unknown task `{name}`", remedy=suggestion(name, TASKS))
        self.tasks = [TASKS[name] for name in tasks]
        self.split = split
        self.count = count
        self.questions = questions
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def held_out(self, at_most: int) -> WorldSource:
        """Records that training never sees, at most so many: the world has a split of them."""
        names, count = [task.name for task in self.tasks], min(self.count, at_most)
        return WorldSource(names, "validation", count, self.questions, self.size, self.seed)

    @property
    def branches(self) -> int:
        """The most isolated questions behind one picture, among the first records."""
        return max(len(self[index].branches) for index in range(min(16, len(self))))

    def sample(self, index: int, words: str | None = None) -> Sample:
        """A record; it has no caption to be replaced."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        for attempt in range(64):
            # A scene without a sign carries no reading question: then a far one takes its place.
            # Far, so that it is no record that is drawn anyway: a neighbour would be seen twice in
            # an epoch.
            far = index + attempt * 1_000_003
            item = mixed_item(self.tasks, self.seed, self.split, far, self.questions, self.size)
            if item.exchanges or item.turns:
                return item_sample(item)
        names = ", ".join(task.name for task in self.tasks)
        raise DataError(f"no scene near {self.split} {index} carries a question", origin=names)


def item_sample(item: Item) -> Sample:
    """A task's item as a sample: its pictures as the stem with one branch for each question, or the
    document or conversation that it is."""
    images = tuple(scene_source(scene) for scene in item.scenes)
    if item.turns:
        turns = tuple(
            Turn(line.role, tuple(ImagePart(p) if isinstance(p, int) else p for p in line.parts))
            for line in item.turns
        )
        return one_conversation(item.id, images, turns)
    stem = (Turn("user", tuple(ImagePart(number) for number in range(len(images)))),)
    branches = tuple(
        (Turn("user", (each.question,)), Turn("assistant", answer_parts(each)))
        for each in item.exchanges
    )
    return Sample(item.id, images, stem, branches)


def answer_parts(exchange: Exchange) -> tuple[Part, ...]:
    """An answer in words, as a box, or both."""
    if exchange.box is None and not exchange.told:
        return (exchange.answer,)
    said = exchange.told or (exchange.box,)
    return tuple(
        part if isinstance(part, str) else BoxPart(exchange.image, *map(float, part))
        for part in said
    )


def scene_source(scene: Scene | Tissue) -> ImageSource:
    """The picture of a scene. Its key holds the scene and the code that draws it, so that features
    cached before a change of the drawing are never met again."""
    drawer, code = (
        (draw_tissue, _drawing_code("tissue.py"))
        if isinstance(scene, Tissue)
        else (draw, _drawing_code("drawing.py", "scenes.py"))
    )
    key = hashlib.blake2b(f"{code}|{scene!r}".encode(), digest_size=16).hexdigest()
    return ImageSource(scene.id, f"world:{key}", partial(drawer, scene), partial(_size, scene))


def _size(scene: Scene | Tissue) -> tuple[int, int]:
    return scene.width, scene.height


@cache
def _drawing_code(*names: str) -> str:
    world = files("lucida.world")
    code = [world.joinpath(name).read_bytes() for name in names]
    return hashlib.blake2b(b"".join(code) + PIL.__version__.encode()).hexdigest()
