"""A saved folder that is damaged, mixed or edited loads exactly as it was saved, or is refused."""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import encoder_folder, language_folder, tiny_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from lucida.core.errors import LucidaError, ModelError
from lucida.model.checkpoint import load, save
from lucida.model.checksums import FILE, check_sums, seal
from lucida.model.configs import encoder_shape
from lucida.model.language import load_language
from lucida.model.loading import further_layers
from lucida.model.registration import register

torch.set_num_threads(1)
register()

WRONG = (None, "word", -1, 0, 3, 10**12, 1.5, True, [], {}, [None], {"a": 1}, "\udc80", "\ufeff")
"""Values that are put in the place of others."""
SECONDS = 10


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(*tiny_model(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def bare(folder):
    """A folder as an older Lucida wrote it: nothing says what its files were."""
    (folder / FILE).unlink()
    return folder


def edit(file: Path, change) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def header(file: Path, change) -> None:
    """Change the header of a file of safetensors."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    values = json.loads(content[8 : 8 + size])
    change(values)
    text = json.dumps(values).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def weights(file: Path, change) -> None:
    values = load_file(file)
    change(values)
    save_file(values, file, metadata={"format": "pt"})


def places(value, path=()):
    """The path of every value inside JSON."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def put(values, path, new) -> None:
    *above, last = path
    for key in above:
        values = values[key]
    values[last] = new


def refused_or_same(folder: Path, expected) -> bool:
    """True when a LucidaError came, and nothing else; the model may load, in time."""
    begun = time.perf_counter()
    try:
        model, processor = load(folder)
    except LucidaError as problem:
        assert str(folder) in str(problem), problem
        refused = True
    else:
        refused = False
        if expected is not None:
            state, settings = expected
            found = model.state_dict()
            assert found.keys() == state.keys()
            assert all(torch.equal(found[name], state[name]) for name in state)
            assert processor.to_dict() == settings
    assert time.perf_counter() - begun < SECONDS
    return refused


def test_whatever_is_changed_is_found(saved, folder):
    """Single bytes, cuts and values of every file of a sealed folder."""
    names = sorted(path.name for path in saved.iterdir())
    model, processor = load(folder)
    expected = model.state_dict(), processor.to_dict()
    assert {"config.json", "model.safetensors", "tokenizer.json", FILE} <= set(names)
    draw = random.Random(0)
    for name in names:
        content = (saved / name).read_bytes()
        for number in range(8):
            place = draw.randrange(len(content))
            other = bytes([content[place] ^ (1 << draw.randrange(8))])
            cut = content[:place] + other + content[place + 1 :] if number % 3 else content[:place]
            (folder / name).write_bytes(cut)
            # A space of the list of checksums is as good as another: then it is the same model.
            assert refused_or_same(folder, expected) or name == FILE
        (folder / name).unlink()
        if name != FILE:
            with pytest.raises(ModelError, match=name.replace(".", r"\.")):
                load(folder)
        shutil.copy(saved / name, folder / name)
    load(folder)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "generation_config.json",
                                  "tokenizer_config.json", "tokenizer.json"])  # fmt: skip
def test_any_value_of_any_file_is_used_or_refused(saved, bare, name):
    """Without checksums: whatever stands in a file, nothing but a LucidaError comes out."""
    values = json.loads((saved / name).read_text())
    draw, refused = random.Random(name), 0
    chosen = draw.sample([(path, new) for path in places(values) for new in WRONG], 25)
    for path, new in chosen:
        edit(bare / name, lambda found, at=path, to=new: put(found, at, to))
        refused += refused_or_same(bare, None)
        shutil.copy(saved / name, bare / name)
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000):
        (bare / name).write_bytes(content)
        refused += refused_or_same(bare, None)
        shutil.copy(saved / name, bare / name)
    assert refused >= 7


CHANGES = {
    "a layer less": ("config.json", lambda v: v["text_config"].update(num_hidden_layers=1)),
    "a layer more": ("config.json", lambda v: v["text_config"].update(num_hidden_layers=3)),
    "a great many": ("config.json", lambda v: v["text_config"].update(num_hidden_layers=10**9)),
    "vocabulary": ("config.json", lambda v: v["text_config"].update(vocab_size=10**9)),
    "patches": ("config.json", lambda v: v["vision_config"].update(image_size=10**5)),
    "no eyes": ("config.json", lambda v: v.update(vision_config=None)),
    "code": ("config.json", lambda v: v.update(auto_map={"AutoConfig": "evil.Config"})),
    "other code": ("tokenizer_config.json",
                   lambda v: v.update(auto_map={"AutoTokenizer": ["evil.T", None]})),
    "bits": ("config.json", lambda v: v.update(quantization_config={"quant_method": "awq"})),
    "another": ("config.json", lambda v: v.update(model_type="llama")),
    "dtype": ("config.json", lambda v: v.update(dtype="float16")),
    "template": ("config.json", lambda v: v["spec"]["language"].update(template="chatml")),
    "projector": ("config.json", lambda v: v["spec"].update(projector=5)),
    "visual tokens": ("processor_config.json", lambda v: v.update(visual_tokens=0)),
    "policy": ("processor_config.json", lambda v: v["image_policy"].update(policy="crop")),
    "size": ("processor_config.json", lambda v: v["image_policy"].update(size=32)),
    "mean": ("processor_config.json", lambda v: v["image_policy"].update(mean=[0, "a", 1])),
    "std": ("processor_config.json", lambda v: v["image_policy"].update(std=[1, 1, 0])),
    "bins": ("processor_config.json", lambda v: v.update(coordinate_bins=9)),
    "words": ("processor_config.json", lambda v: v.update(template="vicuna")),
    "misspelt": ("processor_config.json", lambda v: v.update(visual_tokenz=4)),
    "end": ("generation_config.json", lambda v: v.update(eos_token_id=10**6)),
    "placeholders": ("generation_config.json", lambda v: v.pop("suppress_tokens")),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_files_that_do_not_fit_are_refused_by_name(bare, what):
    name, change = CHANGES[what]
    edit(bare / name, change)
    with pytest.raises(ModelError) as caught:
        load(bare)
    assert str(bare) in str(caught.value)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "model.safetensors",
                                  "generation_config.json", "config.json"])  # fmt: skip
def test_a_missing_file_is_named(bare, name):
    (bare / name).unlink()
    with pytest.raises(ModelError) as caught:
        load(bare)
    assert name in str(caught.value)


TENSORS = {
    "unexpected": lambda v: v.update({"language.model.more": torch.ones(2)}),
    "missing": lambda v: v.pop("language.model.norm.weight"),
    "whole numbers": lambda v: v.update(
        {"language.model.norm.weight": torch.ones(16, dtype=torch.int32)}
    ),
    "turned": lambda v: v.update(
        {"projector.layers.0.weight": v["projector.layers.0.weight"].T[:, :8].contiguous()}
    ),
    "half": lambda v: v.update({"language.model.norm.weight": torch.ones(16).half()}),
}


@pytest.mark.parametrize("what", TENSORS)
def test_weights_that_are_not_the_models_are_refused(bare, what):
    weights(bare / "model.safetensors", TENSORS[what])
    with pytest.raises(ModelError):
        load(bare)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "processor_config.json"])
def test_a_key_that_stands_twice_is_refused(bare, name):
    text = (bare / name).read_text()
    key = next(iter(json.loads(text)))
    (bare / name).write_text(text.replace("{", f'{{"{key}": null, ', 1))
    with pytest.raises(ModelError, match=rf"{name}.*the key '{key}' stands twice"):
        load(bare)


def test_a_header_that_calls_numbers_otherwise_is_refused(bare):
    header(
        bare / "model.safetensors",
        lambda found: found["language.model.norm.weight"].update(dtype="I32"),
    )
    with pytest.raises(ModelError, match="I32"):
        load(bare)


def test_files_of_another_model_are_refused(folder, bare, tmp_path):
    save(*tiny_model(language={"path": language_folder("qwen2"), "max_length": 120}),
         tmp_path / "other")  # fmt: skip
    shutil.copy(tmp_path / "other" / "model.safetensors", bare / "model.safetensors")
    with pytest.raises(ModelError):
        load(bare)


def test_a_file_that_was_not_saved_with_the_others_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter_config\.json: this file was not saved"):
        load(folder)


def test_the_doors_of_transformers_check_as_well(saved, folder):
    weights(folder / "model.safetensors", lambda v: v.update(more=torch.ones(1)))
    with pytest.raises(ModelError, match="not the file that was saved"):
        AutoModelForImageTextToText.from_pretrained(folder)
    edit(folder / "processor_config.json", lambda v: v.update(visual_tokens=7))
    with pytest.raises(ModelError, match="not the file that was saved"):
        AutoProcessor.from_pretrained(folder)
    (folder / FILE).unlink()
    with pytest.raises(ModelError, match="visual tokens"):
        AutoProcessor.from_pretrained(folder)


def test_saving_by_transformers_keeps_the_checksums_true(folder):
    model, processor = load(folder)
    with torch.no_grad():
        model.projector.layers[0].bias.add_(1)
    model.save_pretrained(folder)
    again, _ = load(folder)
    assert torch.equal(again.projector.layers[0].bias, model.projector.layers[0].bias)
    processor.save_pretrained(folder)
    load(folder)


def test_who_changes_a_file_is_told_what_to_do(folder):
    edit(folder / "generation_config.json", lambda v: v.update(max_new_tokens=7))
    with pytest.raises(ModelError, match=r"remove its checksums\.json"):
        load(folder)
    (folder / FILE).unlink()
    model, _ = load(folder)
    assert model.generation_config.max_new_tokens == 7


def test_a_processor_of_another_model_is_not_saved(tmp_path):
    model, processor = tiny_model()
    processor.template = "vicuna"
    with pytest.raises(ModelError, match="do not agree about the template"):
        save(model, processor, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_checksums_are_those_of_every_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not of the model")
    seal(tmp_path)
    told = json.loads((tmp_path / FILE).read_text())["files"]
    # sha256sum of "{}"
    content = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert told == {"config.json": {"bytes": 2, "sha256": content}}
    check_sums(tmp_path)
    (tmp_path / FILE).write_text('{"format": 2, "files": {}}')
    with pytest.raises(ModelError, match="another format"):
        check_sums(tmp_path)


@pytest.mark.parametrize(("name", "content"), [
    ("config.json", b"{"), ("config.json", b"[]"), ("tokenizer.json", b"{}"),
    ("tokenizer.json", b"\xff"), ("model.safetensors", b"\x08"), ("model.safetensors", None),
    ("config.json", b'{"model_type": "nothing known"}'),
    ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}'),
    ("config.json", b'{"model_type": "x", "auto_map": {"AutoConfig": "evil.C"}}'),
])  # fmt: skip
def test_a_damaged_language_model_is_one_message(tmp_path, name, content):
    shutil.copytree(language_folder(), tmp_path / "language")
    file = tmp_path / "language" / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ModelError, match=r"language"):
        load_language(str(tmp_path / "language"))


@pytest.mark.parametrize("values", [3, [1, 2], [1, 2, "a"], [0.5, 0.5, 0.0], [[], [], []]], ids=str)
def test_a_preprocessing_that_is_none_is_refused(tmp_path, values):
    shutil.copytree(encoder_folder("siglip"), tmp_path / "eyes")
    edit(tmp_path / "eyes" / "preprocessor_config.json", lambda v: v.update(image_std=values))
    with pytest.raises(ModelError, match="three numbers"):
        encoder_shape(str(tmp_path / "eyes"))


def test_a_language_model_with_a_layer_left_over_is_refused(tmp_path):
    shutil.copytree(language_folder(), tmp_path / "language")
    edit(tmp_path / "language" / "config.json", lambda v: v.update(num_hidden_layers=1))
    with pytest.raises(ModelError, match=r"layers\.1\."):
        load_language(str(tmp_path / "language"))


def test_the_worked_example_of_further_layers():
    names = ["layers.1.w", "head.w", "mtp.0.w", "layers.0.w"]
    assert further_layers(names, ["layers.0.w"], 1) == ["layers.1.w"]
