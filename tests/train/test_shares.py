"""Loss by source and weighted losses: equal to slow versions, for any passes, layout and ranks."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from fake_vlm import FakeVLM, fake_tokens, lay
from torch.nn import functional

from closeness import close
from lucida.data.answers import answer_weights
from lucida.data.sample import IGNORED, Batch
from lucida.training.engine import Engine, Objective
from lucida.training.precision import Precision
from lucida.training.shares import number_samples, owners
from lucida.training.step import Stepper

FP32 = Precision("fp32", torch.device("cpu"), "")
NAMES = ("pictures", "text", "silent")
SAMPLES = [fake_tokens(seed, length) for seed, length in enumerate([9, 14, 6, 11, 20, 7])]
SOURCES = ["text", "pictures", "pictures", "text", "pictures", "text"]


class Halves(Engine):
    """One of two ranks, told beforehand what the other one has."""

    world = 2

    def __init__(self, rank, told):
        self.rank, self.told, self.calls = rank, told, 0

    def total(self, *numbers):
        self.told[self.rank].append(numbers)
        self.calls += 1
        other = self.told[1 - self.rank]
        if len(other) < self.calls:
            return list(numbers)
        return [a + b for a, b in zip(numbers, other[self.calls - 1], strict=True)]


def batches(groups, weighting="token", pack=True):
    made = []
    for group in groups:
        batch = lay([SAMPLES[i] for i in group], pack)
        batch.sources = [SOURCES[i] for i in group]
        batch.weight = answer_weights(batch, weighting)
        made.append(batch)
    return made


def one_step(passes, engine=None, model=None):
    """The result and the gradient of a step (plain descent at rate 1 shows it)."""
    torch.manual_seed(0)
    model = model or FakeVLM()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss_of, scaler = Objective(model), FP32.scaler()
    stepper = Stepper(engine or Engine(), model, loss_of, optimizer, scaler, FP32, None, NAMES)
    result = stepper.step(passes)
    return result, {name: before[name] - p.detach() for name, p in model.named_parameters()}


def slow_losses(model=None):
    """(sample, place, answer, loss) of every supervised token, from full logits of one sample."""
    torch.manual_seed(0)
    model = model or FakeVLM()
    found = []
    for number, sample in enumerate(SAMPLES):
        logits = model.logits(model.hidden(lay([sample], pack=True)))[0]
        answer = 0
        for place, target in enumerate(sample.target):
            if target == IGNORED:
                answer += 1
                continue
            loss = functional.cross_entropy(logits[place], torch.tensor(target))
            found.append((number, place, answer, loss))
    return found


GROUPS = {
    "one pass": [[0, 1, 2, 3, 4, 5]],
    "three": [[0], [1, 2, 3], [4, 5]],
    "each": [[number] for number in range(6)],
}


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_the_loss_of_each_source_is_the_mean_over_its_tokens(groups, pack):
    result, _ = one_step(batches(groups, pack=pack))
    wanted = defaultdict(list)
    for number, _, _, loss in slow_losses():
        wanted[SOURCES[number]].append(loss.item())
    for name in ("pictures", "text"):
        share = result.sources[name]
        assert (share.samples, share.supervised) == (3, len(wanted[name]))
        assert share.loss == pytest.approx(np.mean(wanted[name]), rel=1e-5)
    assert result.sources["silent"] == type(share)(0, 0, None)
    whole = sum(each.loss * each.supervised for each in result.sources.values() if each.supervised)
    assert result.loss == pytest.approx(whole / result.supervised, rel=1e-6)


def test_watching_sources_changes_no_bit_of_the_step():
    watched, moved = one_step(batches(GROUPS["three"]))
    torch.manual_seed(0)
    model = FakeVLM()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    passes = [lay([SAMPLES[i] for i in group], pack=True) for group in GROUPS["three"]]
    loss_of = Objective(model)
    alone = Stepper(Engine(), model, loss_of, optimizer, FP32.scaler(), FP32).step(passes)
    assert alone.loss == watched.loss and alone.sources == {}
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name] - parameter.detach(), moved[name]), name


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("weighting", ["square", "sample"])
def test_a_weighted_step_is_the_slow_one(weighting, groups, pack):
    result, moved = one_step(batches(groups, weighting, pack))
    torch.manual_seed(0)
    model = FakeVLM()
    answers = defaultdict(list)
    for number, _, answer, loss in slow_losses(model):
        answers[number, answer].append(loss)
    power = 0.5 if weighting == "square" else 1.0
    top = sum(sum(losses) / len(losses) ** power for losses in answers.values())
    below = sum(len(losses) ** (1 - power) for losses in answers.values())
    (top / below).backward()
    assert result.loss == pytest.approx(float(top.detach() / below), rel=1e-5)
    for name, parameter in model.named_parameters():
        close(moved[name], parameter.grad, msg=name)
    everything = [loss.item() for losses in answers.values() for loss in losses]
    assert result.token_loss == pytest.approx(np.mean(everything), rel=1e-5)
    assert not math.isclose(result.token_loss, result.loss, rel_tol=1e-4)


@pytest.mark.parametrize("weighting", ["token", "square"])
def test_two_ranks_sum_to_one(weighting):
    whole, moved = one_step(batches(GROUPS["one pass"], weighting))
    shares = ([0, 3, 4], [1, 2, 5])
    told = [[], []]
    for _ in range(2):  # the second time every rank knows what the other one says
        found = []
        for rank, group in enumerate(shares):
            told[rank].clear()
            found.append(one_step(batches([group], weighting), Halves(rank, told)))
    for result, _ in found[1:]:
        assert result.loss == pytest.approx(whole.loss, rel=1e-5)
        assert result.sources.keys() == whole.sources.keys()
        for name, share in whole.sources.items():
            assert result.sources[name].supervised == share.supervised
            assert result.sources[name].samples == share.samples
            mine = result.sources[name].loss
            assert mine == (share.loss and pytest.approx(share.loss, rel=1e-5))
    for name in moved:  # engines average gradients over ranks
        mean = (found[0][1][name] + found[1][1][name]) / 2
        close(mean, moved[name], msg=name)


def test_owners_worked_example():
    batch = lay([SAMPLES[0], SAMPLES[1]], pack=True)
    batch.sources = ["b", "a"]
    found = owners(batch, ["a", "b"])
    many = [int((sample.target != IGNORED).sum()) for sample in SAMPLES[:2]]
    assert found.tolist() == [1] * many[0] + [0] * many[1]


def test_chunks_of_logits_keep_weights_and_sources(monkeypatch):
    from lucida.training import objective

    passes = batches(GROUPS["three"], "square")
    whole, moved = one_step(passes)
    monkeypatch.setattr(objective, "CHUNK_LOGITS", 4 * 23)
    cut, also = one_step(passes)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.sources["text"].loss == pytest.approx(whole.sources["text"].loss, rel=1e-6)
    for name in moved:
        close(also[name], moved[name], msg=name)


def test_samples_are_counted_through_all_rows():
    segment = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    batch = Batch(*[segment] * 6)
    assert number_samples(batch).tolist() == [[0, 0, 1, -1], [2, 3, 3, 3]]
