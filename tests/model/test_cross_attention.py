"""The gated layers by themselves, inside language models, and as a whole model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LANGUAGES, language_folder
from torch import nn

from lucida.core.errors import ModelError
from lucida.core.spec import CrossAttentionSpec
from lucida.model.cross_attention import (
    GatedCrossAttention,
    GatedLayer,
    images_of,
    visible,
)
from lucida.model.language import load_language
from lucida.model.masks import Fields

torch.set_num_threads(1)


def fields(segment: list, branch: list, image: list) -> Fields:
    order = list(range(len(segment)))
    return Fields(*(torch.tensor([v]) for v in (segment, branch, order, image, [1] * len(order))))


def reads(row: Fields, sees: str) -> list[list[int]]:
    """For each position the numbers of the images it reads, counted over the row."""
    images = images_of(row, torch.zeros(int((row.image > 0).sum()), 1, 1))
    return [seen.nonzero().flatten().add(1).tolist() for seen in visible(row, images, sees)[0]]


def test_who_reads_what_as_drawn_in_the_docstring():
    """Start, image, word, image, word on the stem; image and word; word."""
    row = fields([1] * 8, [0, 0, 0, 0, 0, 1, 1, 2], [0, 1, 0, 2, 0, 3, 0, 0])
    assert reads(row, "last") == [[], [1], [1], [2], [2], [3], [3], [2]]
    every = [[], [1], [1], [1, 2], [1, 2], [1, 2, 3], [1, 2, 3], [1, 2]]
    assert reads(row, "all") == every


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["last", "all"]))
def test_who_reads_what_against_a_slow_version(data, sees):
    segment, branch, image = [], [], []
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        pictures = 0
        for part in range(data.draw(st.integers(1, 3))):
            for _ in range(data.draw(st.integers(1, 4))):
                shown = data.draw(st.booleans())
                pictures += shown
                segment.append(number)
                branch.append(part)
                image.append(pictures if shown else 0)
    given_reads = reads(fields(segment, branch, image), sees)
    markers = [place for place, number in enumerate(image) if number]
    for place in range(len(segment)):
        behind = [
            1 + index
            for index, marker in enumerate(markers)
            if marker <= place
            and segment[marker] == segment[place]
            and branch[marker] in (0, branch[place])
        ]
        assert given_reads[place] == (behind if sees == "all" else behind[-1:])


@torch.no_grad()
def test_a_gated_layer_against_a_slow_version():
    torch.manual_seed(0)
    layer = GatedLayer(8, 2)
    for weight in layer.parameters():
        weight.copy_(torch.randn_like(weight))
    states, visual = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    allowed = torch.tensor([[[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1]]], dtype=torch.bool)
    given = layer(states, visual, allowed)
    assert torch.equal(given[0, 0], states[0, 0])  # reads nothing, stays as it was
    for place in (1, 2):
        mine = states[0, place]
        query = layer.query(layer.norm(mine)).view(2, 4)
        found = []
        for head in range(2):
            tokens = visual[0, allowed[0, place]]
            keys = layer.key(tokens).view(-1, 2, 4)[:, head]
            values = layer.value(tokens).view(-1, 2, 4)[:, head]
            found.append((keys @ query[head] / 2.0).softmax(0) @ values)
        mine = mine + layer.gate.tanh() * layer.out(torch.cat(found))
        mine = mine + layer.mlp_gate.tanh() * layer.mlp(mine)
        torch.testing.assert_close(given[0, place], mine, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGES)
def test_closed_gates_leave_every_language_model_as_it_is(name):
    language, _ = load_language(language_folder(name))
    ids = torch.arange(3, 11)[None]
    expected = language(ids).logits
    gated = GatedCrossAttention(CrossAttentionSpec(every=1, heads=2), language)
    row = fields([1] * 8, [1] * 8, [0, 1, 0, 0, 2, 0, 0, 0])
    gated.look(row, images_of(row, torch.randn(2, 3, 16)))
    assert torch.equal(language(ids).logits, expected)
    for layer in gated.layers.values():
        nn.init.constant_(layer.gate, 1.0)
    changed = (language(ids).logits - expected).abs().amax(-1)[0]
    assert changed[0] == 0 and (changed[1:] > 1e-4).all()
    gated.look(row, None)
    assert torch.equal(language(ids).logits, expected)


def test_a_layer_stands_before_every_nth():
    language, _ = load_language(language_folder("llama"))
    gated = GatedCrossAttention(CrossAttentionSpec(every=2, heads=4), language)
    assert list(gated.layers) == ["1"]
    with pytest.raises(ModelError, match=r"at most 2.*got 3"):
        GatedCrossAttention(CrossAttentionSpec(every=3), language)
    with pytest.raises(ModelError, match=r"divisor of 16.*got 5"):
        GatedCrossAttention(CrossAttentionSpec(every=1, heads=5), language)


def test_other_counts_of_images_and_markers_are_refused():
    row = fields([1] * 3, [1] * 3, [1, 0, 2])
    with pytest.raises(ModelError, match=r"expected 2 .*got 3 images"):
        images_of(row, torch.zeros(3, 1, 4))
