"""What is found inside a model, held against transformers, against weights and against pictures."""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import language_folder, picture, tiny_model

import lucida
from closeness import close
from lucida.core.errors import DataError, ModelError
from lucida.data.collate import collate
from lucida.eval.questions import likelihoods, samples_of
from lucida.interpretability.answer import ask_once
from lucida.interpretability.covering import (
    SPANS,
    average_windows,
    grid_of,
    list_windows,
    make_cover,
)
from lucida.interpretability.drawing import draw_look
from lucida.interpretability.page import write_page
from lucida.interpretability.watching import States, roll_out, watch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parts():
    return tiny_model(image={"policy": "crop"})


@pytest.fixture(scope="module")
def found(parts):
    return lucida.look(parts, picture(1, 48, 24), "what?", "a b", cells=4)


def test_the_answer_is_the_models_own(parts):
    look = lucida.look(parts, picture(1, 48, 24), "what?", show=["occlusion"], max_new_tokens=4)
    (answer,) = lucida.ask(parts, [(picture(1, 48, 24), "what?")], 4)
    assert look.answer == answer.text
    assert look.log_probabilities == pytest.approx(answer.log_probabilities, abs=1e-5)
    assert look.attention is None and look.heads is None and look.lens is None


def test_a_given_answer_is_scored_as_a_candidate(parts, found):
    ((score,),) = likelihoods(parts, [(picture(1, 48, 24), "what?")], [["a b"]])
    assert found.log_probabilities.sum() == pytest.approx(score.whole, abs=1e-4)
    assert len(found.tokens) == score.tokens and found.tokens[-1] == "(end)"


def asked_about(image):
    (sample,) = samples_of([(image, "what?")])
    return sample


@pytest.mark.parametrize("mask", ["causal", "image_block", "prefix"])
def test_attention_is_what_transformers_says(mask):
    model, processor = tiny_model(mask=mask)
    asked = ask_once(model, processor, asked_about(picture(2)), "yes", 4)
    look = lucida.look((model, processor), picture(2), "what?", "yes", show=["attention"])
    stem = len(asked.tokens) - len(asked.targets) + 1
    if mask != "prefix":  # what transformers is given at once is all prompt under `prefix`
        stem = len(asked.tokens)
    model.language.set_attn_implementation("eager")
    inputs = {
        "input_ids": torch.from_numpy(asked.tokens.input_ids)[None, :stem],
        "pixel_values": processor.pixels(asked.tokens.images),
    }
    with torch.no_grad():
        expected = torch.stack(model(**inputs, output_attentions=True).attentions)[:, 0]
    seen = asked.tokens.image[:stem] > 0
    asking = asked.asking[asked.asking < stem]
    close(
        torch.from_numpy(look.attention[:, :, : len(asking)]),
        expected[:, :, asking][..., seen],
    )
    assert look.attention.sum(-1) + look.to_text == pytest.approx(np.ones(look.to_text.shape))


def test_rolled_out_attention_is_a_share():
    generator = torch.Generator().manual_seed(0)
    mean = [torch.rand(7, 7, generator=generator).tril().softmax(-1) for _ in range(3)]
    flow = roll_out(mean, torch.tensor([2, 6]))
    assert flow.sum(-1) == pytest.approx(torch.ones(2))
    plain = [0.5 * (each + torch.eye(7)) for each in mean]
    close(flow, (plain[2] @ plain[1] @ plain[0])[[2, 6]])
    close(roll_out([torch.eye(7)] * 3, torch.tensor([4])), torch.eye(7)[[4]])


@pytest.mark.parametrize("language", ["llama", "gpt-neox", "opt", "gemma3"])
@torch.no_grad()
def test_the_last_layer_read_by_the_lens_is_the_models_answer(language):
    model, processor = tiny_model(language=language)
    asked = ask_once(model, processor, asked_about(picture(2)), "yes", 4)
    batch = collate([asked.tokens], pack=False, pad_id=0)
    batch.pixel_values = processor.pixels(asked.tokens.images)
    expected = model.hidden(batch)
    states = States()
    visual = model.visual(batch.pixel_values, None)
    hidden, _ = watch(model, batch, visual, "causal", states=states)
    close(hidden, expected)
    assert len(states.layers) == model.language.config.num_hidden_layers + 1
    close(states.finish(states.layers[-1]), hidden[0])
    look = lucida.look((model, processor), picture(2), "what?", "yes", show=["words"])
    lens = look.lens
    assert lens.words.shape[:2] == (len(states.layers), 4)
    assert (np.diff(lens.chances, axis=-1) <= 0).all()
    shares = model.logits(hidden[0]).softmax(-1)[asked.tokens.image > 0]
    close(torch.from_numpy(lens.answer[-1]), shares[:, asked.targets])
    assert set(np.unique(lens.words)) == set(look.vocabulary)


def test_a_covered_picture_is_the_picture_of_the_cover(parts):
    image = picture(1, 48, 24)
    look = lucida.look(parts, image, "what?", "a b", show=["occlusion"], cells=1)
    blank = make_cover(image, "mean")
    ((score,),) = likelihoods(parts, [(blank, "what?")], [["a b"]])
    assert look.covered.sum() == pytest.approx(score.whole, abs=1e-4)
    drop = look.log_probabilities - look.covered
    assert look.pictures[0].occlusion.shape == (1, 1, len(drop))
    assert look.pictures[0].occlusion[0, 0] == pytest.approx(drop, abs=1e-5)


def test_covering_what_is_cut_away_or_covering_with_itself_changes_nothing(parts, found):
    drops = found.pictures[0].occlusion
    assert found.pictures[0].places.seen == (12, 0, 36, 24)
    assert drops.shape[:2] == (2, 4)
    plain = Image.new("RGB", (48, 24), (10, 200, 30))
    look = lucida.look(parts, plain, "what?", "a b", show=["occlusion"], cells=4)
    assert np.abs(look.pictures[0].occlusion).max() < 1e-5
    small = lucida.look(parts, picture(1, 48, 24), "what?", "a b", show=["occlusion"], cells=24)
    outside = small.pictures[0].occlusion[:, [0, 1, 2, -3, -2, -1]]
    assert (outside == 0).all()
    assert np.abs(drops).max() > 1e-3


@pytest.mark.parametrize("span", SPANS)
def test_windows_cover_every_cell_alike(span):
    grid = grid_of(50, 31, 7)
    assert grid == (4, 7)
    windows = list_windows(50, 31, grid, span)
    assert len(windows) == (3 + span) * (6 + span)
    count = np.zeros((31, 50), int)
    for x0, y0, x1, y1 in windows:
        count[y0:y1, x0:x1] += 1
    assert (count == span**2).all()
    ones = average_windows(np.ones((len(windows), 2)), grid, span)
    assert ones.tolist() == np.ones((*grid, 2)).tolist()


def test_a_cell_is_the_mean_of_the_windows_over_it():
    drops = np.array([1.0, 2, 3, 5, 6, 7])
    assert average_windows(drops, (1, 2), 2).tolist() == [[3.5, 4.5]]
    assert grid_of(3, 1, 12) == (1, 3)


def test_a_head_that_is_not_read_costs_nothing():
    model, processor = tiny_model()
    width = model.language.config.head_dim
    with torch.no_grad():
        model.language.model.layers[1].self_attn.o_proj.weight[:, width : 2 * width] = 0
    look = lucida.look((model, processor), picture(3), "what?", "yes", show=["heads"])
    assert look.heads.shape[:2] == (2, 4)
    assert np.abs(look.heads[1, 1]).max() < 1e-6
    assert np.abs(np.delete(look.heads.reshape(8, -1), 5, axis=0)).max(-1).min() > 1e-4
    ((before,),) = likelihoods((model, processor), [(picture(3), "what?")], [["yes"]])
    with torch.no_grad():
        model.language.model.layers[0].self_attn.o_proj.weight[:, 2 * width : 3 * width] = 0
    ((after,),) = likelihoods((model, processor), [(picture(3), "what?")], [["yes"]])
    assert look.heads[0, 2].sum() == pytest.approx(before.whole - after.whole, abs=1e-4)


def test_several_pictures_are_told_apart():
    model, processor = tiny_model(
        "siglip", {"path": language_folder(), "max_length": 600}, image={"policy": "split"}
    )
    images = [picture(1, 40, 20), picture(2, 14, 14)]
    look = lucida.look((model, processor), images, "what?", "yes", cells=3)
    first, second = look.pictures
    assert (first.tokens, second.tokens) == (slice(0, 12), slice(12, 16))
    assert look.attention.shape[-1] == 16
    assert first.image.size == (40, 20) and second.image.size == (14, 14)
    look = replace(look, attention=None, lens=None, heads=None)
    assert set(draw_look(look)) == {"occlusion-1.png", "occlusion-2.png"}


def test_without_places_there_is_occlusion():
    projector = {"kind": "perceiver", "queries": 3, "heads": 2}
    model, processor = tiny_model(projector=projector)
    look = lucida.look((model, processor), picture(1), "what?", "yes", cells=2)
    assert any("perceiver" in note for note in look.notes)
    assert set(draw_look(look)) == {"occlusion.png", "heads.png"}
    assert np.abs(look.pictures[0].occlusion).max() > 1e-5
    assert "perceiver" in write_page(look)


def test_gated_layers_are_named_and_occlusion_works():
    model, processor = tiny_model(cross_attention={"every": 1, "heads": 2})
    with torch.no_grad():
        for layer in model.cross_attention.layers.values():
            layer.gate.fill_(0.7)
    look = lucida.look((model, processor), picture(1), "what?", "yes", cells=2)
    assert any("gated" in note for note in look.notes)
    assert look.attention is None and look.lens is None
    assert look.heads.shape[:2] == (2, 4)
    assert np.abs(look.pictures[0].occlusion).max() > 1e-5


def test_what_cannot_be_looked_at_is_refused(parts):
    blind = tiny_model(vision=None)
    with pytest.raises(ModelError, match="blind"):
        lucida.look(blind, picture(1), "what?")
    with pytest.raises(DataError, match="did you mean `heads`"):
        lucida.look(parts, picture(1), "what?", show=["head"])
    with pytest.raises(DataError, match="did you mean `grey`"):
        lucida.look(parts, picture(1), "what?", cover="gray")
    with pytest.raises(DataError, match="cells"):
        lucida.look(parts, picture(1), "what?", cells=0)
    with pytest.raises(DataError, match="without a picture"):
        lucida.look(parts, [], "what?")
    with pytest.raises(DataError, match="empty"):
        lucida.look(parts, picture(1), "what?", " ")


def test_the_page_holds_everything_and_loads_nothing(found):
    page = write_page(found)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "@import" not in page and "fetch(" not in page
    told = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )
    content = base64.b64decode(told["heads"]["data"])
    values = np.frombuffer(content, "<f4").reshape(told["heads"]["shape"])
    assert values == pytest.approx(found.heads)
    weights = told["attention"]["heads"]
    shares = np.frombuffer(base64.b64decode(weights["data"]), np.uint8).reshape(weights["shape"])
    most = np.frombuffer(base64.b64decode(weights["most"]["data"]), "<f4").reshape(
        shares.shape[:-1]
    )
    close_to = shares / 255 * most[..., None]
    assert np.abs(close_to - found.attention).max() < 0.003
    assert told["tokens"] == list(found.tokens)


def test_words_of_a_page_are_no_markup(parts):
    look = lucida.look(parts, picture(1), "<b>?</script>", "</script><i>", show=["occlusion"])
    page = write_page(look)
    assert "</script><i>" not in page and "<b>?</script>" not in page
    assert page.count("</script>") == 2


def test_pictures_of_maps_open(found):
    from io import BytesIO

    for name, content in draw_look(found).items():
        with Image.open(BytesIO(content)) as image:
            assert image.format == "PNG" and min(image.size) > 100, name
