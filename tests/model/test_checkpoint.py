"""Built, saved and loaded again: the same logits, by every door."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny import BOXES, encoder_folder, language_folder, picture, spec, tiny_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from lucida.core.errors import ModelError, PartError, RunError
from lucida.data.collate import collate
from lucida.model import checkpoint, parts
from lucida.model.checkpoint import build, load, save
from lucida.model.language import add_tokens, load_language
from lucida.model.messages import sample_of
from lucida.model.registration import register

torch.set_num_threads(1)
register()
ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
SHOWN = [{"type": "image", "image": picture()}, {"type": "text", "text": "what colour?"}]
QUESTION = [{"role": "user", "content": SHOWN}]
KINDS = [
    {},
    {"tied": False},
    {"language": "gpt-neox"},
    {"language": "qwen2", "mask": "image_block"},
    {"vision": None},
    {"vision": {"path": encoder_folder("clip"), "feature_layer": -2, "take": "cls_patches"}},
    {"vision": {"path": encoder_folder("vit"), "normed": True}},
    {"vision": {"path": encoder_folder("convnext")}, "image": {"size": 64}},
    {
        "vision": {"path": encoder_folder("siglip")},
        "image": {"size": 32},
        "projector": {"kind": "mlp", "norm": True, "position": True, "depth": 3, "hidden": 24},
    },
    {"projector": {"kind": "linear"}},
]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
def test_saved_and_loaded_by_every_door(kind, tmp_path):
    model, processor = tiny_model(**kind)
    for weight in model.parameters():
        weight.add_(0.01)  # nothing that the parts' own folders could still give back
    given = processor.apply_chat_template(QUESTION, **ASK)
    logits = model(**given).logits
    save(model, processor, tmp_path)
    ours, own = load(tmp_path)
    assert torch.equal(ours(**own.apply_chat_template(QUESTION, **ASK)).logits, logits)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    other = AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(theirs(**other.apply_chat_template(QUESTION, **ASK)).logits, logits)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert (tmp_path / "config.json").read_text() == ours.config.to_json_string()
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(ours.named_buffers()).keys()
    for name, value in ours.named_buffers():
        assert torch.equal(value, buffers[name]), name
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (ours.get_input_embeddings().weight is ours.get_output_embeddings().weight)


def test_parts_keep_their_weights():
    model, _ = tiny_model()
    encoder = AutoModel.from_pretrained(encoder_folder("siglip")).state_dict()
    for name, value in model.vision.model.state_dict().items():
        assert torch.equal(value, encoder[name])
    language = AutoModelForCausalLM.from_pretrained(language_folder()).state_dict()
    for name, value in model.language.state_dict().items():
        assert torch.equal(value[: len(language[name])], language[name])


def test_the_projector_depends_on_the_seed_alone():
    first = tiny_model()[0].projector.state_dict()
    torch.rand(5)
    again = tiny_model()[0].projector.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = first["layers.0.weight"]
    assert 0.5 < weight.std() * (3 * weight.shape[1]) ** 0.5 < 1.5


def test_an_interrupted_save_is_no_model(tmp_path, monkeypatch):
    model, processor = tiny_model()
    (tmp_path / "recipe.yaml").write_text("name: kept")
    save(model, processor, tmp_path)
    done, replace = [], checkpoint.Path.replace

    def stops(source, target):
        if source.parent.name.endswith("staged"):
            if len(done) == 2:
                raise OSError(errno.ENOSPC, "no space")
            done.append(target)
        return replace(source, target)

    monkeypatch.setattr(checkpoint.Path, "replace", stops)
    with pytest.raises(RunError, match="disk is full"):
        save(model, processor, tmp_path)
    assert not [path for path in tmp_path.iterdir() if ".model" in path.name]
    with pytest.raises(ModelError, match="no finished model"):
        load(tmp_path)
    monkeypatch.undo()
    save(model, processor, tmp_path)
    load(tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "name: kept"


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    from safetensors.torch import save_file

    model, processor = tiny_model()
    save(model, processor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["projector.layers.0.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(ModelError, match=r"projector\.layers\.0\.weight"):
        load(tmp_path)


def test_tokens_are_added_only_where_they_lack():
    language, tokenizer = load_language(language_folder())
    rows = language.get_input_embeddings().weight.shape[0]
    assert add_tokens(language, tokenizer, BOXES) == "<image>"
    weight = language.get_input_embeddings().weight
    assert len(weight) == len(tokenizer) == rows + 1 + len(BOXES)
    assert language.config.vocab_size == len(weight)
    assert language.get_output_embeddings().weight is weight
    distance = torch.cdist(weight[rows:], weight[:rows].mean(0, keepdim=True))
    assert (distance > 0).all() and (distance < weight[:rows].norm(dim=1).mean()).all()
    assert add_tokens(language, tokenizer, BOXES) == "<image>"
    assert len(language.get_input_embeddings().weight) == len(weight)

    language, tokenizer = load_language(language_folder("llama", True, ("<|image_pad|>", *BOXES)))
    rows = len(tokenizer)
    assert add_tokens(language, tokenizer, BOXES) == "<|image_pad|>"
    assert len(tokenizer) == rows == len(language.get_input_embeddings().weight)
    assert tokenizer.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")


def test_spare_rows_of_the_embedding_are_used(tmp_path):
    folder = tmp_path / "language"
    shutil.copytree(language_folder(), folder)
    language = AutoModelForCausalLM.from_pretrained(folder)
    language.resize_token_embeddings(400)
    language.save_pretrained(folder)
    language, tokenizer = load_language(str(folder))
    add_tokens(language, tokenizer, BOXES)
    assert len(language.get_input_embeddings().weight) == 400


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    folder = tmp_path / "language"
    shutil.copytree(language_folder(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="no end token"):
        load_language(str(folder))


def test_parts_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "FOLDER", tmp_path)
    shutil.copytree(encoder_folder("siglip"), tmp_path / "siglip-mini")
    shutil.copytree(language_folder(), tmp_path / "llama-mini")
    assert parts.part_names() == ["llama-mini", "siglip-mini"]
    assert parts.part_path("google/siglip") == "google/siglip"
    model, _ = build(spec({"path": "lucida:siglip-mini"}, {"path": "lucida:llama-mini"}))
    assert model.config.model_spec.vision.path == "lucida:siglip-mini"
    with pytest.raises(PartError, match="did you mean `siglip-mini`"):
        parts.part_path("lucida:siglip-mni")


@torch.no_grad()
def test_loaded_in_bf16_it_answers_and_trains(tmp_path):
    model, processor = tiny_model(mask="image_block")
    save(model, processor, tmp_path)
    half, _ = load(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    given = processor.apply_chat_template(QUESTION, **ASK)
    exact, rough = model(**given).logits, half(**given).logits.float()
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()
    assert half.generate(**given, max_new_tokens=2).shape[0] == 1
    with torch.enable_grad():
        tokens = processor.prompt(sample_of(QUESTION))
        half.hidden(collate([tokens], True, 0, processor.pixels)).float().sum().backward()
    assert half.projector.layers[0].weight.grad is not None


def test_a_model_of_the_first_layout_is_refused_with_its_age_and_what_to_do(tmp_path):
    save(*tiny_model(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.pop("patches") == values["visual_tokens"] == 4
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(ModelError, match=r"before commit 41a483e.*recipe"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["vision", "language"])
def test_a_part_that_is_not_here_is_named_with_its_field(part):
    said = rf"model\.{part}.*/nowhere/at-all.*name a folder that has it"
    with pytest.raises(PartError, match=said):
        build(spec(**{part: {"path": "/nowhere/at-all"}}))
