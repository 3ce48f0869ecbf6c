"""Does what a model looked at lie on what was asked about? On scenes whose truth is known.

python benchmarks/looking.py RUN [--scenes 150] [--cover mean] [--cells 8]

"What colour is the star?" of scenes of the test split in which only one thing has that shape; of
those that the model answers rightly (the others are counted): is the asked thing's box the one with
the greatest mean among all things and the sign, and does the map's highest cell lie in it?
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

import lucida
from lucida.eval.statistics import bootstrap
from lucida.interpretability.inside import Look
from lucida.world.drawing import draw
from lucida.world.scenes import Box, Scene, Thing
from lucida.world.tasks import TASKS

QUESTION = "what colour is the {}?"


def main() -> None:
    """Look at scenes until so many are answered rightly; print shares with 95% intervals, also on
    the way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--cover", default="mean")
    parser.add_argument("--cells", type=int, default=8)
    given = parser.parse_args()
    loaded = lucida.load(given.run)
    wins: dict[str, list[bool]] = defaultdict(list)
    wrong = index = 0
    while len(wins["area"]) < given.scenes:
        scene, thing = find_scene(index)
        index += 1
        if thing is None:
            continue
        found = lucida.look(
            loaded,
            draw(scene),
            QUESTION.format(thing.shape),
            show=("occlusion", "attention"),
            cells=given.cells,
            cover=given.cover,
            max_new_tokens=8,
        )
        if found.answer != thing.colour:
            wrong += 1
            continue
        for name, won in judge(found, scene, thing).items():
            wins[name].append(won)
        if len(wins["area"]) % 25 == 0 or len(wins["area"]) == given.scenes:
            report(wins, wrong, given)


def report(wins: dict[str, list[bool]], wrong: int, given: argparse.Namespace) -> None:
    """Shares so far, scenes resampled."""
    answered = len(wins["area"])
    print(f"{answered} answered rightly, {wrong} wrongly; cover {given.cover}, {given.cells} cells")
    for name, won in wins.items():
        share = bootstrap([100.0 * value for value in won])
        print(f"  {name:38} {share.mean:5.1f}%  ({share.low:.1f} to {share.high:.1f})", flush=True)


def find_scene(index: int) -> tuple[Scene, Thing | None]:
    """A scene of the test split with at least two things, and the one that it is asked about."""
    item = TASKS["attribute"].item(0, "test", index)
    (scene,) = item.scenes
    for exchange in item.exchanges:
        named = [t for t in scene.things if exchange.question == QUESTION.format(t.shape)]
        if exchange.kind == "colour" and len(named) == 1 and scene.clutter > 1:
            return scene, named[0]
    return scene, None


def judge(found: Look, scene: Scene, thing: Thing) -> dict[str, bool]:
    """Whether the asked thing wins, by each kind of map; `area`: by its share of the picture, what
    a map of chance would give the highest cell."""
    (seen,) = found.pictures
    shape = scene.height, scene.width
    attention = found.attention.mean((0, 1, 2))
    rolled = found.rollout.mean(0)
    cells = seen.occlusion.sum(-1)
    maps = {
        "occlusion": spread(cells, shape),
        "attention, all layers": seen.places.paint(attention, shape)[0],
        "attention, rolled out": seen.places.paint(rolled, shape)[0],
    }
    others = [t.box for t in scene.things if t is not thing] + [s.box for s in scene.signs]
    wins = {}
    for name, values in maps.items():
        means = [inside(values, box).mean() for box in (thing.box, *others)]
        wins[f"{name}: of all things"] = bool(np.argmax(means) == 0)
        wins[f"{name}: highest place"] = bool(inside(values, thing.box).max() >= values.max())
    wide, high = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    wins["area"] = wide * high / (scene.width * scene.height)
    wins["chance of all things"] = 1 / (1 + len(others))
    return wins


def spread(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A map of cells as one of pixels, as the windows have their edges."""
    for axis, length in enumerate(shape):
        count = cells.shape[axis]
        edges = [round(length * k / count) for k in range(count + 1)]
        cells = np.repeat(cells, np.diff(edges), axis=axis)
    return cells


def inside(values: np.ndarray, box: Box) -> np.ndarray:
    """The part of a map that lies in a box."""
    return values[box[1] : box[3], box[0] : box[2]]


if __name__ == "__main__":
    main()
