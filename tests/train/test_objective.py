"""The gradient of a step does not depend on packing, accumulation, chunks or number of ranks."""

import pytest
import torch
from fake_vlm import FakeVLM, fake_tokens, lay
from tiny_training import tiny_recipe
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from closeness import close
from lucida.data.collate import collate
from lucida.data.sample import IGNORED
from lucida.data.sources import open_source
from lucida.model.checkpoint import build
from lucida.training import objective
from lucida.training.layers import equip
from lucida.training.objective import summed_cross_entropy, supervised_loss

SAMPLES = [fake_tokens(seed, length) for seed, length in enumerate([9, 14, 6, 11, 20, 7])]


def gradient(groups, pack):
    """Gradient of one step over `groups` of samples, one pass each, and the mean loss."""
    torch.manual_seed(0)
    model = FakeVLM().double()
    batches = [lay(group, pack) for group in groups]
    count = sum(batch.supervised for batch in batches)
    mean = 0.0
    for batch in batches:
        loss, _ = supervised_loss(model, batch)
        (loss / count).backward()
        mean += float(loss.detach()) / count
    return mean, {name: p.grad for name, p in model.named_parameters()}


def same(a, b):
    """Loss and gradients by name."""
    assert a[0] == pytest.approx(b[0], abs=1e-6)
    for name in a[1]:
        close(a[1][name], b[1][name], msg=name)


def test_packed_equals_padded():
    same(gradient([SAMPLES], pack=True), gradient([SAMPLES], pack=False))


def test_accumulated_equals_whole_batch():
    whole = gradient([SAMPLES], pack=True)
    same(gradient([SAMPLES[:1], SAMPLES[1:4], SAMPLES[4:]], pack=True), whole)
    same(gradient([[sample] for sample in SAMPLES], pack=False), whole)


def test_two_ranks_equal_one():
    """Each rank divides by the global count; the all-reduce is a sum."""
    whole = gradient([SAMPLES], pack=True)
    count = lay(SAMPLES, pack=True).supervised
    summed = {}
    for share in (SAMPLES[:2], SAMPLES[2:]):
        torch.manual_seed(0)
        model = FakeVLM().double()
        loss, _ = supervised_loss(model, lay(share, pack=True))
        (loss / count).backward()
        for name, parameter in model.named_parameters():
            summed[name] = summed.get(name, 0) + parameter.grad
    same((whole[0], summed), whole)


def test_the_sum_is_that_of_full_logits():
    torch.manual_seed(0)
    model, batch = FakeVLM(), lay(SAMPLES, pack=False)
    loss, count = supervised_loss(model, batch)
    logits = model.logits(model.hidden(batch)).flatten(0, 1)
    full = functional.cross_entropy(
        logits, batch.target.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    close(loss, full)
    assert count == batch.supervised and loss.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_chunks_change_nothing(size):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 31)
    hidden, target = torch.randn(17, 8, requires_grad=True), torch.randint(31, (17,))
    found, each = summed_cross_entropy(head, hidden, target, size)
    found.backward()
    mine = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad, head.weight.grad = None, None
    whole = functional.cross_entropy(head(hidden), target, reduction="sum")
    whole.backward()
    close(found, whole)
    apart = functional.cross_entropy(head(hidden), target, reduction="none")
    close(each, apart.detach())
    assert not each.requires_grad
    close(mine, [hidden.grad, head.weight.grad])


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator makes."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor):
                self.size = max(self.size, made.numel())
        return result


def test_all_logits_are_never_there_at_once():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 500, bias=False)
    hidden, target = torch.randn(300, 4, requires_grad=True), torch.randint(500, (300,))
    sizes = {}
    for rows in (10, 300):
        with Largest() as largest:
            summed_cross_entropy(head, hidden, target, rows)[0].backward()
        sizes[rows] = largest.size
    assert sizes == {10: 10 * 500, 300: 300 * 500}


def test_statistics_are_fp32_under_bf16_autocast():
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 4096)
    hidden, target = torch.randn(64, 16), torch.randint(4096, (64,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = summed_cross_entropy(head, hidden, target, 1000)
    exact = functional.cross_entropy(head(hidden), target, reduction="sum")
    assert found.dtype == torch.float32
    assert abs(found - exact) / exact < 1e-3


def test_a_batch_without_supervised_positions_gives_zero_and_a_zero_gradient():
    model, batch = FakeVLM(), lay(SAMPLES[:2], pack=True)
    batch.target.fill_(IGNORED)
    loss, count = supervised_loss(model, batch)
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_logits_are_computed_at_supervised_rows_only(monkeypatch):
    model, batch = FakeVLM(), lay(SAMPLES, pack=False)
    rows = []
    model.head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    supervised_loss(model, batch)
    assert rows == [batch.supervised]
    monkeypatch.setattr(objective, "CHUNK_LOGITS", 5 * 23)
    rows.clear()
    supervised_loss(model, batch)
    assert max(rows) == 5 and sum(rows) == batch.supervised


@pytest.mark.parametrize("how", ["none", "full"])
def test_the_last_layer_only_where_there_is_a_target_changes_no_gradient(parts, how):
    """Also where layers are computed again in the backward pass, when the hooks are gone."""
    recipe = tiny_recipe(parts, language="language-plain")
    found = []
    for whole in (False, True):
        torch.manual_seed(0)
        model, processor = build(recipe.model)
        source = open_source(recipe.stages[0].mixture.sources["pictures"])
        rows = [processor.encode(source[index]) for index in range(5)]
        batch = collate(rows, True, processor.tokenizer.pad_token_id, processor.pixels)
        equip(model, how, compiled=False)
        hidden = model.hidden
        if whole:
            model.hidden = lambda batch, mask, wanted, how, hidden=hidden: hidden(batch)
        loss, _ = supervised_loss(model.train(), batch)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((float(loss.detach()), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-3, rtol=1e-4, msg=name)
