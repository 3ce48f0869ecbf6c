"""What moves the weights (AdamW, or Muon and AdamW), and the learning-rate schedule.

    warm-up            cosine from peak to final * peak
       /‾‾‾\\__
      /       \\___
     /            ‾‾‾──

Worked example: 10 steps, `warmup=0.2` (2 steps), linear to `final=0`:
factors 0.5, 1.0, 1.0, 0.875, 0.75, ... 0.125; the step after the last would get 0.

Reference: Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019, arXiv 1711.05101.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from lucida.core.errors import RecipeError
from lucida.core.spec import OptimSpec
from lucida.training.muon import MOMENTUM, Muon, find_matrices

FIRST_FACTOR = 0.01
"""Where a warm-up by the clock begins: at its first step no time has passed, and a rate of 0 would
waste it."""


def warmup_steps(total: int, spec: OptimSpec) -> int:
    """Steps of warm-up: a share of `total` when `warmup` is below 1, else a number of steps."""
    steps = round(spec.warmup * total) if spec.warmup < 1 else round(spec.warmup)
    if steps >= total and steps > 0:
        raise RecipeError(
            f"optim.warmup={spec.warmup:g} means {steps} steps of warm-up, but the stage has only "
            f"{total}, so the peak learning rate would never be reached",
            remedy="lower warmup or raise the budget",
        )
    return steps


def schedule(step: int, total: int, spec: OptimSpec) -> float:
    """Factor on the peak learning rate for optimizer step `step` (0-based) of `total`."""
    warm = warmup_steps(total, spec)
    if step < warm:
        return (step + 1) / warm
    return decay((step - warm) / (total - warm), spec)  # 0 at the peak, 1 one step after the last


def schedule_by_share(share: float, step: int, spec: OptimSpec) -> float:
    """The same for a stage of unknown length, of which this share (0 to 1) is done.

    A warm-up of 1 or more counts steps here too, and then the decay runs over the whole stage.
    """
    if spec.warmup >= 1:
        return min(1.0, (step + 1) / spec.warmup) * decay(share, spec)
    if share < spec.warmup:
        return max(share / spec.warmup, FIRST_FACTOR)
    return decay((share - spec.warmup) / (1.0 - spec.warmup), spec)


def decay(done: float, spec: OptimSpec) -> float:
    """Factor after the warm-up: 1 at its end (`done` 0), `spec.final` at the stage's (1)."""
    match spec.schedule:
        case "constant":
            return 1.0
        case "linear":
            shape = 1.0 - done
        case "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * done))
    return spec.final + (1.0 - spec.final) * shape


Trained = dict[str, tuple[torch.nn.Parameter, float]]
"""Name → parameter and peak learning rate: `StagePlan.trained`, with the adapters of the stage."""


def parameter_groups(trained: Trained, weight_decay: float) -> list[dict]:
    """Optimizer groups: one per peak learning rate and weight decay.

    Norms, biases and every other vector are not decayed: decay pulls towards zero, and zero is not
    a neutral value for a scale. `peak` keeps the stage's learning rate; `lr` follows the schedule.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, (parameter, lr) in trained.items():
        shrink = weight_decay if parameter.ndim >= 2 else 0.0
        if (lr, shrink) not in groups:
            empty: dict = {"params": [], "names": [], "lr": lr, "peak": lr, "weight_decay": shrink}
            groups[lr, shrink] = empty
        groups[lr, shrink]["params"].append(parameter)
        groups[lr, shrink]["names"].append(name)
    return list(groups.values())


def make_optimizer(
    trained: Trained, spec: OptimSpec, model: nn.Module, dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """The stage's optimizer over what it trains.

    model: says which weights are matrices of linear layers (`find_matrices`), once the engine has
    prepared it. dtype: what the stage's matrix products round to; Muon iterates in bf16 where they
    do, else in fp32. Where no matrix trains it is AdamW. AdamW is fused: one kernel for all
    tensors, 4x a loop on a CPU.
    """
    betas = (spec.beta1, spec.beta2)
    fused = {parameter.device.type for parameter, _ in trained.values()} <= {"cpu", "cuda", "mps"}
    matrices = find_matrices(model) if spec.kind == "muon" else set()
    own = {name: each for name, each in trained.items() if each[0] in matrices}
    rest = {name: each for name, each in trained.items() if each[0] not in matrices}
    if not own:
        return torch.optim.AdamW(
            parameter_groups(rest, spec.weight_decay), betas=betas, fused=fused
        )
    return Muon(
        parameter_groups(own, spec.weight_decay),
        parameter_groups(rest, spec.weight_decay),
        MOMENTUM if spec.momentum is None else spec.momentum,
        betas,
        torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
        fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Put every group at `factor` times its own peak; gives the highest rate, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return max(group["lr"] for group in optimizer.param_groups)
