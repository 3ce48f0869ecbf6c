"""A folder that runs on the package `lucida`: for designs that no format of transformers can hold.

    config.json, *.safetensors, tokenizer, processor_config.json     as a run folder's
    modeling_lucida.py                                               the way in (`auto_map`)

`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)` and `AutoProcessor`
load it wherever Lucida is installed; `lucida.load` loads it as well.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lucida import __version__
from lucida.core.errors import ModelError
from lucida.data.jinja import chat_jinja
from lucida.model.checkpoint import save
from lucida.model.checksums import seal
from lucida.model.folder import CHAT
from lucida.model.loading import quiet_loading

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

ENTRY = "modeling_lucida"
MODELS = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM")

# The classes are derived ones so that transformers, which saves the file of a class that it loaded
# from a folder, saves this file again and not a module of the package.
CODE = '''"""This model runs on the package Lucida; LucidaBackend is the same without scores."""

try:
    from lucida.model import backend, config, vlm
except ImportError as problem:
    raise ImportError(
        f"this model runs on Lucida {version}, which cannot be imported here ({problem}); "
        "install the Lucida that trained it (pip install FOLDER_OF_ITS_SOURCE)"
    ) from problem


class LucidaConfig(config.LucidaConfig):
    pass


class LucidaModel(vlm.LucidaModel):
    config_class = LucidaConfig


class LucidaBackend(backend.BackendModel):
    config_class = LucidaConfig


class LucidaProcessor(backend.BackendProcessor):
    pass
'''


def write_remote(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> None:
    """Weights, configuration, processor and the way in, into a folder that exists."""
    save(model, processor, folder)
    code = CODE.replace("{version}", __version__)
    (folder / f"{ENTRY}.py").write_text(code, encoding="utf-8")
    model_classes = dict.fromkeys(MODELS, f"{ENTRY}.LucidaModel")
    shared = {"AutoConfig": f"{ENTRY}.LucidaConfig", "AutoModel": f"{ENTRY}.LucidaBackend"}
    name_classes(folder / "config.json", shared | model_classes)
    with suppress(ModelError):  # a template that is no Jinja is for Lucida alone
        jinja = chat_jinja(
            processor.template, processor.tokenizer, processor.image_token, processor.image_places
        )
        (folder / CHAT).write_text(jinja, encoding="utf-8")
    for name in ("processor_config.json", "tokenizer_config.json"):
        name_classes(folder / name, {"AutoProcessor": f"{ENTRY}.LucidaProcessor"})
    seal(folder)


def name_classes(path: Path, classes: dict[str, str]) -> None:
    """Name the classes that a JSON file's content is for (`auto_map`)."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["auto_map"] = values.get("auto_map", {}) | classes
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Remote:
    """The folder, loaded by its own code; ModelError when it does not load."""

    def __init__(self, folder: Path) -> None:
        try:
            with quiet_loading():
                # Not through transformers: it knows these classes already in this process, and
                # copies code into a cache at home, which need not be writable.
                found = spec_from_file_location(ENTRY, folder / f"{ENTRY}.py")
                code = module_from_spec(found)
                found.loader.exec_module(code)
                self.model = code.LucidaModel.from_pretrained(folder, dtype=torch.float32).eval()
                self.processor = code.LucidaProcessor.from_pretrained(folder)
        except (ImportError, OSError, ValueError) as problem:
            raise ModelError(
                f"the folder does not load by its own code: {problem}", origin=folder.name
            ) from problem

    def inputs(self, group: list[Any]) -> dict[str, Tensor]:
        """What its processor makes of conversations."""
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        return dict(self.processor.apply_chat_template(group, **options))

    def logits(self, inputs: dict[str, Any], image_token: int) -> Tensor:
        """What its model makes of them."""
        return self.model(**inputs).logits
