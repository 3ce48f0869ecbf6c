"""Preference: the better of two answers to one picture becomes likelier than the other.

    stem: picture, question ─┬─ branch 1: chosen     both see the stem, neither sees the other, so
                             └─ branch 2: rejected   a pair costs its picture and question once

    margin = (log p(chosen) - log p(rejected)) - the same of the reference, the model as it was when
    the stage began

    dpo   -log sigmoid(beta margin)
    ipo   (margin - 1 / (2 beta))², log-probabilities being means over the tokens of an answer
    mpo   0.8 dpo + 0.2 quality + 1.0 loss of a token of the chosen answer, where quality is
          -log sigmoid(beta c - shift) - log sigmoid(shift - beta r) of the log ratios c and r of
          both answers to the reference, and shift the mean of beta c and beta r in all steps before

The loss of a step is the mean over its pairs, on all ranks, whatever passes it is cut into.

Reference: Rafailov et al., Direct Preference Optimization, 2023, arXiv 2305.18290, equation 7; Azar
et al., A General Theoretical Paradigm to Understand Learning from Human Preferences, 2023, arXiv
2310.12036, equation 17 (means over tokens as TRL takes them); Wang et al., Enhancing the Reasoning
Ability of MLLMs via Mixed Preference Optimization, 2024, arXiv 2411.10442, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from lucida.core.errors import DataError
from lucida.core.spec import PreferenceSpec
from lucida.data.sample import IGNORED, Batch
from lucida.training.shares import number_samples

PREFERENCE, QUALITY, GENERATION = 0.8, 0.2, 1.0
"""Shares of MPO's mix, those of its authors."""
CHOSEN, REJECTED = 1, 2
"""Branches of a pair."""


@dataclass(slots=True)
class Pairs:
    """What a batch carries so that its loss is one of pairs.

    reference: losses of the reference model at the supervised positions, fp32 [n]. rewards: beta
    times the log ratios of the chosen and of the rejected answers, written by the loss.
    """

    spec: PreferenceSpec
    reference: Tensor
    shift: float = 0.0
    rewards: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sums:
    """Log-probabilities of a batch's answers, fp32 [pairs] each, and numbers of their tokens."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


def sum_answers(losses: Tensor, batch: Batch) -> Sums:
    """Sums over the answers of each pair of losses at the supervised positions, [n], as
    log-probabilities; part of the graph when the losses are.

    DataError for a sample that has not exactly two supervised answers.
    """
    where, pairs = batch.target != IGNORED, len(batch.origins)
    # [n] each, in the order of the losses: whose sample and which branch every loss is of.
    sample, branch = number_samples(batch)[where], batch.branch[where]
    found = []
    for wanted in (CHOSEN, REJECTED):
        mine = branch == wanted
        # A loss is -log p of a token, so the sum over an answer is -log p of the answer.
        summed = losses.new_zeros(pairs).index_add(0, sample[mine], -losses[mine])
        tokens = losses.new_zeros(pairs).index_add(0, sample[mine], torch.ones_like(losses[mine]))
        found.append((summed, tokens))
    (chosen, many), (rejected, many_rejected) = found
    elsewhere = torch.bincount(sample[(branch != CHOSEN) & (branch != REJECTED)], minlength=pairs)
    odd = ((many == 0) | (many_rejected == 0) | (elsewhere > 0)).nonzero()
    if len(odd):
        number = int(odd[0])
        answers = branch[sample == number].unique().tolist()
        raise DataError(
            "a preference needs two answers to one question, a chosen and a rejected one",
            expected=f"supervised tokens on the branches {CHOSEN} and {REJECTED}",
            given=", ".join(map(str, answers)) or "none",
            origin=batch.origins[number],
            remedy="a stage with objective.preference reads sources of the kind `preferences`",
        )
    return Sums(chosen, rejected, many, many_rejected)


def preference_losses(policy: Sums, reference: Sums, spec: PreferenceSpec, shift: float) -> Tensor:
    """The loss of each pair, fp32 [pairs].

    Worked example of `dpo`: equal margins of both models give log 2.
    """
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    if spec.loss == "ipo":
        mean = chosen / policy.chosen_tokens - rejected / policy.rejected_tokens
        return (mean - 1 / (2 * spec.beta)).square()
    dpo = -F.logsigmoid(spec.beta * (chosen - rejected))
    if spec.loss == "dpo":
        return dpo
    good, bad = spec.beta * chosen - shift, spec.beta * rejected - shift
    quality = -F.logsigmoid(good) - F.logsigmoid(-bad)
    generation = -policy.chosen / policy.chosen_tokens
    return PREFERENCE * dpo + QUALITY * quality + GENERATION * generation


def summed_preference(losses: Tensor, batch: Batch) -> Tensor:
    """The losses of all pairs of a batch together, of the policy's losses at its supervised
    positions; notes the rewards."""
    pairs = batch.pairs
    policy = sum_answers(losses, batch)
    reference = sum_answers(pairs.reference.to(losses), batch)
    found = preference_losses(policy, reference, pairs.spec, pairs.shift)
    ratios = (policy.chosen - reference.chosen, policy.rejected - reference.rejected)
    pairs.rewards.append(pairs.spec.beta * torch.stack(ratios).detach())
    return found.sum()
