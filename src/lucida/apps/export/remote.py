"""A folder that carries its own code: for designs that no format of transformers can hold.

    config.json, *.safetensors, tokenizer, processor_config.json     as a run folder's
    modeling_lucida.py                                               the way in (`auto_map`)
    lucida_*.py, spec.py, shapes.py, tables.py, speech.py                Lucida's modules, flat

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)` and `AutoProcessor`
load it where Lucida is not installed; `lucida.load` loads it as well.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from lucida.apps.export.bundle import bundle, flat
from lucida.apps.export.probes import Agreement, asked, compare, groups
from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.checkpoint import save
from lucida.model.checksums import seal
from lucida.model.projectors import PROJECTORS

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

ENTRY = "modeling_lucida"
"""One file for all classes: transformers copies the folder for each file that is named, and then
the processor's `Views` would not be the model's."""

CLASSES = {
    "LucidaConfig": "lucida.model.config",
    "LucidaModel": "lucida.model.vlm",
    "LucidaProcessor": "lucida.model.processing",
}
MODELS = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def write_remote(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> None:
    """Weights, configuration, processor and code, into a folder that exists."""
    save(model, processor, folder)
    files = bundle(roots(model))
    # transformers copies what the entry names, so it names every file.
    named = "".join(
        f"from .{Path(name).stem} import __doc__ as _{number}  # noqa: F401\n"
        for number, name in enumerate(sorted(files))
    )
    text = f'"""{", ".join(CLASSES)} of Lucida, with their code beside them."""\n\n{named}'
    for public, module in CLASSES.items():
        text += f"from .{flat(module)} import {public}  # noqa: F401\n"
    files[f"{ENTRY}.py"] = text
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    config, model_class, processor_class = (f"{ENTRY}.{public}" for public in CLASSES)
    note(folder / "config.json", {"AutoConfig": config} | dict.fromkeys(MODELS, model_class))
    for name in ("processor_config.json", "tokenizer_config.json"):
        note(folder / name, {"AutoProcessor": processor_class})
    seal(folder)


def roots(model: LucidaModel) -> list[str]:
    """The modules that this model is made of and that are looked up by name."""
    found = list(CLASSES.values())
    for part in model.modules():
        module = type(part).__module__
        if module.startswith("lucida."):
            found.append(module)
    if model.projector is not None:
        kind = model.config.model_spec.projector.kind
        found.append(PROJECTORS.targets[kind].partition(":")[0])
    return [each for each in dict.fromkeys(found) if each.startswith("lucida.")]


def note(path: Path, classes: dict[str, str]) -> None:
    """Name the classes that a JSON file's content is for (`auto_map`)."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["auto_map"] = values.get("auto_map", {}) | classes
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Elsewhere:
    """The folder as a process without Lucida reads it: answers to a list of prompts."""

    def __init__(self, folder: Path, questions: list[Any]) -> None:
        self.answers = iter(ask_elsewhere(folder, questions))
        self.logits_now: torch.Tensor | None = None

    def inputs(self, group: Any) -> dict[str, torch.Tensor]:
        """What its processor makes of the next group of conversations."""
        answer = next(self.answers)
        self.logits_now = answer.pop("logits")
        if "sizes" in answer:
            answer["pixel_values"] = Views(answer["pixel_values"], answer.pop("sizes"))
        return answer

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What its model makes of that."""
        return self.logits_now


def check_remote(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> Agreement:
    """Reload the folder in a process that cannot import Lucida and compare; ModelError when it does
    not load or the answers differ."""
    other = Elsewhere(folder, groups(asked(processor)))
    return compare(model, processor, other.logits, folder.name, other.inputs)


def ask_elsewhere(folder: Path, questions: list[Any]) -> list[dict[str, torch.Tensor]]:
    """Inputs and logits of groups of conversations, from a process in which `lucida` is hidden."""
    with TemporaryDirectory() as place:
        asked_file, answers = Path(place, "asked"), Path(place, "answers")
        asked_file.write_bytes(pickle.dumps(questions))
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, str(folder), str(asked_file), str(answers)],
            capture_output=True,
            text=True,
            env=os.environ
            | {"HF_MODULES_CACHE": str(Path(place, "modules")), "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode:
            raise ModelError(
                "the folder does not load without Lucida: " + done.stderr.strip()[-2000:],
                origin=folder.name,
            )
        return torch.load(answers, weights_only=True)


STRANGER = """
import pickle, sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lucida", "jaxtyping"):
            raise ModuleNotFoundError(f"{name} is hidden here")


sys.meta_path.insert(0, Hidden())
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, asked, answers = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(
    folder, trust_remote_code=True, dtype=torch.float32
).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
given = []
with torch.no_grad():
    for group in pickle.load(open(asked, "rb")):
        inputs = processor.apply_chat_template(
            group, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        position = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**inputs, position_ids=position).logits
        answer = {**inputs, "logits": logits}
        views = answer.get("pixel_values")
        if hasattr(views, "sizes"):
            answer |= {"pixel_values": views.pixels, "sizes": views.sizes}
        given.append(answer)
torch.save(given, answers)
"""
