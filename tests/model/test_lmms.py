"""The plug-in against lmms-eval's interface (0.7.3), of which only the contract is imitated here.

The stand-ins have what the plug-in touches, with the names and signatures of lmms-eval's
`api.model.lmms`, `api.instance.Instance`, `protocol.ChatMessages` and `models.registry_v2`. With
lmms-eval installed the same tests run against the real ones, and lmms-eval itself runs one of its
tasks (slow).
"""

from __future__ import annotations

import abc
import importlib.util
import io
import json
import os
import subprocess
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


TASK = """\
task: local
dataset_path: {folder}/set
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.realworldqa_doc_to_visual
doc_to_text: !function utils.realworldqa_doc_to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 16, temperature: 0, num_beams: 1, do_sample: false}}
process_results: !function utils.realworldqa_process_results
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
"""lmms-eval's RealWorldQA, its functions and rule, over records of this machine."""


def write_records(folder, model, processor):
    """Eight open questions, of which the model answers every other one rightly: for lmms-eval as a
    data set on disk, for us in RealWorldQA's layout."""
    import datasets
    import pyarrow.parquet

    from lucida.model.messages import sample_of

    rows = []
    for n in range(8):
        stream = io.BytesIO()
        picture(n).save(stream, "PNG")
        asked = f"what is number {n}?"
        parts = [{"type": "image"}, {"type": "text", "text": asked}]
        sample = sample_of([{"role": "user", "content": parts}], [picture(n)])
        (said,) = greedy(model, processor, [sample], 16)
        answer = said.strip().rstrip(".") if n % 2 else "nothing of this"
        image = {"bytes": stream.getvalue(), "path": f"{n}.png"}
        rows.append({"image": image, "question": asked, "answer": answer})
    assert all(row["answer"] for row in rows)
    place = folder / "realworldqa" / "data" / "test.parquet"
    place.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place)
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"test": made}).save_to_disk(folder / "set")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "local.yaml").write_text(TASK.format(folder=folder))
    (tasks / "utils.py").write_text("from lmms_eval.tasks.realworldqa.utils import *\n")


@pytest.mark.slow
def test_lmms_eval_itself_scores_as_we_do(tmp_path):
    for name in ("lmms_eval", "datasets", "pyarrow"):
        pytest.importorskip(name, reason=f"lmms-eval runs where it is: {name} is not installed")
    from lucida.core.spec import EvaluationSpec
    from lucida.eval.answerers.lucida_model import load_answerer
    from lucida.eval.run import evaluate_target

    model, processor = tiny_model()
    save(model, processor, tmp_path / "saved")
    write_records(tmp_path, model, processor)
    words = ["--model", "lucida", "--model_args", f"pretrained={tmp_path / 'saved'},device=cpu"]
    words += ["--include_path", str(tmp_path / "tasks"), "--tasks", "local", "--log_samples"]
    words += ["--output_path", str(tmp_path / "theirs"), "--batch_size", "1"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *words],
        env={**os.environ, **offline, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = (tmp_path / "theirs").rglob("*_results.json")
    theirs = json.loads(found.read_text())["results"]["local"]["exact_match,none"]
    (samples,) = (tmp_path / "theirs").rglob("*_samples_local.jsonl")
    said = {}
    for line in samples.read_text(encoding="utf-8").strip().split("\n"):
        row = json.loads(line)
        said[row["doc_id"]] = row["filtered_resps"]
    spec = EvaluationSpec(data=str(tmp_path), baselines=[], samples=100)
    ours = evaluate_target(
        "x", lambda _: load_answerer(tmp_path / "saved"), tmp_path / "ours", spec, ["realworldqa"]
    )["tasks"]["realworldqa"]
    assert ours["score"] == theirs == 0.5
    assert len(said) == 8
    file = tmp_path / "ours" / "predictions" / "realworldqa.jsonl"
    for line in file.read_text(encoding="utf-8").strip().split("\n"):
        row = json.loads(line)
        assert said[int(row["id"].partition("/")[2])] == row["output"].strip()
