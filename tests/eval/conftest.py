"""A run folder whose model is a function: it knows a share of the answers. Tests here may import
one another.
"""

import json
import random
import sys
from pathlib import Path

import pytest

from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder
from lucida.eval.asking import Response

sys.path.insert(0, str(Path(__file__).parent))

TASKS = ["caption", "attribute", "boxes", "presence", "comparison"]


class Knowing:
    """An answerer that is right that often with pictures, hardly ever without; it remembers what it
    was asked as (id, pictures shown)."""

    protocols = ("generate", "likelihood")

    def __init__(self, share, identity=None):
        self.share = share
        self.identity = identity or {"share": share}
        self.asked = []

    def stream(self, examples, protocol, max_new_tokens):
        for index, example in enumerate(examples):
            self.asked.append((example.id, len(example.sample.images)))
            share = self.share if example.sample.images else 0.1
            right = random.Random(example.id).random() < share
            if protocol == "likelihood":
                numbers = [
                    -1.0 if (candidate in example.answers) == right else -2.0
                    for candidate in example.candidates
                ]
                best = example.candidates[numbers.index(max(numbers))]
                likelihoods = {
                    "whole": numbers,
                    "first": numbers[::-1],
                    "normalised": numbers,
                }
                yield index, Response(best, {"likelihoods": likelihoods})
            elif example.box is not None:
                yield index, Response(json.dumps(example.box if right else [0, 0, 1]))
            else:
                yield index, Response(f" {example.answers[0].upper()}" if right else "nonsense")

    def read_box(self, text, width, height):
        box = json.loads(text)
        return tuple(box) if len(box) == 4 else None


def make_run(folder, **evaluation):
    run = RunFolder(folder).prepare()
    values = {"tasks": TASKS, "limit": 40, "samples": 200, "baselines": []} | evaluation
    changes = [f"evaluation.{name}={json.dumps(value)}" for name, value in values.items()]
    run.write_recipe(load_recipe("mini", changes))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 21):
            row = {"stage": "sft", "step": step, "loss": 4 / step, "seconds": 0.1 * step}
            file.write(json.dumps(row) + "\n")
    return run


@pytest.fixture
def knowing():
    """The class, for tests that make a model of their own."""
    return Knowing


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that knows 80% of the answers, a blind one 30%; `asked` holds what each was asked."""
    folder = tmp_path / "run"
    made = make_run(folder)
    make_run(folder / "blind")
    made.asked = {}

    def load_answerer(path):
        answerer = Knowing(0.3 if path.name == "blind" else 0.8)
        made.asked.setdefault(path.name, []).append(answerer.asked)
        return answerer

    monkeypatch.setattr("lucida.eval.run.load_answerer", load_answerer)
    return made
