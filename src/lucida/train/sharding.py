"""The sharded engine: every rank holds a part of each weight, its gradient and its moments.

    prepare   plain model ─▶ fully_shard: each layer of the language model, each layer of a trained
                             encoder, and all the rest (embedding, projector, norms) as one unit
    a step    layer by layer: gather the weights ─▶ compute ─▶ drop them; gradients are summed in
              parts, and every rank updates its own
    whole     the plain model for a moment: other code looks at it, or a stage is over

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

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed import _composable_state as composable
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lucida.core.errors import RecipeError
from lucida.data.sample import Batch
from lucida.model.adapters import quantised_layers
from lucida.model.encoders.fusion import encoders_of
from lucida.train.blocks import blocks
from lucida.train.engine import DataParallel, Loss, Objective
from lucida.train.objective import Losses
from lucida.train.precision import Precision
from lucida.train.state import whole

HOOKS = "_hooks"
"""In the name of everything that a module keeps hooks in."""


class Face:
    """How a module looks: its class, its hooks, its weights, and what torch has written on it."""

    def __init__(self, module: nn.Module) -> None:
        inside = vars(module)
        self.module, self.kind, self.values = module, type(module), dict(inside)
        kept = {name: value for name, value in inside.items() if HOOKS in name}
        self.hooks = {name: dict(value) for name, value in kept.items() if isinstance(value, dict)}
        self.weights = dict(module._parameters)

    def put_on(self, marks: set[str]) -> None:
        """Make the module look so again. `marks`: the attributes that sharding sets."""
        inside = vars(self.module)
        self.module.__class__ = self.kind
        for name in marks:
            if name in self.values:
                inside[name] = self.values[name]
            else:
                inside.pop(name, None)
        for name, hooks in self.hooks.items():
            inside[name].clear()
            inside[name].update(hooks)
        self.module._parameters.update(self.weights)


class ShardedObjective(Objective):
    """The loss of a sharded model. Where any rank has a picture, all ask a trained encoder.

    total: sums a number over ranks.
    """

    def __init__(self, model: nn.Module, total: Callable[[float], list[float]]) -> None:
        super().__init__(model)
        self.total = total

    def forward(self, batch: Batch) -> Losses:
        """See `token_losses`."""
        nothing = 0.0
        if trains(self.model.vision):
            own = 0 if batch.pixel_values is None else len(batch.pixel_values)
            if self.total(own) != [0.0] and not own:
                # In front of all else: ranks have to gather the same layers in the same order.
                nothing = sum(blank(*each) for each in sides(self.model))
        total, each = super().forward(batch)
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
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    features = encoder(picture)
    for module, training in modes.items():
        module.training = training
    return 0.0 * features.float().sum()


class Sharded(DataParallel):
    """Weights, gradients and moments in parts, one for each rank (FSDP2).

    plain: how the modules look without it. apart: the weights that stay whole.
    """

    kind = "fsdp"
    shards = True

    def __init__(self) -> None:
        super().__init__()
        self.objective: ShardedObjective | None = None
        self.plain: list[Face] = []
        self.apart: set[nn.Parameter] = set()
        self.marks: set[str] = set()

    def prepare(self, model: nn.Module, precision: Precision) -> Loss:
        if quantised := quantised_layers(model):
            raise RecipeError(
                "weights in 4 or 8 bits cannot be cut into parts",
                expected="model.language.quantize=null under engine.kind=fsdp",
                given=f"{len(quantised)} quantised layers, such as {next(iter(quantised))}",
                remedy="set engine.kind=ddp, or quantize=null",
            )
        self.plain = [Face(module) for module in model.modules()]
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.world,))
        objective = ShardedObjective(model, self.total)
        if trains(model.vision):
            # A batch of several shapes calls an encoder several times, not as often on every rank.
            in_layers = model.arrangement.policy.one_square
            for layer in blocks(model.vision).values() if in_layers else ():
                fully_shard(layer, mesh=mesh)
            self.apart = set()
        else:
            self.apart = set() if model.vision is None else set(model.vision.parameters())
        for layer in blocks(model.language).values():
            fully_shard(layer, mesh=mesh, mp_policy=policy(precision))
        self.objective = fully_shard(objective, mesh=mesh, ignored_params=self.apart)
        self.marks = {
            name for face in self.plain for name in vars(face.module).keys() - face.values
        }
        self.forget()
        return self.objective

    def last_pass(self, loss: Loss, last: bool) -> AbstractContextManager:
        """Every pass sums its gradients over ranks: to keep them until the last would take the
        room of all weights."""
        return nullcontext()

    @contextmanager
    def looking(self, model: nn.Module) -> Iterator[Loss]:
        if self.objective is None:
            yield Objective(model)
            return
        yield self.objective
        self.objective.reshard()

    @contextmanager
    def whole(self, model: nn.Module, everywhere: bool = False) -> Iterator[None]:
        if self.objective is None:
            yield
            return
        self.objective.reshard()
        sharded = [Face(module) for module in model.modules()]
        self.gather(keep=self.main or everywhere)
        try:
            yield
        finally:
            for face in sharded:
                face.put_on(self.marks)
            self.forget()

    def release(self, model: nn.Module) -> None:
        if self.objective is None:
            return
        self.objective.reshard()
        self.gather(keep=True)
        for face in self.plain:
            # torch would refuse to shard the module a second time, and has no way back itself.
            composable._module_state_mapping.pop(face.module, None)
        self.objective, self.plain = None, []

    @torch.no_grad()
    def gather(self, keep: bool) -> None:
        """Make the model plain again, of gathered weights; where they are not kept, of hollow ones.

        The parameters are those that the model had before: the plans of stages know them.
        """
        done = set()
        for face in self.plain:
            for name, plain in face.weights.items():
                if plain is None or plain in done or plain in self.apart:
                    continue
                now = face.module._parameters[name]
                value = whole(now.detach())
                plain.data = value if keep else hollow(value)
                done.add(plain)
        for face in self.plain:
            face.put_on(self.marks)

    def forget(self) -> None:
        """Give the room of the plain weights back; the parameters stay, hollow."""
        for face in self.plain:
            for plain in face.weights.values():
                if plain is not None and plain not in self.apart:
                    plain.data = hollow(plain.data)


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
