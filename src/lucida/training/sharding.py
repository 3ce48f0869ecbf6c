"""The sharded engine: every rank holds a part of each weight, its gradient and its moments.

    prepare   plain model ─▶ copy ─▶ fully_shard: each layer of the language model, each layer of a
                             trained encoder, and all the rest (embedding, projector, norms) as one
    a step    layer by layer: gather the weights ─▶ compute ─▶ drop them; gradients are summed in
              parts, and every rank updates its own
    whole     the weights gathered into the plain model for a moment, for other code to look at it
    release   the same for good: a stage is over

A wholly frozen encoder stays whole on every rank: each rank asks it at its own pace (the cache of
features does), and gathering needs all of them at once. For the same reason a rank whose samples
have no picture shows a trained encoder a blank one. Between two stages every rank holds the plain
model, without gradients and moments, so that adapters merge, the next stage is set and rank 0
evaluates as with any other engine; that much has to fit on a device.

Under bf16 and fp16 the layers of the language model are gathered in that precision, which their
products have anyway; sums of gradients, and all that is kept, stay fp32.

Reference: Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, 2023,
arXiv 2304.11277; Rajbhandari et al., ZeRO, 2020, arXiv 1910.02054.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lucida.core.errors import RecipeError
from lucida.core.spec import MaskName
from lucida.data.sample import Batch
from lucida.model.adapters import quantised_layers
from lucida.model.encoders.fusion import encoders_of
from lucida.model.evaluating import evaluating
from lucida.training.blocks import blocks
from lucida.training.engine import DataParallel, Loss, Objective
from lucida.training.objective import Losses
from lucida.training.precision import Precision
from lucida.training.state import whole
from lucida.training.watch import Watch


class ShardedObjective(Objective):
    """The loss of a sharded model. Where any rank has a picture, all ask a trained encoder.

    total: sums a number over ranks. shown: had any rank one in the last batch?
    """

    always = False
    """Is a trained encoder asked where no rank has a picture, too?"""

    def __init__(self, model: nn.Module, total: Callable[[float], list[float]]) -> None:
        super().__init__(model)
        self.total, self.shown = total, False

    def forward(self, batch: Batch, mask: MaskName | None = None, how: str = "segments") -> Losses:
        """See `token_losses`."""
        nothing, self.shown = 0.0, False
        if trains(self.model.vision):
            own = 0 if batch.pixel_values is None else len(batch.pixel_values)
            self.shown = self.total(own) != [0.0]
            if not own and (self.shown or self.always):
                # In front of all else: ranks have to gather the same layers in the same order.
                nothing = sum(blank(*each) for each in sides(self.model))
        total, each = super().forward(batch, mask, how)
        return total + nothing, each


def trains(module: nn.Module | None) -> bool:
    """Does any weight of it?"""
    return module is not None and any(weight.requires_grad for weight in module.parameters())


def sides(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """Every encoder with the side of a picture that it takes: of one encoder, what the policy makes
    of pictures; of several, each its own, because each has its own policy."""
    encoders, side = encoders_of(model.vision), model.arrangement.policy.size
    if len(encoders) == 1:
        return [(encoders[0], side)]
    own = [getattr(encoder.model.config, "image_size", None) for encoder in encoders]
    return [
        (encoder, size if isinstance(size, int) else side)
        for encoder, size in zip(encoders, own, strict=True)
    ]


def blank(encoder: nn.Module, side: int) -> Tensor:
    """Zero, by way of an encoder that sees a blank picture; in evaluation mode, so that neither a
    random generator nor running statistics notice."""
    weight = next(encoder.parameters())
    picture = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    with evaluating(encoder):
        return 0.0 * encoder(picture).float().sum()


class Sharded(DataParallel):
    """Weights, gradients and moments in parts, one for each rank (FSDP2).

    plain: the model that was prepared. Its parameters hold nothing while `objective` has the copy
    of it that trains. apart: parameters that both have, because they stay whole.
    """

    kind = "fsdp"
    shards = True

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__(watch)
        self.plain: nn.Module | None = None
        self.objective: ShardedObjective | None = None
        self.apart: set[nn.Parameter] = set()

    def prepare(self, model: nn.Module, precision: Precision) -> tuple[nn.Module, Loss]:
        if quantised := quantised_layers(model):
            raise RecipeError(
                "weights in 4 or 8 bits cannot be cut into parts",
                expected="model.language.quantize=null under engine.kind=fsdp",
                given=f"{len(quantised)} quantised layers, such as {next(iter(quantised))}",
                remedy="set engine.kind=ddp, or quantize=null",
            )
        self.plain, cut = model, with_same_tensors(model)
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.world,))
        objective = ShardedObjective(cut, self.total)
        if trains(model.vision):
            # A batch of several shapes calls an encoder several times, not as often on every rank.
            in_layers = model.arrangement.policy.one_square
            for layer in blocks(cut.vision).values() if in_layers else ():
                fully_shard(layer, mesh=mesh)
            self.apart = set()
        else:
            self.apart = set() if model.vision is None else set(model.vision.parameters())
        # From the inside out: the root takes what no layer has taken. Tied weights (embedding and
        # output) are outside of all layers, and so in one group.
        for layer in blocks(cut.language).values():
            fully_shard(layer, mesh=mesh, mp_policy=policy(precision))
        self.objective = fully_shard(objective, mesh=mesh, ignored_params=self.apart)
        self.empty()
        return cut, self.objective

    def last_micro_batch(self, loss: Loss, last: bool) -> AbstractContextManager:
        """Every micro-batch sums its gradients over ranks: to keep them until the last would take
        the room of all weights."""
        return nullcontext()

    @contextmanager
    def looking(self, model: nn.Module) -> Iterator[Loss]:
        yield self.objective
        self.objective.reshard()

    @contextmanager
    def whole(self, model: nn.Module, everywhere: bool = False) -> Iterator[nn.Module]:
        self.gather(keep=self.main or everywhere)
        try:
            yield self.plain
        finally:
            self.empty()

    def release(self) -> None:
        if self.objective is not None:
            self.gather(keep=True)
        self.objective = self.plain = None

    @torch.no_grad()
    def gather(self, keep: bool) -> None:
        """Fill the plain model with the gathered weights; where they are not kept, only give this
        rank's parts of them."""
        # torch keeps the root's weights gathered behind a forward, for a backward that may not
        # come.
        self.objective.reshard()
        parts = dict(self.objective.model.named_parameters())
        for name, weight in self.plain.named_parameters():
            if weight not in self.apart:
                value = whole(parts[name].detach())
                if keep:
                    weight.data = value  # the same Parameter, so names, ties and hooks stay

    def empty(self) -> None:
        """Give the room of the plain model's weights back; their shapes stay."""
        for weight in self.plain.parameters():
            if weight not in self.apart:
                weight.data = hollow(weight.data)


def with_same_tensors(model: nn.Module) -> nn.Module:
    """A copy of a model, hooks and all, with the very same parameters and buffers.

    torch cuts a model in place and has no way back; of this copy the original is the way back.
    """
    # `deepcopy` takes for copied whatever stands in its memo under the id of the original.
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def hollow(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, for whoever counts weights, that takes the room of one number."""
    return tensor.new_empty(()).expand(tensor.shape)


def policy(precision: Precision) -> MixedPrecisionPolicy:
    """In which precision a layer of the language model is gathered."""
    if precision.name == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=precision.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
