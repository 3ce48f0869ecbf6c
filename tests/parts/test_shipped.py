"""The parts that ship: small, whole, with cards; and the command that makes them works."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ResNetModel

from lucida.core.errors import PartError
from lucida.model.checksums import FILE, check_sums
from lucida.model.parts import FOLDER, part_names
from lucida.parts.chat import chat_scores
from lucida.parts.language import question_scores, text_perplexity
from lucida.parts.objectives import PatchObjective
from lucida.parts.probe import probe_patches
from lucida.parts.table import BUILDERS, beside_shipped, build_part, card_rows, cards
from lucida.parts.tokenizer import make_tokenizer
from lucida.parts.vision import VISION_PARTS, patches_of


def test_every_shipped_part_has_a_builder_and_a_card():
    assert set(part_names()) == set(BUILDERS)
    for card in cards():
        assert card["made"].startswith(f"lucida parts build {card['name']} ")
        assert card["measured"]
        assert card["seconds"] <= 90 * 60
    assert len(card_rows()) == len(part_names())


@pytest.mark.parametrize("name", part_names())
def test_a_part_is_as_it_was_made(name):
    folder = FOLDER / name
    assert (folder / FILE).is_file(), "lucida.model.checksums.seal, as `lucida parts build` does"
    check_sums(folder)


def test_parts_are_small():
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert size <= 25e6
    for name in part_names():
        assert not list((FOLDER / name).glob("*.bin")), "weights are safetensors only"


def test_the_encoder_passes_its_probe():
    encoder = ResNetModel.from_pretrained(FOLDER / "siglip-mini", dtype=torch.float32).eval()
    scores = probe_patches(lambda pixels: patches_of(encoder, pixels), fit=600, score=300)
    assert min(scores[name] for name in ("shape", "colour", "size", "texture")) >= 90
    assert scores["word"] >= 60


def test_the_language_model_continues_text():
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "base-mini", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base-mini")
    text = "<bos>picture: a white background; a large red star <b03><b04><b11><b12>"
    asked = f"{text}\nQuestion: what colour is the star?\nAnswer:"
    ids = tokenizer(asked, return_tensors="pt", add_special_tokens=False).input_ids
    said = model.generate(ids, max_new_tokens=2, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == "red"


DISTILLED = "siglip-vit-mini"


def shortly(measure):
    """The measure on 30 scenes, whatever it is asked for."""
    return lambda model, reader, scenes, device: measure(model, reader, 30, device)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_part_is_made_from_nothing_by_one_call(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lucida.parts.language.shutil.which", lambda _: None)  # no compiling
    # A tokenizer from fewer texts, as large; small batches; the same measures on fewer scenes: two
    # steps leave nothing to be measured closely.
    monkeypatch.setattr("lucida.parts.language.make_tokenizer", partial(make_tokenizer, texts=1000))
    few = partial(probe_patches, fit=100, score=100)
    monkeypatch.setattr("lucida.parts.vision.probe_patches", few)
    for room in ("language", "chat"):
        for measure in (question_scores, text_perplexity, chat_scores):
            at = f"lucida.parts.{room}.{measure.__name__}"
            monkeypatch.setattr(at, shortly(measure), raising=False)
    fewer = {"questions": 2, "dialogue": 2, "requests": 2, "base": 1}
    monkeypatch.setattr("lucida.parts.chat.PER_STEP", fewer)
    distilled = replace(VISION_PARTS[DISTILLED], objective=partial(PatchObjective, pictures=64))
    monkeypatch.setitem(VISION_PARTS, DISTILLED, distilled)
    batch = {"base-mini": {"exercises": 3}, "chat-mini": {}}.get(name, {"pictures": 8})
    card = build_part(name, tmp_path / name, steps=2, **batch)
    assert json.loads((tmp_path / name / "card.json").read_text()) == card
    assert (tmp_path / name / "model.safetensors").stat().st_size > 1e6
    shipped = next(each["measured"] for each in cards() if each["name"] == name)
    compared = beside_shipped(name, card)
    assert [what for what, _, _ in compared] == list(shipped)  # the same measures, each found
    assert all(row == [row[0], card["measured"][row[0]], shipped[row[0]]] for row in compared)
    with pytest.raises(PartError, match="already"):
        build_part(name, tmp_path / name, steps=2)
