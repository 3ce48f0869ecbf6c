"""A run folder whose model is a function: it knows a share of the answers."""

import json
import random

import pytest

from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder

TASKS = ["caption", "attribute", "boxes", "presence", "comparison"]


def knowing(share):
    """Ask and read-box functions of a model that is right that often, and what it was asked."""
    asked = []

    def ask(examples):
        outputs = []
        for example in examples:
            asked.append(example.id)
            right = random.Random(example.id).random() < share
            if example.box is not None:
                outputs.append(json.dumps(example.box if right else [0, 0, 1]))
            else:
                outputs.append(f" {example.answers[0].upper()}" if right else "nonsense")
        return outputs

    def read_box(text, width, height):
        box = json.loads(text)
        return tuple(box) if len(box) == 4 else None

    return ask, read_box, asked


def make_run(folder, **evaluation):
    run = RunFolder(folder).prepare()
    values = {"tasks": TASKS, "limit": 40, "samples": 200} | evaluation
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
def run(tmp_path, monkeypatch):
    """A run that knows 80% of the answers, a blind one 30%; `asked` holds the ids per folder."""
    folder = tmp_path / "run"
    made = make_run(folder)
    make_run(folder / "blind")
    made.asked = {}

    def load_asker(path, max_new_tokens):
        ask, read_box, asked = knowing(0.3 if path.name == "blind" else 0.8)
        made.asked.setdefault(path.name, []).append(asked)
        return ask, read_box

    monkeypatch.setattr("lucida.eval.run.load_asker", load_asker)
    return made
