"""One forward and backward pass on tensors without numbers: its arithmetic and what it keeps.

    shapes of a pass ─▶ encoder ─▶ projector ─▶ language model ─▶ head ─▶ backward
                          └──────────── FLOPs of each part; storages saved for backward

The real modules run, with the parameters of a stage set to train, so what is frozen, computed again
or below the lowest trained weight costs here what it costs in training.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MethodType

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lucida.apps.plan.attention import NAME, attending, plain_loss
from lucida.model.segments import EAGER_LENGTH
from lucida.train.kernels import norm_forward
from lucida.train.objective import CHUNK_LOGITS


@dataclass(frozen=True, slots=True)
class Shape:
    """What one pass holds.

    rows: samples; length: mean tokens of one; attended: the length whose square is the mean square;
    images: views of the whole pass; side: pixels; supervised: positions with logits.
    """

    rows: int
    length: int
    attended: int
    images: int
    side: int
    supervised: int
    features_cached: bool


@dataclass(slots=True)
class Cost:
    """FLOPs by part of the forward pass and of the backward pass, and bytes kept in between."""

    flops: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """FLOPs of the pass."""
        return sum(self.flops.values())


class Keeping:
    """Counts every storage that autograd saves, once, parameters and counted ones left out."""

    def __init__(self, model: nn.Module) -> None:
        self.seen = {storage(weight) for weight in model.parameters()}
        self.held: list[Tensor] = []
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        key = storage(tensor)
        if key not in self.seen:
            self.seen.add(key)
            self.held.append(tensor)  # alive, so that its address is not given to another
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def storage(tensor: Tensor) -> int:
    """What two views of the same memory have in common."""
    return tensor.untyped_storage()._cdata


def run_pass(
    model: nn.Module, shape: Shape, precision: str, gpu: bool, mode: FakeTensorMode
) -> Cost:
    """Cost of one pass of a model whose parameters are fake and whose stage is set.

    `model` has `vision`, `projector` and `language`; `precision` is fp32, bf16 or fp16.
    """
    cost, keeping = Cost(), Keeping(model)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

    def part(name: str, run):
        before = keeping.bytes
        with FlopCounterMode(display=False) as counter:
            result = run()
        cost.flops[name] = float(counter.get_total_flops())
        cost.kept[name] = keeping.bytes - before
        return result

    with mode, torch.autograd.graph.saved_tensors_hooks(keeping.pack, lambda tensor: tensor):
        with autocast:
            visual = None
            if model.vision is not None and shape.images:
                features = part("vision", lambda: seen(model, shape))
                visual = part("projector", lambda: model.projector(features))
            hidden = part("language", lambda: read(model, shape, visual, gpu))
            loss = part("head", lambda: judged(model, hidden, shape))
        if loss.requires_grad:
            with attending(shape.attended, weights_kept(shape, gpu)):
                part("backward", loss.backward)
    if shape.features_cached:
        cost.flops.pop("vision", None)  # its features come from the disk
    return cost


def seen(model: nn.Module, shape: Shape) -> Tensor:
    """Features of the pass's images."""
    pixels = torch.empty(shape.images, 3, shape.side, shape.side)
    several = isinstance(model.vision, nn.ModuleList)
    encoders = model.vision if several else [model.vision]
    trains = any(weight.requires_grad for weight in model.vision.parameters())
    with attending(None, weights=False), nullcontext() if trains else torch.no_grad():
        return torch.cat([encoder(pixels) for encoder in encoders], dim=-1)


def read(model: nn.Module, shape: Shape, visual: Tensor | None, gpu: bool) -> Tensor:
    """Last hidden states of the pass, each sample a row."""
    ids = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    embedded = model.language.get_input_embeddings()(ids)
    if visual is not None:
        rows = embedded.flatten(0, 1)
        places = visual.flatten(0, 1).to(rows.dtype)[: len(rows)]
        where = torch.zeros(len(places), dtype=torch.long)
        embedded = rows.index_copy(0, where, places).view_as(embedded)
    position = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    with attending(shape.attended, weights_kept(shape, gpu)):
        return model.language.base_model(
            inputs_embeds=embedded,
            position_ids=position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
        ).last_hidden_state


def weights_kept(shape: Shape, gpu: bool) -> bool:
    """Does attention keep its weights? On a CPU it does for short samples (`EAGER_LENGTH`)."""
    dtype = torch.float32
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return not gpu and shape.attended <= EAGER_LENGTH.get(dtype, 0)


def judged(model: nn.Module, hidden: Tensor, shape: Shape) -> Tensor:
    """The loss over the supervised positions; logits in chunks, as in training."""
    head = model.language.get_output_embeddings()
    rows = hidden.flatten(0, 1)[torch.zeros(shape.supervised, dtype=torch.long)]
    target = torch.zeros(shape.supervised, dtype=torch.long)
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    if shape.supervised <= size:
        return plain_loss(head, rows, target)
    from torch.utils.checkpoint import checkpoint

    parts = zip(rows.split(size), target.split(size), strict=True)
    losses = [checkpoint(plain_loss, head, *each, use_reentrant=False) for each in parts]
    return torch.stack(losses).sum()


def fake(model: nn.Module, gpu: bool = False) -> FakeTensorMode:
    """Give a model on the meta device fake weights on a CPU, in place; the mode they live in."""
    model.float()  # configurations name the type of their file; training holds fp32
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model.to_empty(device="cpu")
    for module in () if model.vision is None else model.vision.modules():
        module.whole_rows = True
    for module in model.language.modules():
        if (
            not gpu
            and type(module).__name__.endswith("RMSNorm")
            and hasattr(module, "variance_epsilon")
        ):
            module.forward = MethodType(norm_forward, module)  # what `quicken` puts there
    for part in (model.vision, model.language):
        for module in () if part is None else part.modules():
            if hasattr(module, "set_attn_implementation"):
                module.set_attn_implementation(NAME)
                break
    return mode
