"""Candidates behind a shared stem have the likelihoods that asking one at a time gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import picture, tiny_model

from lucida.core.errors import DataError
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, ImagePart, Sample, Turn
from lucida.eval import likelihood
from lucida.eval.likelihood import append_candidate, likelihoods, pack_tree, question, trees
from lucida.model.decode import greedy
from lucida.model.masks import MASKS, TWIG
from lucida.model.messages import image_source

torch.set_num_threads(1)


def asked(text: str, *seeds: int) -> Sample:
    images = tuple(image_source(picture(seed), n) for n, seed in enumerate(seeds, 1))
    stem = (Turn("user", tuple(ImagePart(n) for n in range(len(images)))),) if images else ()
    return Sample("test", images, stem, ((Turn("user", (text,)),),))


SAMPLES = [
    asked("what colour?", 0),
    asked("no image"),
    asked("is it red", 0),
    asked("how many in both?", 1, 2),
    asked("which letter", 0),
]
CANDIDATES = [
    ["red", "blue", "light blue"],
    ["a"],
    ["yes", "no"],
    ["1", "2", "13", "1"],
    ["A", "B"],
]


def alone(model, processor, sample, text) -> tuple[float, float, int]:
    """One forward for one candidate, its logits whole: the obvious way."""
    tokens = append_candidate(processor, sample, text)
    batch = collate([tokens], pack=False, pad_id=0, pixels=processor.pixels)
    with torch.no_grad():
        scores = model.logits(model.hidden(batch))[0].double().log_softmax(-1)
    target = torch.from_numpy(tokens.target)
    where = (target != IGNORED).nonzero().squeeze(1)
    found = scores[where, target[where]]
    return float(found[0]), float(found.sum()), len(found)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("vision", ["siglip", None])
@pytest.mark.parametrize("batch_tokens", [8192, 60])
def test_equal_to_a_loop_over_candidates(mask, vision, batch_tokens, monkeypatch):
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 300 * 3)
    model, processor = tiny_model(vision, mask=mask)
    found = likelihoods(model, processor, SAMPLES, CANDIDATES, batch_tokens)
    for sample, texts, given in zip(SAMPLES, CANDIDATES, found, strict=True):
        expected = [alone(model, processor, sample, text) for text in texts]
        for (first, whole, count), one in zip(expected, given, strict=True):
            assert one.tokens == count
            assert one.first == pytest.approx(first, abs=1e-4)
            assert one.whole == pytest.approx(whole, abs=1e-4)
            assert one.normalised == pytest.approx(whole / count, abs=1e-4)
        assert np.argmax([one.whole for one in given]) == np.argmax([w for _, w, _ in expected])


@pytest.mark.parametrize("mask", MASKS)
def test_a_stage_asks_under_its_own_mask_and_leaves_the_model_alone(mask):
    """What is asked while a stage trains, with the processor that is set for it."""
    model, processor = tiny_model(mask=mask)
    expected = likelihoods(model, processor, SAMPLES, CANDIDATES)
    written = greedy(model, processor, SAMPLES, 5)
    model.config.spec["attention_mask"] = other = "causal" if mask != "causal" else "image_block"
    stage = SimpleNamespace(template=processor.template, attention_mask=mask)
    staged = processor.for_stage(stage)
    assert likelihoods(model, staged, SAMPLES, CANDIDATES) == expected
    assert greedy(model, staged, SAMPLES, 5) == written
    assert (model.mask, processor.attention_mask) == (other, None)
    assert likelihoods(model, processor, SAMPLES, CANDIDATES) != expected


def test_pictures_in_tiles():
    """Their features are a list: one entry of its own length for each picture."""
    model, processor = tiny_model(image={"policy": "anyres"})
    for each in (*SAMPLES[:3], asked("twice?", 4, 4)):
        ((given,),) = likelihoods(model, processor, [each], [["yes"]])
        assert given.whole == pytest.approx(alone(model, processor, each, "yes")[1], abs=1e-4)
    together = likelihoods(model, processor, SAMPLES, CANDIDATES)
    one_by_one = [
        likelihoods(model, processor, [each], [texts])[0]
        for each, texts in zip(SAMPLES, CANDIDATES, strict=True)
    ]
    for first, second in zip(together, one_by_one, strict=True):
        assert [one.whole for one in first] == pytest.approx([o.whole for o in second], abs=1e-4)


def grown(longest: int):
    _, processor = tiny_model()
    pairs = zip(SAMPLES, CANDIDATES, strict=True)
    return trees([question(processor, n, *pair) for n, pair in enumerate(pairs)], longest)


def test_questions_about_a_picture_are_one_tree(monkeypatch):
    monkeypatch.setattr("lucida.model.trees.LEAST", 1000)
    joined = {tuple(sorted(each.index for each in tree.questions)): tree for tree in grown(8192)}
    assert set(joined) == {(0, 2, 4), (1,), (3,)}
    tree = joined[0, 2, 4]
    tokens, places = pack_tree(tree)
    assert len(tokens) == len(tree) < sum(map(len, tree.questions))
    assert set(tokens.branch % TWIG) == {0, 1, 2, 3}
    fed = [(each, target) for each in tree.questions for target in each.targets]
    for (each, target), own in zip(fed, places, strict=True):
        last = own[0]
        assert tokens.input_ids[last] == each.stem.input_ids[-1]
        assert tokens.position[own].tolist() == list(
            range(len(each.stem) - 1, len(each.stem) - 1 + len(target))
        )
        assert tokens.input_ids[own[1:]].tolist() == target[:-1].tolist()


def test_a_tree_stays_within_its_length():
    longest = max(len(each) for tree in grown(8192) for each in tree.questions) + 30
    for tree in grown(longest):
        assert len(tree) <= longest or len(tree.questions) == 1
    assert all(len(tree.questions) == 1 for tree in grown(0))


def test_gated_layers_see_the_same_images_from_twigs():
    model, processor = tiny_model(cross_attention={"every": 1, "heads": 2})
    with torch.no_grad():
        for layer in model.cross_attention.layers.values():
            layer.gate.fill_(0.7)
            layer.mlp_gate.fill_(0.7)
    found = likelihoods(model, processor, SAMPLES, CANDIDATES)
    for sample, texts, given in zip(SAMPLES, CANDIDATES, found, strict=True):
        for text, one in zip(texts, given, strict=True):
            assert one.whole == pytest.approx(alone(model, processor, sample, text)[1], abs=1e-4)


def test_equal_to_logits_of_transformers():
    model, processor = tiny_model()
    sample, text = SAMPLES[0], "light blue"
    tokens = append_candidate(processor, sample, text)
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(tokens.input_ids)[None],
            pixel_values=processor.pixels(tokens.images),
        ).logits[0]
    scores = logits.double().log_softmax(-1)
    start = len(processor.prompt(sample))
    ids = tokens.input_ids[start:]
    expected = sum(float(scores[start - 1 + n, token]) for n, token in enumerate(ids))
    (found,) = likelihoods(model, processor, [sample], [[text]])
    assert found[0].whole == pytest.approx(expected, abs=1e-4)
    assert found[0].tokens == len(ids) == len("light blue") + 2  # " light blue" and the end token


def test_a_document_is_continued_without_an_end_token():
    model, processor = tiny_model()
    sample = Sample("text", (), (), ((Turn("text", ("once upon",)),),))
    (found,) = likelihoods(model, processor, [sample], [[" a time"]])
    assert found[0].tokens == len(" a time")
    whole = Sample("text", (), (), ((Turn("text", ("once upon a time",)),),))
    tokens = processor.encode(whole, loss="all")
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens.input_ids)[None]).logits[0]
    scores = logits.double().log_softmax(-1)
    places = range(len(tokens) - 2 - len(" a time"), len(tokens) - 2)
    expected = sum(float(scores[n, tokens.input_ids[n + 1]]) for n in places)
    assert found[0].whole == pytest.approx(expected, abs=1e-4)


def test_the_image_is_encoded_once_and_the_model_stays_in_its_mode(monkeypatch):
    model, processor = tiny_model()
    model.train()
    seen = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: seen.append(len(p)) or encode(p))
    likelihoods(model, processor, SAMPLES, CANDIDATES)
    assert sum(seen) == 3, "three questions share a picture, one shows two"
    assert model.training


def test_what_cannot_be_scored_is_refused():
    model, processor = tiny_model()
    with pytest.raises(DataError, match="no candidates"):
        likelihoods(model, processor, SAMPLES[:1], [[]])
    with pytest.raises(DataError, match="empty"):
        likelihoods(model, processor, SAMPLES[:1], [["a", ""]])
    with pytest.raises(DataError, match="does not fit"):
        likelihoods(model, processor, SAMPLES[:1], [["a", "b" * 500]])
