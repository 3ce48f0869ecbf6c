"""A cache with room holds what transformers' own holds; looking at a model leaves its modes."""

from __future__ import annotations

import pytest
import torch
from tiny import greedy_tokens, picture, tiny_model
from torch import nn
from transformers.cache_utils import DynamicLayer

from closeness import close
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.model.decode import request, row_batches
from lucida.model.evaluating import evaluating
from lucida.model.key_values import Given, Roomy, make_single_use_cache
from lucida.model.masks import Fields
from lucida.model.messages import image_source
from lucida.model.segments import Segments

torch.set_num_threads(1)


def states(rows, positions, seed):
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 2, positions, 4, generator=drawn) for _ in range(2))


@pytest.mark.parametrize("room", [0, 3, 20])
def test_room_changes_nothing(room):
    first = states(3, 5, 0)
    theirs, mine = DynamicLayer(), Roomy(*first, rows=3, filled=5, room=room)
    theirs.update(*first)
    mine.keys[:], mine.values[:] = first
    for step, count in enumerate((1, 2, 1, 4)):
        new = states(len(theirs.keys), count, step + 1)
        for expected, given in zip(theirs.update(*new), mine.update(*new), strict=True):
            assert torch.equal(expected, given)
        assert theirs.get_seq_length() == mine.get_seq_length()
        assert theirs.get_mask_sizes(2) == mine.get_mask_sizes(2)
        if step == 1:
            kept = torch.tensor([2, 0])
            theirs.batch_select_indices(kept)
            mine.batch_select_indices(kept)
            assert torch.equal(theirs.keys, mine.keys)
            assert torch.equal(theirs.values, mine.values)


def test_what_is_given_once_is_not_copied():
    cache = make_single_use_cache()
    keys, values = states(1, 4, 0)
    found = cache.update(keys, values, 0)
    assert found[0] is keys
    assert found[1] is values
    assert isinstance(cache.layers[0], Given)
    more = cache.update(*states(1, 2, 1), 0)
    assert more[0].shape[2] == cache.get_seq_length() == 6
    assert torch.equal(more[0][:, :, :4], keys)


def test_each_module_keeps_its_mode():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_rows_of_one_length_need_no_mask(monkeypatch):
    """Questions of one length, each about its own picture; some end early and are dropped."""
    model, processor = tiny_model()
    model.generation_config.eos_token_id = [2, *range(40, 110)]
    stem = (Turn("user", (ImagePart(0),)),)
    samples = [
        Sample("test", (image_source(picture(seed), 1),), stem, ((Turn("user", (letter,)),),))
        for seed, letter in enumerate("abcdefgh")
    ]
    prompts = [processor.prompt(sample) for sample in samples]
    assert len({len(prompt) for prompt in prompts}) == 1
    (batch,) = row_batches([request(n, prompt) for n, prompt in enumerate(prompts)], 7, 16_384)
    assert len(batch) == 8
    masks = []
    forward = model.language.forward
    monkeypatch.setattr(
        model.language, "forward", lambda **given: masks.append(given["attention_mask"])
        or forward(**given)
    )  # fmt: skip
    written = greedy_tokens(model, processor, prompts, 7)
    assert masks
    assert all(mask is None for mask in masks)
    monkeypatch.undo()
    assert len({len(ids) for ids in written}) > 1
    for prompt, ids in zip(prompts, written, strict=True):
        alone = model.generate(**processor.batch([prompt]), max_new_tokens=7, do_sample=False)
        expected = alone[0, len(prompt) :].tolist()
        assert ids == [token for token in expected if token not in [2, *range(40, 110)]]
        assert greedy_tokens(model, processor, [prompt], 7) == [ids]


@pytest.mark.parametrize("mask", ["causal", "image_block", "all_images"])
def test_attention_is_the_same_without_gradients(mask):
    segment = torch.tensor([[1] * 7 + [2] * 5 + [0] * 2])
    branch = torch.tensor([[0] * 4 + [1, 1, 2] + [0, 0, 1, 2, 2] + [0] * 2])
    image = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]])
    order = torch.arange(14)[None]
    fields = Fields(segment, branch, order, image, torch.zeros_like(segment))
    way = Segments(fields, mask)
    query = torch.randn(1, 4, 14, 8, generator=torch.Generator().manual_seed(0))
    key, value = (query[:, :2] * scale for scale in (0.5, 2.0))
    with_gradients = way.attend(query, key, value, 0.3, 0.0)
    with torch.no_grad():
        without = way.attend(query, key, value, 0.3, 0.0)
    close(with_gradients, without)
