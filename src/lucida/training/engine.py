"""How a step is spread: over one process, or over several that torchrun has started.

    ddp    the whole model on every rank
    fsdp   a part of each weight on every rank (sharding.py)
    deepspeed   the same three parts by another library (zero.py)

    every rank   its samples of the step ─▶ loss / supervised tokens of *all* ranks ─▶ backward
                 ─▶ the sum of all ranks' gradients ─▶ the same update everywhere

The stream of samples is that of one process, dealt out in turn, so the number of ranks changes
neither the data nor the gradient, and a run may go on with another number. Rank 0 writes.

    lucida launch mini --local --gpus 2
    torchrun --nproc-per-node 2 -m -- lucida train mini --run runs/two

Reference: Li et al., PyTorch Distributed, 2020, arXiv 2006.15704, section 3.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lucida.core.errors import LucidaError, RunError
from lucida.core.spec import MaskName, Recipe
from lucida.data.sample import Batch
from lucida.training.meeting import find_difference
from lucida.training.objective import Losses, token_losses
from lucida.training.precision import Precision
from lucida.training.state import whole
from lucida.training.watch import Watch

T = TypeVar("T")

SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the latter is deprecated in 2.13
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)

Loss = Callable[[Batch, MaskName | None, str], Losses]
"""From a batch, a mask and how it is carried out to the sum of its losses, and the losses
themselves; see `token_losses`."""


class Objective(nn.Module):
    """The loss as a module, because wrappers watch `forward` and training goes through `hidden`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, mask: MaskName | None = None, how: str = "segments") -> Losses:
        """See `token_losses`."""
        return token_losses(self.model, batch, mask, how)


class Engine:
    """One process. The other engines change what has to be different."""

    rank, world = 0, 1
    kind = "single"
    shards = False
    """Does a rank hold only a part of each weight? Then checkpoints need all ranks."""
    packages: tuple[str, ...] = ()
    """What it needs that others do not."""

    def check(self, recipe: Recipe) -> None:
        """RecipeError or RunError for a recipe that it cannot train, here."""

    @property
    def main(self) -> bool:
        """Is this the process that writes?"""
        return self.rank == 0

    def prepare(self, model: nn.Module, precision: Precision) -> tuple[nn.Module, Loss]:
        """The model that trains, and its loss, of a model whose stage is set: what trains needs
        gradients, the rest none.

        It may be a copy, whose parameters have the same names; until `release` the model itself
        must then be left alone, except within `whole`.
        """
        return model, Objective(model)

    def drive(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """What takes the steps of a prepared model's optimizer; it has the same groups."""
        return optimizer

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of a loss, averaged over ranks, in the parameters."""
        loss.backward()

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Of all that the optimizer moves, on the device."""
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return whole(nn.utils.get_total_norm(gradients))

    def clip(self, optimizer: torch.optim.Optimizer, limit: float, norm: Tensor) -> None:
        """Shorten the gradient, of this norm, to the limit."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grads_with_norm_(weights, limit, norm)

    def release(self) -> None:
        """The end of a stage: the model itself has the weights that were trained."""

    @contextmanager
    def looking(self, model: nn.Module) -> Iterator[Loss]:
        """The loss of the model that trains, for a look that trains nothing; all ranks look."""
        yield Objective(model)

    @contextmanager
    def whole(self, model: nn.Module, everywhere: bool = False) -> Iterator[nn.Module]:
        """A model like the one that trains, with all its weights, for others to use: on rank 0, or
        everywhere. All ranks have to come."""
        yield model

    def last_micro_batch(self, loss: Loss, last: bool) -> AbstractContextManager:
        """Around the passes of a micro-batch: gradients are summed over ranks in the last one."""
        return nullcontext()

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all ranks."""
        return list(numbers)

    def agreed(self, number: float) -> float:
        """Rank 0's number."""
        return number

    def wait(self) -> None:
        """Until all ranks are here."""

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        return [value]

    def first(self, text: str | None) -> str | None:
        """The first text that any rank has."""
        return next((each for each in self.gathered(text) if each), None)

    def decided_first(self, act: Callable[[], T], refusal: str) -> T:
        """What `act` finds on rank 0, on every rank. Where it raises a LucidaError there, rank 0
        raises that and every other rank a RunError that says `refusal` and need not be shown."""
        found, problem = None, None
        if self.main:
            try:
                found = act()
            except LucidaError as refused:
                problem = refused
        # First whether there is anything to send: where rank 0 has refused, nobody may wait for it.
        if any(self.total(problem is not None)):
            self.part()
            raise problem or follow(refusal)
        return self.gathered(found)[0]

    def require_same(self, facts: Mapping[str, str], remedy: str) -> None:
        """RunError on every rank when the facts of any differ from those of rank 0, which says how;
        `remedy` is for the first fact that does."""
        everyone = self.gathered(dict(facts))
        if (found := find_difference(everyone)) is None:
            return
        rank, name = found
        problem = RunError(
            f"rank {rank} differs from rank 0 in {name}",
            expected=everyone[0].get(name, "nothing"),
            given=everyone[rank].get(name, "nothing"),
            remedy=remedy,
        )
        problem.told = not self.main
        self.part()
        raise problem

    def part(self) -> None:
        """Let no rank go before all have heard why: whoever still listened would report a lost
        connection instead."""
        with suppress(RuntimeError):  # the first to leave may close what the others wait on
            self.wait()

    def mark(self, doing: str, step: int | None = None, limited: bool | None = None) -> None:
        """Tell the other ranks what this one does now. With `step` a step begins; if that is
        `limited`, they wait for `engine.patience` seconds at most for each thing in it."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around a run: of what ends it on several ranks, one says why. RunError when another rank
        has gone."""
        yield

    def own_randomness(self, *place: int) -> None:
        """On ranks above 0, a generator that follows from the place in the run alone: every rank
        drops out differently, and only rank 0's generator has to be in a checkpoint."""


def follow(refusal: str) -> RunError:
    """The error of a rank that ends because another does, which says why."""
    problem = RunError(refusal)
    problem.told = True
    return problem


def is_lost(problem: RuntimeError) -> bool:
    """Does it say that the connection to another rank broke?"""
    return isinstance(problem, distributed.DistError) or "gloo/transport" in str(problem)


@contextmanager
def explain_memory(engine: Engine) -> Iterator[None]:
    """Where memory runs out, a RunError that names the rank and what would make it fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        cpu = "DefaultCPUAllocator" in str(problem)
        if not cpu and not isinstance(problem, torch.OutOfMemoryError | MemoryError):
            raise
        what = "the machine" if cpu or isinstance(problem, MemoryError) else "its GPU"
        raise RunError(
            f"rank {engine.rank} needs more memory than {what} has left",
            given=str(problem).splitlines()[0][:200],
            remedy="a larger batch.accumulate, batch.checkpointing=full, or engine.kind=fsdp on "
            "several GPUs; `lucida plan` says what fits. The same command goes on from the last "
            "checkpoint",
        ) from problem


class DataParallel(Engine):
    """The whole model on every rank; torch's DDP sums the gradients while they are computed."""

    kind = "ddp"

    def __init__(self, watch: Watch | None = None) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.watch = watch

    def prepare(self, model: nn.Module, precision: Precision) -> tuple[nn.Module, Loss]:
        device = next(model.parameters()).device
        return model, DistributedDataParallel(
            Objective(model),
            device_ids=[device] if device.type == "cuda" else None,
            # A rank with text only leaves a trained encoder unused; without this the others wait.
            find_unused_parameters=True,
            **{SYNC_BUFFERS: False},
            gradient_as_bucket_view=True,
        )

    def last_micro_batch(self, loss: Loss, last: bool) -> AbstractContextManager:
        # Gradients of earlier passes add up on their rank, and are summed over ranks once.
        return nullcontext() if last else loss.no_sync()

    def total(self, *numbers: float) -> list[float]:
        # On the CPU, over gloo: no wait for a GPU, and fp64 counts tokens exactly (fp32 to 16.7
        # million).
        shared = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(shared)
        return shared.tolist()

    def agreed(self, number: float) -> float:
        return self.total(number if self.main else 0.0)[0]

    def wait(self) -> None:
        self.total(0.0)

    def gathered(self, value: T) -> list[T]:
        values: list = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def mark(self, doing: str, step: int | None = None, limited: bool | None = None) -> None:
        if self.watch is not None:
            self.watch.mark(doing, step, limited)

    @contextmanager
    def together(self) -> Iterator[None]:
        if self.watch is None:
            yield
            return
        try:
            yield
        except LucidaError as problem:
            problem.told = self.watch.is_told(str(problem)) or problem.told
            raise
        except RuntimeError as problem:
            if is_lost(problem):
                raise self.watch.explain_loss() from problem
            self.watch.is_told(str(problem))
            raise
        self.watch.rest()

    def own_randomness(self, *place: int) -> None:
        if self.rank:
            seed = 0  # in the end one number for each (seed, stage, step, rank)
            for number in (*place, self.rank):
                seed = (seed * 1_000_003 + number + 1) % 2**63
            torch.manual_seed(seed)
