"""An evaluation that can be killed: its answers come slowly, and every question asked is noted."""

from __future__ import annotations

import time
from pathlib import Path

from lucida.core.spec import EvaluationSpec
from lucida.eval.asking import Response
from lucida.eval.run import evaluate_target


class Slow:
    """An answerer that is right where the length of an example's name is odd."""

    protocols, identity = ("generate",), {"name": "slow"}

    def __init__(self, noted: Path, pause: float) -> None:
        self.noted, self.pause = noted, pause

    def stream(self, examples, way, new):
        for index, example in enumerate(examples):
            time.sleep(self.pause)
            with self.noted.open("a") as file:
                file.write(example.id + "\n")
            yield index, Response(example.answers[0] if len(example.id) % 2 else "no idea")

    def read_box(self, text, width, height):
        return None


def ask_slowly(folder: Path, pause: float) -> None:
    """Forty questions; those asked are in FOLDER.asked."""
    slow = Slow(Path(f"{folder}.asked"), pause)
    spec = EvaluationSpec(baselines=[], samples=100)
    evaluate_target("slow", lambda place: slow, folder, spec, ["attribute"], 40)
