"""The plug-in against lmms-eval's interface (0.7.3), of which only the contract is imitated here.

The stand-ins have what the plug-in touches, with the names and signatures of lmms-eval's
`api.model.lmms`, `api.instance.Instance`, `protocol.ChatMessages` and `models.registry_v2`. With
lmms-eval installed the same tests run against the real ones.
"""

from __future__ import annotations

import abc
import importlib.util
import sys
import types
from dataclasses import dataclass

import pytest
import torch
from tiny import picture, tiny_model

from lucida.core.errors import DataError, ModelError
from lucida.model.checkpoint import save
from lucida.model.decode import greedy

torch.set_num_threads(1)


class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.cache_hook = types.SimpleNamespace(add_partial=lambda attr, req, res: None)
        self.task_dict = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class ChatMessages:
    def __init__(self, messages):
        self.messages = messages

    def _parts(self, kind):
        return [p["url"] for m in self.messages for p in m["content"] if p["type"] == kind]

    def extract_media(self):
        return self._parts("image"), self._parts("video"), self._parts("audio")

    def to_hf_messages(self):
        written = []
        for message in self.messages:
            parts = [
                {"type": "image", "image": p["url"]} if p["type"] == "image" else dict(p)
                for p in message["content"]
            ]
            written.append({"role": message["role"], "content": parts})
        return written


@dataclass
class Instance:
    arguments: tuple

    @property
    def args(self):
        return self.arguments


@pytest.fixture
def plugin(monkeypatch):
    if importlib.util.find_spec("lmms_eval") is None:
        contents = {
            "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {},
            "lmms_eval.api.model": {"lmms": lmms},
            "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
            "lmms_eval.protocol": {"ChatMessages": ChatMessages},
        }  # fmt: skip
        for name, values in contents.items():
            module = types.ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "lucida.eval.lmms", raising=False)
    return importlib.import_module("lucida.eval.lmms")


DOCUMENTS = [
    {"question": "what colour?", "image": picture(1)},
    {"question": "is it red", "image": picture(1)},
    {"question": "how many", "image": picture(2).convert("L")},
    {"question": "no picture", "image": None},
]


def messages(row):
    parts = [] if row["image"] is None else [{"type": "image", "url": row["image"]}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": row["question"]}]}]


def pictures(row):
    return [] if row["image"] is None else [row["image"]]


@pytest.fixture
def model(plugin, tmp_path):
    save(*tiny_model(), tmp_path / "saved")
    made = plugin.Lucida(pretrained=str(tmp_path / "saved"), batch_size="4", device="cpu")
    made.task_dict = {"task": {"test": DOCUMENTS}}
    return made


def test_the_registry_finds_the_class(plugin):
    manifest = plugin.manifest()
    module, _, name = manifest.chat_class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert manifest.model_id == "lucida"
    assert not found.is_simple
    assert not getattr(found, "__abstractmethods__", None)


def test_answers_come_in_order_with_their_own_settings(plugin, model):
    settings = [{"max_new_tokens": n, "until": ["\n\n"]} for n in (4, 7, 4, 7)]
    requests = [
        Instance(("context", messages, settings[n], n, "task", "test")) for n in (3, 0, 2, 1)
    ]
    said = model.generate_until(requests)
    for text, n in zip(said, (3, 0, 2, 1), strict=True):
        sample = plugin.sample_from(messages(DOCUMENTS[n]), "alone")
        (alone,) = greedy(model.model, model.processor, [sample], settings[n]["max_new_tokens"])
        assert text == alone.partition("\n\n")[0].strip()


def test_likelihoods_of_continuations(model):
    requests = [
        Instance((DOCUMENTS[n]["question"], text, pictures, n, "task", "test"))
        for n, text in [(0, "red"), (1, " yes"), (0, "blue"), (3, "a")]
    ]
    together = model.loglikelihood(requests)
    for request, (score, is_greedy) in zip(requests, together, strict=True):
        ((alone, same),) = model.loglikelihood([request])
        assert score == pytest.approx(alone, abs=1e-4)
        assert score < 0
        assert is_greedy == same


def test_what_it_cannot_do_is_said(plugin, model):
    video = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]
    with pytest.raises(DataError, match="1 videos"):
        plugin.sample_from(video, "x")
    sampled = {"do_sample": True, "temperature": 0.7}
    with pytest.raises(ModelError, match="greedily"):
        model.generate_until([Instance(("c", messages, sampled, 0, "task", "test"))])
    with pytest.raises(ModelError, match="several rounds"):
        model.generate_until_multi_round([1])
    with pytest.raises(ModelError, match="unknown --model_args"):
        plugin.Lucida(pretrained="x", batchsize="3")
