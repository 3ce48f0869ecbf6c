"""The trial: can this stage learn one small batch by heart, and does only what should move?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import torch

from lucida.apps.doctor.finding import Finding
from lucida.apps.doctor.patient import Patient
from lucida.core.errors import RunError
from lucida.data.sample import Batch
from lucida.model.adapters import named_tensors
from lucida.training.engine import Engine
from lucida.training.objective import supervised_loss, token_losses
from lucida.training.optim import make_optimizer
from lucida.training.step import Stepper

Digest = tuple[tuple[int, ...], str]


def gradients(patient: Patient) -> Finding:
    """Every module that trains gets a gradient, and no other does."""
    model, batch = patient.model, patient.batch()
    model.zero_grad(set_to_none=True)
    with patient.precision.autocast():
        summed, count = supervised_loss(model, batch, patient.stage.attention_mask)
    with patient.precision.multiply():
        (summed / max(1, count)).backward()
    norms: dict[str, float] = {}
    for name, (weight, _) in patient.trained.items():
        top = name.split(".")[0]
        square = 0.0 if weight.grad is None else weight.grad.float().pow(2).sum().item()
        norms[top] = norms.get(top, 0.0) + square
    strays = [
        name
        for name, weight in named_tensors(model).items()
        if weight.grad is not None and not weight.requires_grad
    ]
    model.zero_grad(set_to_none=True)
    measured = ", ".join(f"{top} {square**0.5:.3g}" for top, square in norms.items())
    behind = ("projector", "vision") if patient.closed else ()  # gates of 0 let no gradient back
    silent = [top for top, square in norms.items() if not square > 0 and top not in behind]
    endless = [top for top, square in norms.items() if square != square or square == float("inf")]
    if endless:
        remedy = "lower the rate, set precision=fp32, and check the norm of visual tokens"
        return Finding("gradient norms", "broken", measured, "finite numbers", remedy)
    if silent or strays:
        return Finding(
            "gradient norms",
            "broken",
            f"{measured}; frozen with gradient: {strays[:3]}" if strays else measured,
            f"a gradient in each of {', '.join(norms)} and nowhere else",
            f"nothing of the loss comes to {', '.join(silent)}: does the batch use it?",
        )
    return Finding("gradient norms", "ok", measured)


def digests(patient: Patient) -> dict[str, Digest]:
    """Shape and digest of every weight and of every statistic that a module keeps, by the names
    that `Patient.trained` has."""
    found = {}
    for name, value in named_tensors(patient.model).items():
        # As bytes, since NumPy knows no bf16; a number without axes cannot be seen as others.
        plain = value.detach().cpu().contiguous().view(torch.uint8) if value.ndim else value.cpu()
        content = hashlib.blake2b(plain.numpy().tobytes(), digest_size=16).hexdigest()
        found[name] = (tuple(value.shape), content)
    return found


def overfit(patient: Patient, steps: int) -> Iterator[Finding]:
    """Train on the one batch, then say whether it was learned and what has moved."""
    before = digests(patient)
    first = patient.loss()
    try:
        learn(patient, patient.batch(), steps)
    except RunError as problem:
        patient.dead = True
        yield Finding(
            "overfit one batch", "broken", str(problem), "finite losses", "lower the learning rate"
        )
        return
    last, after = patient.loss(), digests(patient)
    yield check_learning(patient, steps, first, last)
    yield check_moved(patient, before, after)


def learn(patient: Patient, batch: Batch, steps: int) -> None:
    """So many steps on one batch at the stage's peak rates."""
    model, precision, optim = patient.model, patient.precision, patient.stage.optim
    stepper = Stepper(
        engine=Engine(),
        model=model,
        loss_of=partial(token_losses, model),
        mask=patient.stage.attention_mask,
        optimizer=make_optimizer(patient.trained, optim, model, precision.dtype),
        scaler=precision.scaler(),
        precision=precision,
        clip=optim.clip,
    )
    for _ in range(steps):
        stepper.step([batch])


def check_learning(patient: Patient, steps: int, first: float, last: float) -> Finding:
    """A language model that trains learns a few samples by heart; a projector or adapters, some."""
    name = "overfit one batch"
    tops = {each.split(".")[0] for each in patient.trained}
    share = 0.6 if "language" in tops and patient.stage.lora is None else 0.95
    measured = f"loss {first:.3f} → {last:.3f} in {steps} steps of {len(patient.tokens)} samples"
    if last <= max(share * first, 0.05):
        return Finding(name, "ok", measured)
    return Finding(
        name,
        "broken",
        measured,
        f"below {share:g} of the first loss",
        "raise the learning rates or --steps; if it stays, labels or gradients are at fault",
    )


def check_moved(patient: Patient, before: dict[str, Digest], after: dict[str, Digest]) -> Finding:
    """Frozen weights and statistics are bit for bit the same; each trained weight has moved."""
    name = "frozen parts"
    frozen = [each for each in before if each not in patient.trained]
    changed = [each for each in frozen if before[each] != after.get(each)]
    still = [each for each in patient.trained if before.get(each) == after.get(each)]
    measured = f"{len(frozen)} frozen tensors unchanged, {len(patient.trained)} trained ones moved"
    if changed:
        return Finding(
            name,
            "broken",
            f"{len(changed)} of {len(frozen)} frozen tensors changed, first {changed[0]}",
            "bit for bit what they were",
            "running statistics or code outside the optimizer write to it; report it",
        )
    if still:
        return Finding(
            name,
            "warn",
            f"{len(still)} of {len(patient.trained)} trained tensors did not move, {still[0]}",
            "each moves",
            "the batch does not reach them (an unused part of a vocabulary is no harm)",
        )
    return Finding(name, "ok", measured)
