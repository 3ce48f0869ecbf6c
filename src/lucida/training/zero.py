"""The engine of DeepSpeed (extra `deepspeed`): ZeRO cuts moments, gradients, weights.

    stage 1   moments in parts, one for each rank     prepare   plain model ─▶ copy
    stage 2   and gradients                           drive     the copy and AdamW ─▶ DeepSpeed's
    stage 3   and the weights of decoder layers       whole, release   back into the plain model

DeepSpeed lays all weights of a group end to end and cuts that, so it moves what had no gradient in
a step as well; and it sums gradients in the order in which they come, which has to be the same on
every rank. Hence a rank without a picture, or without a supervised token, goes through the same
layers with nothing to learn; and a trained encoder that no rank has asked in a step rests.

Under stage 3 all but the decoder layers (embedding, projector) stays whole. It wants one order of
calls as well, so it is for frozen encoders and pictures that are one square. A frozen encoder is
not shown to DeepSpeed at all: each rank asks it at its own pace.
Checkpoints are those of every engine: DeepSpeed's own are not written.

Reference: Rajbhandari et al., ZeRO, 2020, arXiv 1910.02054; Ren et al., ZeRO-Offload, 2021,
arXiv 2101.06840.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

from lucida.core.errors import RecipeError, RunError
from lucida.core.spec import EngineSpec, MaskName, Recipe, StageSpec, ZeroSpec
from lucida.data.sample import Batch
from lucida.training.blocks import blocks
from lucida.training.engine import Loss
from lucida.training.objective import Losses
from lucida.training.precision import Precision
from lucida.training.sharding import Sharded, ShardedObjective, trains
from lucida.training.watch import Watch
from lucida.training.zero_pieces import Driven, Resting, split_groups

INSTALL = "pip install 'lucida[deepspeed]'"


def check_recipe(recipe: Recipe) -> None:
    """RunError when DeepSpeed is missing, RecipeError for what it is not used with here."""
    if find_spec("deepspeed") is None:
        raise RunError(
            "engine.kind=deepspeed needs DeepSpeed", remedy=f"{INSTALL}, or set engine.kind=fsdp"
        )
    stage = (recipe.engine.zero or ZeroSpec()).stage
    muon = [f"stages.{each.name}" for each in recipe.stages if each.optim.kind == "muon"]
    cross = recipe.model.cross_attention is not None and stage > 1
    refused = {
        "compiled layers and DeepSpeed's hooks do not go together": (
            recipe.engine.compile and "engine.compile=true",
            "engine.compile=false",
        ),
        "Muon orthogonalises whole matrices, and DeepSpeed shows it pieces of all end to end": (
            muon and f"{muon[0]}.optim.kind=muon",
            "optim.kind=adamw",
        ),
        "weights in 4 or 8 bits cannot be cut into parts": (
            recipe.model.language.quantize and f"quantize={recipe.model.language.quantize}",
            "model.language.quantize=null",
        ),
        "gated layers give gradients in another order where a batch has no image, and ZeRO 2 and 3 "
        "sum them in the order in which they come": (
            cross and f"engine.zero.stage={stage} with model.cross_attention",
            "engine.zero.stage=1",
        ),
        SCALING: (recipe.precision == "fp16" and "precision=fp16", "precision bf16 or fp32"),
        ORDER: (
            stage == 3 and next(filter(None, map(find_seen, recipe.stages)), None),
            "engine.zero.stage 1 or 2",
        ),
    }
    for why, (given, expected) in refused.items():
        if given:
            raise refuse(why, expected, given)


def find_seen(stage: StageSpec) -> str | None:
    """Where a stage says that it trains the encoder, if it says so by name."""
    rates = (name for name, rate in stage.train.items() if rate not in ("frozen", 0))
    found = next((name for name in rates if name.startswith("vision")), None)
    return found and f"stages.{stage.name}.train.{found}"


ORDER = "ZeRO 3 wants every rank to call the same modules in the same order, and pictures differ"

SCALING = "DeepSpeed scales a loss in fp16 by rules of its own, which no other engine goes on from"


def refuse(why: str, expected: str, given: str) -> RecipeError:
    """The error for a recipe that is for other engines."""
    return RecipeError(
        why,
        expected=f"{expected} under engine.kind=deepspeed",
        given=given,
        remedy=f"set {expected}, or engine.kind=fsdp or ddp",
    )


def import_deepspeed() -> ModuleType:
    """DeepSpeed, with what it says at its import on standard error, and less of it later."""
    with contextlib.redirect_stdout(sys.stderr):
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # It calls what torch 2.13 has renamed, and would say so at every step.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    if not torch.cuda.is_available():
        # It would try each of its extensions with a compiler, for minutes; gloo needs none.
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


class Even(ShardedObjective):
    """The loss by way of the same layers in every batch of every rank, in the same order: DeepSpeed
    would take the gradient of an earlier step for one that does not come.

    asked: has any rank shown a trained encoder a picture since this was set to False?
    """

    always = True

    def __init__(self, model: nn.Module, total: Callable[[float], list[float]]) -> None:
        super().__init__(model, total)
        self.asked = False

    def forward(self, batch: Batch, mask: MaskName | None = None, how: str = "segments") -> Losses:
        """See `token_losses`."""
        total, each = super().forward(batch, mask, how)
        self.asked = self.asked or self.shown
        if not len(each):
            head = self.model.get_output_embeddings()
            total = total + 0.0 * head(total.new_zeros(1, head.weight.shape[1])).sum()
        return total, each


class Zero(Sharded):
    """DeepSpeed's engine between a copy of the model and its optimizer.

    driven: DeepSpeed's engine, once there is an optimizer. cut: the copy, all of it.
    """

    kind = "deepspeed"
    packages = ("deepspeed",)

    def __init__(self, spec: EngineSpec, watch: Watch | None = None) -> None:
        super().__init__(watch)
        self.spec = spec.zero or ZeroSpec()
        self.precision: Precision | None = None
        self.cut: nn.Module | None = None
        self.driven = None

    def check(self, recipe: Recipe) -> None:
        check_recipe(recipe)

    def prepare(self, model: nn.Module, precision: Precision) -> tuple[nn.Module, Loss]:
        if precision.name == "fp16":
            raise refuse(SCALING, "precision bf16 or fp32", f"fp16 ({precision.reason})")
        moves = trains(model.vision) or not model.arrangement.policy.one_square
        if self.spec.stage == 3 and model.vision is not None and moves:
            given = "a trained encoder, or images that are no single squares"
            raise refuse(ORDER, "engine.zero.stage 1 or 2", given)
        self.plain, self.precision = model, precision
        frozen = model.vision is not None and not trains(model.vision)
        self.apart = set(model.vision.parameters()) if frozen else set()
        # DeepSpeed hangs state of its own on parameters: it is given others, of the same storage.
        self.cut = with_own_parameters(model, self.apart)
        self.objective = Even(hide_vision(self.cut) if frozen else self.cut, self.total)
        return self.cut, self.loss

    def drive(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        deepspeed = import_deepspeed()
        # Others go on with the groups as they were; DeepSpeed is given, and cuts, those of `inner`.
        outer, inner = optimizer.param_groups, split_groups(optimizer.param_groups)
        moved = Resting(
            [pieces for _, pieces in inner], betas=optimizer.defaults["betas"], fused=True
        )
        self.driven, *_ = deepspeed.initialize(
            model=self.objective, optimizer=moved, config=configure(self.spec, self.precision)
        )
        if self.spec.stage == 3:
            keep_whole(self.objective.model, self.driven.optimizer.parameter_offload)
        trained = {each for group in outer for each in group["params"]}
        for weight in self.cut.parameters():
            if weight not in self.apart:
                # `state.whole` and `state.put` ask for these two by name, as DTensors have them.
                weight.full_tensor = partial(gather_whole, weight)
                weight.take_tensor = partial(take_whole, weight, weight in trained)
        self.empty()
        pairs = [(group, twin) for (group, _), twin in zip(inner, moved.param_groups, strict=True)]
        return Driven(self.driven, outer, pairs, moved)

    def loss(self, batch: Batch, mask: MaskName | None = None, how: str = "segments") -> Losses:
        """The loss by way of DeepSpeed; see `token_losses`."""
        return self.driven(batch, mask, how)

    @contextmanager
    def looking(self, model: nn.Module) -> Iterator[Loss]:
        yield self.loss

    @contextmanager
    def last_micro_batch(self, loss: Loss, last: bool) -> Iterator[None]:
        self.driven.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        # The loss is divided already by what the whole step counts, whatever passes it is cut into.
        self.driven.backward(loss, scale_wrt_gas=False)

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        return optimizer.measure()

    def clip(self, optimizer: torch.optim.Optimizer, limit: float, norm: Tensor) -> None:
        """DeepSpeed does it in its step."""
        self.driven.optimizer.clip_grad = limit

    def gather(self, keep: bool) -> None:
        parts = dict(self.cut.named_parameters())
        for name, weight in self.plain.named_parameters():
            if weight not in self.apart:
                value = parts[name].full_tensor()
                if keep:
                    weight.data = value

    def release(self) -> None:
        if self.driven is not None:
            self.gather(keep=True)
            for weight in self.plain.parameters():
                if weight not in self.apart:
                    weight.data = weight.data.clone()  # out of the flat piece
            self.driven.destroy()
            from deepspeed.runtime.zero import parameter_offload

            parameter_offload.FWD_MODULE_STACK.clear()  # it would keep the copy alive
        self.driven = self.objective = self.cut = self.plain = None


def configure(spec: ZeroSpec, precision: Precision) -> dict:
    """What DeepSpeed is told; what is not here is as it has it.

    Weights are fp32, and operands of products are rounded as in every other engine. Sums of
    gradients are fp32. Of micro-batches it has to know only whether there may be several.
    """
    zero = {
        "stage": spec.stage,
        # Only decoder layers are fetched, and when they are called.
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_param_persistence_threshold": 0,
    }
    if spec.offload:
        pinned = precision.device.type == "cuda"
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    half = {"enabled": precision.name == "bf16", "dtype": "bfloat16"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2 if spec.offload else 1,
        "steps_per_print": sys.maxsize,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its CPU Adam is C++ that it would build here
        "zero_optimization": zero,
        "torch_autocast": half | {"lower_precision_safe_modules": []},
    }


def with_own_parameters(model: nn.Module, apart: set[nn.Parameter]) -> nn.Module:
    """A copy of a model whose parameters are others, of the same storage, because DeepSpeed changes
    them for good; those in `apart` and all buffers are the very same."""
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        own = nn.Parameter(weight.data, requires_grad=weight.requires_grad)
        memo[id(weight)] = weight if weight in apart else own
    return copy.deepcopy(model, memo)


def hide_vision(model: nn.Module) -> nn.Module:
    """The same model, made of the same modules, whose encoder is none of them."""
    kept = (*model.children(), *model.parameters(), *model.buffers())
    shown = copy.deepcopy(model, {id(each): each for each in kept})  # a shell around the same parts
    vision = shown.vision
    del shown.vision
    object.__setattr__(shown, "vision", vision)  # past nn.Module, which would register it
    return shown


def keep_whole(model: nn.Module, offload: object) -> None:
    """Of a model under stage 3 keep all but the decoder layers whole on every rank."""
    cut = {p for layer in blocks(model.language).values() for p in layer.parameters()}
    rest = [p for p in model.parameters() if p not in cut]
    for weight in rest:
        # DeepSpeed's words: what persists is gathered once and never dropped between two calls.
        weight.ds_persist = True
    known = set(offload.persistent_parameters)
    offload.persistent_parameters.extend(p for p in rest if p not in known)
    if rest:
        rest[0].all_gather(rest)


@torch.no_grad()
def gather_whole(weight: nn.Parameter) -> Tensor:
    """All of a weight of which this rank may hold a part; all ranks have to ask."""
    if weight.shape == getattr(weight, "ds_shape", weight.shape):  # cut: its shape is [0]
        return weight.data
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        return weight.data.clone()


@torch.no_grad()
def take_whole(weight: nn.Parameter, trained: bool, value: Tensor) -> None:
    """Put a whole value in the place of a weight, and into what the optimizer moves."""
    import deepspeed

    value = value.to(weight.device)
    if weight.shape == value.shape:
        weight.data.copy_(value)
    else:
        with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
            weight.data.copy_(value)
    if trained:
        deepspeed.utils.safe_set_full_fp32_param(weight, value)  # else the next step undoes it
