"""Muon: matrices move by an orthogonalised momentum, everything else by AdamW.

    gradient ─▶ momentum ─▶ U S Vᵀ ─▶ about U Vᵀ ─▶ times 0.2 √(longer side) ─▶ weight

A gradient of a matrix has few strong directions and many faint ones; AdamW follows the strong ones.
Orthogonalised, all directions of the update are about equally long, so what the features tell
faintly (a word, a texture) is learnt as soon as what they tell loudly. The last factor gives the
update the root mean square that AdamW's has, so learning rates and weight decay mean the same under
both.

Which weights are matrices: those of linear layers, adapters among them (each factor of LoRA is
orthogonalised by itself), except the output matrix over the vocabulary. Embeddings, tables of
places, convolutions, norms and biases are AdamW's.

Reference: Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon/ (the iteration and
its coefficients); Liu et al., Muon is Scalable for LLM Training, 2025, arXiv 2502.16982,
section 2.2 (matching the root mean square).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from lucida.training.state import part_of, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x ↦ a x + b x³ + c x⁵, which moves singular values in (0, 1] to about 1 (0.7 to 1.2)."""

ITERATIONS = 5

MOMENTUM = 0.95

LARGEST_STACK = 2**26
"""Numbers that are orthogonalised together, so that a large model's layers do not stand in memory
twice: 256 MB in fp32. A larger matrix goes alone."""

T = TypeVar("T")

RMS = 0.2
"""Root mean square of an update at rate 1, as AdamW's usually is (arXiv 2502.16982)."""


def find_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Weights of linear layers, without those that are, or are tied to, an embedding or the output
    over the vocabulary."""
    kept = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            kept.add(module.weight)
        # The language model inside is asked as well as the whole: either may know the matrix.
        head = getattr(module, "get_output_embeddings", lambda: None)()
        if head is not None:
            kept.add(head.weight)
    linear = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    return {weight for weight in linear - kept if weight.ndim == 2}


def orthogonalise(matrices: Tensor) -> Tensor:
    """U Vᵀ, roughly, of each U S Vᵀ in [batch, rows, columns], rows ≤ columns; by Newton-Schulz.

    Works in the dtype given. Singular values end between about 0.7 and 1.2; those far below the
    largest (under a thousandth of the norm) stay smaller. Zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    # No singular value is above the Frobenius norm, so all of them begin in (0, 1].
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        # With G = x xᵀ this is a x + (b G + c G²) x: the polynomial of each singular value, U and V
        # as they are. G is [rows, rows], the shorter side.
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """One optimizer over both kinds of weights.

    matrices: groups whose parameters all have two dimensions; others: groups for AdamW; both as
    `lucida.training.optim.parameter_groups` makes them. dtype: of the iteration; bf16 is enough for
    it, and pays where the hardware multiplies bf16. State of a matrix: `momentum_buffer`.

    Matrices of one shape (or its transpose) are orthogonalised together. Every rank works out the
    whole update of a sharded matrix and keeps its part; all ranks have to step together.
    """

    def __init__(
        self,
        matrices: Iterable[dict],
        others: Iterable[dict],
        momentum: float = MOMENTUM,
        betas: tuple[float, float] = (0.9, 0.95),
        dtype: torch.dtype = torch.float32,
        fused: bool | None = None,
    ) -> None:
        matrices, others = list(matrices), list(others)
        super().__init__(matrices, {"momentum": momentum, "dtype": dtype})
        self.matrix_groups = list(self.param_groups)
        self.adamw = torch.optim.AdamW(others, betas=betas, fused=fused) if others else None
        if self.adamw is not None:
            # One list of groups and one state, so that schedules, clipping and checkpoints see a
            # single optimizer.
            self.param_groups.extend(self.adamw.param_groups)
            self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        alike: dict[tuple, list[tuple[nn.Parameter, dict]]] = {}
        for group in self.matrix_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    key = (*sorted(weight.shape), weight.device)  # with its transpose
                    alike.setdefault(key, []).append((weight, group))
        for (rows, columns, _), members in alike.items():
            for some in split_batches(members, max(1, LARGEST_STACK // (rows * columns))):
                self.move(some)
        if self.adamw is not None:
            self.adamw.step()

    def describe(self) -> str:
        """What it moves how, for the log."""
        every = [weight for group in self.param_groups for weight in group["params"]]
        own = [weight for group in self.matrix_groups for weight in group["params"]]
        size = sum(weight.numel() for weight in own)
        rest = sum(weight.numel() for weight in every) - size
        return (
            f"Muon moves {len(own)} matrices ({size:,} parameters), AdamW the other "
            f"{len(every) - len(own)} tensors ({rest:,})"
        )

    def move(self, members: Sequence[tuple[nn.Parameter, dict]]) -> None:
        """Update weights of one shape, or its transpose, with one iteration for all."""
        updates = [self.look_ahead(weight, group["momentum"]) for weight, group in members]
        wide = torch.stack([upright(update) for update in updates]).to(members[0][1]["dtype"])
        made = orthogonalise(wide).float()
        for (weight, group), update, direction in zip(members, updates, made, strict=True):
            rows, columns = update.shape
            direction = direction.mT if rows > columns else direction
            # Decoupled decay first, then the step, as in AdamW. U Vᵀ has min(rows, columns)
            # singular values of 1, a root mean square of 1 / √max(rows, columns): times that root
            # it is RMS, whatever the shape.
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            step = group["lr"] * RMS * math.sqrt(max(rows, columns))
            weight.add_(part_of(direction, weight).to(weight.dtype), alpha=-step)

    def look_ahead(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """The whole of Nesterov's momentum [rows, columns], once the buffer took the gradient."""
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight.grad)
        buffer = state["momentum_buffer"]
        # m ← β m + (1 - β) g, and the step goes along β m + (1 - β) g: Nesterov's look one step
        # ahead. Parts of a sharded matrix are averaged apart; only what is orthogonalised has to be
        # whole.
        buffer.lerp_(weight.grad, 1 - momentum)
        return whole(weight.grad.lerp(buffer, momentum))


def split_batches(members: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most `size` members."""
    return (members[start : start + size] for start in range(0, len(members), size))


def upright(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever has no more rows than columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
