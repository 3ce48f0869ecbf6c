"""Cross-entropy in blocks equals torch's, in value and gradient, and keeps less."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from closeness import close
from lucida.training import cross_entropy
from lucida.training.cross_entropy import blocks, cross_entropies


def both(logits, target, weight):
    """(losses, gradient) of ours and of torch's fp32 way, under weighted sums."""
    results = []
    for way in (
        cross_entropies,
        lambda x, y: functional.cross_entropy(x.float(), y, reduction="none"),
    ):
        leaf = logits.clone().requires_grad_()
        losses = way(leaf, target)
        (losses * weight).sum().backward()
        results.append((losses.detach(), leaf.grad))
    return results


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 90), st.integers(1, 400), st.integers(0, 10**6))
def test_equals_torch_for_any_block(rows, size, block, seed):
    drawn = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(rows, size, generator=drawn)
    target = torch.randint(size, (rows,), generator=drawn)
    weight = torch.rand(rows, generator=drawn)
    kept, cross_entropy.BLOCK = cross_entropy.BLOCK, block
    try:
        (mine, my_gradient), (theirs, their_gradient) = both(logits, target, weight)
    finally:
        cross_entropy.BLOCK = kept
    close(mine, theirs)
    close(my_gradient, their_gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    """Weights as small as 1 / (tokens of a step) do not push fp16 gradients below its smallest."""
    drawn = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(50, 700, generator=drawn)).to(dtype)
    target = torch.randint(700, (50,), generator=drawn)
    weight = torch.full((50,), 65536 / 3000)  # loss scaling, divided by the tokens of a step
    (mine, my_gradient), (theirs, their_gradient) = both(logits, target, weight)
    close(mine, theirs)
    assert mine.dtype == torch.float32 and my_gradient.dtype == dtype
    apart = (my_gradient.float() - their_gradient.float()).abs()
    step = torch.finfo(dtype).eps * their_gradient.float().abs() + torch.finfo(dtype).tiny
    assert (apart <= step).all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
    losses = cross_entropies(logits, torch.tensor([0, 1]))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0.0, math.log(2)])
    assert logits.grad.tolist() == [[0.0, 0.0], [0.5, -0.5]]


def test_blocks_cover_every_row_once():
    logits = torch.empty(7, cross_entropy.BLOCK // 3)
    assert blocks(logits) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert [row for rows in blocks(logits) for row in range(7)[rows]] == list(range(7))


def test_only_the_logits_are_kept():
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    logits = torch.randn(30, 1000).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropies(logits, torch.randint(1000, (30,)))
    assert sum(kept) == 30 * 1000 * 2 + 30 * 8 + 30 * 4
