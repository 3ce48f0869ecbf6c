"""One optimizer step.

    micro-batches ─▶ what counts in all of them, on all ranks ─▶ forward and backward of each
                  ─▶ gradient norm, finite? ─▶ clip ─▶ update

The sum over tokens is divided once, by what counts in the whole step, so a token weighs the same in
whatever micro-batch, and on whatever rank, it comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lucida.core.errors import DataError
from lucida.core.spec import MaskName
from lucida.data.sample import Batch
from lucida.training.diagnose import first_bad_module
from lucida.training.divergence import Diverged
from lucida.training.engine import Engine, Loss
from lucida.training.objective import supervised_loss
from lucida.training.precision import Precision
from lucida.training.shares import Share, owners, shares, tally

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


@dataclass(slots=True)
class Stepper:
    """Moves the weights of a model, a step at a time.

    model: the one that trains, and loss_of its loss, as `Engine.prepare` gives them. names: the
    sources that a result tells apart. mask, how: who sees whom, and how that is computed, as in
    `LucidaModel.hidden`.
    """

    engine: Engine
    model: nn.Module
    loss_of: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    clip: float | None = None
    names: Sequence[str] = ()
    mask: MaskName | None = None
    how: str = "segments"

    def step(self, micro_batches: Sequence[Batch]) -> StepResult:
        """Move the weights once, by the mean gradient over all supervised tokens of the
        micro-batches of all ranks.

        DataError when they have none. Diverged, before anything has moved, when the loss or the
        gradient is not finite.
        """
        engine, scaler = self.engine, self.scaler
        engine.mark("counting its tokens")
        # All that is counted goes into one sum over ranks: each waits for the slowest.
        whose = [owners(batch, self.names) for batch in micro_batches]
        counting, supervised, tokens, samples, *by_source = engine.total(
            sum(batch.counting for batch in micro_batches),
            sum(batch.supervised for batch in micro_batches),
            sum(int((batch.segment > 0).sum()) for batch in micro_batches),
            sum(len(batch.origins) for batch in micro_batches),
            *tally(micro_batches, whose, self.names),
        )
        if supervised == 0:
            raise DataError(
                "a step has no supervised token",
                origin=", ".join(micro_batches[0].origins[:3]),
                remedy="check the stage's `loss` and its data",
            )
        before = torch.get_rng_state()  # dropout must fall the same way when a fault is looked for
        summed, source_losses = self.backward(micro_batches, whose, counting)
        engine.mark("moving the weights")
        # Before the norm, which is told and clipped in the gradient's own size.
        scaler.unscale_(self.optimizer)
        norm = engine.gradient_norm(self.optimizer)
        # The one wait for the device in a step: everything that Python needs comes in one tensor.
        both = torch.stack([summed / counting, norm.float()]).to(self.precision.sums)
        loss, grad_norm, *losses = torch.cat([both, source_losses]).tolist()
        # Each rank divided by what all hold: shares of one mean.
        loss, *losses = engine.total(loss, *losses)

        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        # A gradient alone that is not finite is fp16's scale, as long as that can still shrink.
        # A scaler that is switched off has the scale 1, so under bf16 and fp32 nothing overflows.
        overflow = not finite and math.isfinite(loss) and scaler.get_scale() > SMALLEST_SCALE
        if not finite and not overflow:
            torch.set_rng_state(before)
            raise self.not_finite(micro_batches, loss, grad_norm)
        if self.clip is not None and finite:
            engine.clip(self.optimizer, self.clip, norm)
        # Ranks that hold parts of gradients skip together too: DTensor shares what it finds.
        with self.precision.multiply():  # Muon's iteration too
            scaler.step(self.optimizer)  # leaves the weights alone after an overflow
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            loss=loss,
            token_loss=sum(losses) / supervised,
            grad_norm=grad_norm,
            samples=int(samples),
            tokens=int(tokens),
            supervised=int(supervised),
            skipped=overflow,
            sources=shares(self.names, by_source, losses),
        )

    def backward(
        self, micro_batches: Sequence[Batch], whose: Sequence[torch.Tensor], counting: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the gradient of the mean loss in the parameters.

        whose: of each micro-batch the `owners`; counting: what all tokens of the step count. Gives
        the sum of the losses as they count, and ([names + 1]) the sums of all alike, by
        source and last that of no named one. Both stay on the device.
        """
        device = self.precision.device
        summed = torch.zeros((), device=device)
        sums = self.precision.sums
        by_source = torch.zeros(len(self.names) + 1, dtype=sums, device=device)
        for number, (batch, own) in enumerate(zip(micro_batches, whose, strict=True), start=1):
            self.engine.mark(f"computing the loss of micro-batch {number}")
            batch = batch.to(device)
            with self.engine.last_micro_batch(self.loss_of, number == len(micro_batches)):
                with self.precision.autocast():
                    loss, each = self.loss_of(batch, self.mask, self.how)
                self.engine.mark(f"computing the gradient of micro-batch {number}")
                # Engines average over ranks; the loss is already divided by what all of them hold.
                with self.precision.multiply():
                    self.engine.backward(self.scaler.scale(loss * self.engine.world / counting))
            summed += loss.detach()
            by_source.index_add_(0, own.to(device), each.to(sums))
        return summed, by_source

    def not_finite(self, micro_batches: Sequence[Batch], loss: float, grad_norm: float) -> Diverged:
        """The error that names the module at fault and the samples it happened on."""
        with self.engine.whole(self.model, everywhere=True) as model:
            for batch in micro_batches:

                def forward(batch: Batch = batch) -> torch.Tensor:
                    batch = batch.to(self.precision.device)
                    with self.precision.autocast():
                        return supervised_loss(model, batch, self.mask, self.how)[0]

                cause = first_bad_module(model, forward)
                if cause is not None:
                    break
        # Any rank may hold the sample at fault, and all have to raise the same.
        cause = self.engine.first(cause)
        cause = cause or "not reproducibly: a second run of the batch gave finite numbers"
        shown = ", ".join(batch.origins[:3]) + (" …" if len(batch.origins) > 3 else "")
        problem = Diverged(
            f"training stopped: {cause}",
            given=f"loss {loss:g}, gradient norm {grad_norm:g}, {self.precision.name}",
            origin=f"batch with {shown}",
            remedy="lower the learning rate, lengthen the warm-up, or set precision=fp32; the last "
            "checkpoint is from before this step",
        )
        problem.told = not self.engine.main
        return problem
