"""One optimizer step: forward and backward passes, the guard, the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lucida.core.errors import DataError
from lucida.data.sample import Batch
from lucida.train.diagnose import first_bad_module
from lucida.train.divergence import Diverged
from lucida.train.engine import Engine, Loss
from lucida.train.objective import supervised_loss
from lucida.train.precision import Precision
from lucida.train.shares import Share, owners, shares, tally
from lucida.train.state import whole

SMALLEST_SCALE = 1.0
"""fp16 halves its loss scale at every overflow; below this the numbers themselves are at fault."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did. loss: mean over supervised tokens as the stage weighs them; token_loss:
    with all alike; grad_norm: before clipping; skipped: fp16 overflowed, so the weights did not
    move and the loss scale was halved; sources: what each source had in it."""

    loss: float
    token_loss: float
    grad_norm: float
    samples: int
    tokens: int
    supervised: int
    skipped: bool
    sources: dict[str, Share]


def step(
    engine: Engine,
    model: nn.Module,
    loss_of: Loss,
    passes: list[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    clip: float | None,
    names: Sequence[str] = (),
) -> StepResult:
    """Move the weights once by the mean gradient over all supervised tokens of passes and ranks.

    `loss_of` is the engine's loss of `model`; `names` are the sources to tell apart. Diverged,
    before anything has moved, when the loss or the gradient is not finite.
    """
    whose = [owners(batch, names) for batch in passes]
    counting, *counted = engine.total(
        sum(batch.counting for batch in passes),
        sum(batch.supervised for batch in passes),
        sum(int((batch.segment > 0).sum()) for batch in passes),
        sum(len(batch.origins) for batch in passes),
        *tally(passes, whose, names),
    )
    supervised, tokens, samples = map(int, counted[:3])
    if supervised == 0:
        raise DataError(
            "a step has no supervised token",
            origin=", ".join(passes[0].origins[:3]),
            remedy="check the stage's `loss` and its data",
        )
    before = torch.get_rng_state()  # dropout must fall the same way when a fault is looked for
    summed, by_source = backward(
        engine, loss_of, passes, whose, len(names), scaler, precision, counting
    )
    scaler.unscale_(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    # The one wait for the device in a step.
    both = torch.stack([summed / counting, norm.float()]).double()
    loss, grad_norm, *losses = torch.cat([both, by_source]).tolist()
    loss, *losses = engine.total(loss, *losses)

    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    overflow = not finite and math.isfinite(loss) and scaler.get_scale() > SMALLEST_SCALE
    if not finite and not overflow:
        torch.set_rng_state(before)
        with engine.whole(model, everywhere=True):
            problem = not_finite(engine, model, passes, precision, loss, grad_norm)
        raise problem
    if clip is not None and finite:
        nn.utils.clip_grads_with_norm_(trained, clip, norm)
    scaler.step(optimizer)  # leaves the weights alone after an overflow
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    sources, token_loss = shares(names, counted[3:], losses), sum(losses) / supervised
    return StepResult(loss, token_loss, grad_norm, samples, tokens, supervised, overflow, sources)


def backward(
    engine: Engine,
    loss_of: Loss,
    passes: list[Batch],
    whose: list[torch.Tensor],
    sources: int,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    counting: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave the gradient of the mean loss in the parameters; the sum of the losses as they count,
    and (float64) of all alike, by source and last that of no named one. Both stay on the device."""
    summed = torch.zeros((), device=precision.device)
    # float64: sums over many tokens, on which nothing but the record depends.
    by_source = torch.zeros(sources + 1, dtype=torch.float64, device=precision.device)
    for number, (batch, own) in enumerate(zip(passes, whose, strict=True), start=1):
        batch = batch.to(precision.device)
        with engine.last_pass(loss_of, number == len(passes)):
            with precision.autocast():
                loss, each = loss_of(batch)
            # Engines average over ranks; the loss is already divided by what all of them hold.
            scaler.scale(loss * engine.world / counting).backward()
        summed += loss.detach()
        by_source.index_add_(0, own.to(precision.device), each.double())
    return summed, by_source


def not_finite(
    engine: Engine,
    model: nn.Module,
    passes: list[Batch],
    precision: Precision,
    loss: float,
    grad_norm: float,
) -> Diverged:
    """The error that names the module at fault and the samples it happened on."""
    for batch in passes:

        def forward(batch: Batch = batch) -> torch.Tensor:
            with precision.autocast():
                return supervised_loss(model, batch.to(precision.device))[0]

        cause = first_bad_module(model, forward)
        if cause is not None:
            break
    cause = engine.first(cause) or "not reproducibly: a second run of the batch gave finite numbers"
    shown = ", ".join(batch.origins[:3]) + (" …" if len(batch.origins) > 3 else "")
    return Diverged(
        f"training stopped: {cause}",
        given=f"loss {loss:g}, gradient norm {grad_norm:g}, {precision.name}",
        origin=f"batch with {shown}",
        remedy="lower the learning rate, lengthen the warm-up, or set precision=fp32; the last "
        "checkpoint is from before this step",
    )
