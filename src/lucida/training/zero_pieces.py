"""AdamW over the flat pieces that DeepSpeed makes of weights, as others see one over the weights.

groups of the optimizer ─▶ split_groups ─▶ Resting, which DeepSpeed is given and cuts
Driven   the groups as they were, and moments by weight, gathered when they are asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's, beside its count of steps."""


class Resting(torch.optim.AdamW):
    """AdamW that leaves groups alone which `rests` is set for."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move what does not rest."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["rests"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = every


def split_groups(groups: list[dict]) -> list[tuple[dict, dict]]:
    """Each group of the optimizer with a part of it for DeepSpeed: what belongs to the encoder
    apart, because it may rest."""
    parts = []
    for group in groups:
        pairs = list(zip(group["names"], group["params"], strict=True))
        for seen in (True, False):
            some = [(n, p) for n, p in pairs if n.startswith("vision.") == seen]
            if some:
                names, params = map(list, zip(*some, strict=True))
                own = {"params": params, "names": names, "seen": seen, "rests": False}
                parts.append((group, {k: v for k, v in group.items() if k != "peak"} | own))
    return parts


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a tensor of which every rank has a part; `shape` as its parameter has it here."""

    shape: torch.Size
    gather: Callable[[], Tensor]

    def numel(self) -> int:
        """Of the shape."""
        return self.shape.numel()

    def detach(self) -> Piece:
        """Itself: it has no graph."""
        return self

    def full_tensor(self) -> Tensor:
        """All of it; all ranks have to ask."""
        return self.gather()


class Driven:
    """DeepSpeed's optimizer, with groups and moments by the weights of the model, as others see one
    of torch's.

    param_groups: as they were before it cut them. pairs: each with one of DeepSpeed's that takes
    its rate. flat: the optimizer over DeepSpeed's flat pieces.
    """

    def __init__(
        self,
        driven: nn.Module,
        groups: list[dict],
        pairs: list[tuple[dict, dict]],
        flat: Resting,
    ) -> None:
        self.driven, self.param_groups, self.pairs, self.flat = driven, groups, pairs, flat
        self.group_of = self.begin()
        self.state = Moments(self)

    def begin(self) -> dict[nn.Parameter, list[Tensor]]:
        """Give every flat piece its moments, which AdamW would at its first step: a checkpoint that
        is taken up fills them before. Weight → the pieces of its group."""
        zero, found = self.driven.optimizer, {}
        if self.driven.zero_optimization_stage() == 3:
            owners = zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True)
        else:
            owners = zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True)
        for weights, piece in owners:
            state = {name: torch.zeros_like(piece.data) for name in MOMENTS}
            self.flat.state[piece] = {"step": torch.zeros((), device=piece.device)} | state
            found |= dict.fromkeys(weights, piece)
            if self.driven.zero_optimization_stage() < 3:
                # So that `safe_get_full_optimizer_state` finds, of a weight, its part of the
                # piece's moments.
                from deepspeed.utils import mixed_precision_linkage

                mixed_precision_linkage.lazy_init_hp_params_optimizer_state(
                    weights, piece, self.flat.state
                )
        return found

    @torch.no_grad()
    def measure(self) -> Tensor:
        """The norm of the gradient over all ranks, before clipping."""
        zero = self.driven.optimizer
        if self.driven.zero_optimization_stage() < 3:
            norm = zero.scaled_global_norm()
            return torch.where(norm < 0, torch.inf, norm)  # it says -1 for what is not finite
        from deepspeed.utils import safe_get_local_grad

        # Under stage 3 the parts of ranks do not overlap, so squares add up over ranks.
        parts = [safe_get_local_grad(weight) for weight in self.group_of]
        total = torch.stack([part.float().square().sum() for part in parts]).sum()
        torch.distributed.all_reduce(total)
        return total.sqrt()

    def step(self) -> None:
        """Move the weights; DeepSpeed leaves them alone when the gradient is not finite."""
        objective = self.driven.module
        for group, twin in self.pairs:
            twin["lr"] = group["lr"]
            twin["rests"] = twin["seen"] and not objective.asked
        self.driven.step()
        objective.asked = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: DeepSpeed has done it in its step."""


class Moments(Mapping):
    """AdamW's moments by weight, gathered when they are asked for."""

    def __init__(self, driven: Driven) -> None:
        self.driven = driven

    def __len__(self) -> int:
        return len(self.driven.group_of)

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.driven.group_of)

    def __getitem__(self, weight: nn.Parameter) -> dict[str, Tensor | Piece]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self.driven.flat.state[self.driven.group_of[weight]]
        pieces = {
            name: Piece(weight.shape, partial(safe_get_full_optimizer_state, weight, name))
            for name in MOMENTS
        }
        return {"step": state["step"].clone(), **pieces}  # AdamW counts in place

    def __setitem__(self, weight: nn.Parameter, values: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        shape = getattr(weight, "ds_shape", weight.shape)
        state = self.driven.flat.state[self.driven.group_of[weight]]
        for name in MOMENTS:
            if values[name].shape != shape:
                raise ValueError(f"{name} has the shape {tuple(values[name].shape)}, not {shape}")
            safe_set_full_optimizer_state(weight, values[name].float(), name)
        # Of weights that lie in one piece all have taken the same steps, or none at all.
        state["step"].copy_(torch.maximum(state["step"], values["step"].to(state["step"].device)))
