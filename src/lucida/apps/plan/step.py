"""One forward and backward pass on tensors without numbers: its arithmetic and what it keeps.

    shapes of a pass ─▶ encoder ─▶ projector ─▶ language model ─▶ head ─▶ backward
                          └──────────── FLOPs of each part; storages saved for backward

The real modules run, with the parameters of a stage set to train, so what is frozen, computed again
or below the lowest trained weight costs here what it costs in training.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lucida.apps.plan.attention import NAME, attending, plain_loss
from lucida.apps.plan.recomputed import watch_layers
from lucida.model.cross_attention import decoder_layers
from lucida.model.last_layer import only_at
from lucida.model.segments import EAGER_LENGTH
from lucida.training.kernels import norm_forward
from lucida.training.layers import Checkpointing
from lucida.training.objective import CHUNK_LOGITS

FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *rest, **more: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *rest, **more: sdpa_backward_flop_count(
            gradient, query, key, value
        )
    ),
}
"""The fused attention of CPUs, in gated layers, which torch's counter does not know."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one pass holds.

    rows: samples; length: mean tokens of one; attended: the length whose square is the mean square;
    views: of all pictures of the pass; sides: pixels along a view, for each encoder; supervised:
    positions with logits; together: rows that the samples are laid into, which gated layers read
    whole.
    """

    rows: int
    length: int
    attended: int
    views: int
    sides: tuple[int, ...]
    supervised: int
    features_cached: bool
    together: int = 1


@dataclass(slots=True)
class Cost:
    """FLOPs by part of the forward pass and of the backward pass; bytes kept in between; bytes that
    one place of a part needs during the backward pass beyond those: a layer that is computed again,
    and the gradients on both sides of an operator."""

    flops: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    working: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """FLOPs of the pass."""
        return sum(self.flops.values())


class Keeping:
    """Counts every storage that autograd saves, once, parameters and counted ones left out."""

    def __init__(self, model: nn.Module) -> None:
        self.seen = {storage(weight) for weight in model.parameters()}
        self.held: list[Tensor] = []
        self.bytes, self.largest = 0, 0

    def pack(self, tensor: Tensor) -> Tensor:
        key = storage(tensor)
        if key not in self.seen:
            self.seen.add(key)
            self.held.append(tensor)  # alive, so that its address is not given to another
            size = tensor.untyped_storage().nbytes()
            self.bytes += size
            self.largest = max(self.largest, size)
        return tensor


def storage(tensor: Tensor) -> int:
    """What two views of the same memory have in common."""
    return StorageWeakRef(tensor.untyped_storage()).cdata


def run_pass(
    model: nn.Module,
    shape: Shape,
    precision: str,
    gpu: bool,
    mode: FakeTensorMode,
    how: Checkpointing = "none",
) -> Cost:
    """Cost of one pass of a model whose parameters are fake and whose stage is set.

    `model` has `vision`, `projector`, `cross_attention` and `language`; `precision` is fp32, bf16
    or fp16; `how` is what `equip` was told.
    """
    cost, keeping = Cost(), Keeping(model)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

    def part(name: str, run):
        before, keeping.largest = keeping.bytes, 0
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
            result = run()
        cost.flops[name] = float(counter.get_total_flops())
        cost.kept[name] = keeping.bytes - before
        cost.working[name] = 2 * keeping.largest
        return result

    def deep(name: str, run):
        """A part that has layers which may be computed again."""
        trains = name == "language" or any(p.requires_grad for p in model.vision.parameters())
        if how == "none" or not trains:
            return part(name, run)
        with watch_layers(getattr(model, name)) as layers:
            result = part(name, run)
        if layers.first is None:
            return result
        whole = Keeping(model)
        long = None if name == "vision" else shape.attended
        with attending(long, long is not None and weights_kept(shape, gpu)):
            layers.again(whole.pack)
        cost.working[name] = whole.bytes + 2 * whole.largest
        if how == "selective":
            cost.kept[name] += layers.products.bytes
        return result

    with mode, torch.autograd.graph.saved_tensors_hooks(keeping.pack, lambda tensor: tensor):
        with autocast:
            weights = weights_kept(shape, gpu)
            visual = None
            if model.vision is not None and shape.views:
                features = deep("vision", lambda: encode_views(model, shape))
                visual = part("projector", lambda: model.projector(features))
            hidden = deep("language", lambda: read(model, shape, visual, gpu))
            loss = part("head", lambda: compute_loss(model, hidden, shape))
        if loss.requires_grad:
            with attending(shape.attended, weights):  # backward passes run outside of autocast
                part("backward", loss.backward)
    if shape.features_cached:
        cost.flops.pop("vision", None)  # its features come from the disk
    return cost


def encode_views(model: nn.Module, shape: Shape) -> Tensor:
    """Features of the pass's views."""
    pixels = [torch.empty(shape.views, 3, side, side) for side in shape.sides]
    trains = any(weight.requires_grad for weight in model.vision.parameters())
    with attending(None, weights=False), nullcontext() if trains else torch.no_grad():
        return model.vision(*pixels)


def read(model: nn.Module, shape: Shape, visual: Tensor | None, gpu: bool) -> Tensor:
    """Last hidden states of the pass, each sample a row."""
    ids = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    embedded = model.language.get_input_embeddings()(ids)
    if visual is not None and model.cross_attention is not None:
        model.cross_attention.read = partial(
            apply_gated_layer, shape.together, visual.flatten(0, 1)
        )
    elif visual is not None:
        rows = embedded.flatten(0, 1)
        places = visual.flatten(0, 1).to(rows.dtype)[: len(rows)]
        # Where they stand costs nothing, only how many there are.
        where = torch.zeros(len(places), dtype=torch.long)
        embedded = rows.index_copy(0, where, places).view_as(embedded)
    position = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    # Which positions are supervised does not matter, only how many.
    wanted = torch.zeros(shape.supervised, dtype=torch.long)
    with (
        attending(shape.attended, weights_kept(shape, gpu)),
        only_at(model.language, wanted),
    ):
        return model.language.base_model(
            inputs_embeds=embedded,
            position_ids=position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
        ).last_hidden_state


def apply_gated_layer(together: int, visual: Tensor, layer: nn.Module, states: Tensor) -> Tensor:
    """States [samples, length, width] after a gated layer, which reads whole rows of the batch:
    every position is scored against every visual token [tokens, width] of its row."""
    length = states.shape[0] * states.shape[1] // together
    rows = states.flatten(0, 1)[: together * length].unflatten(0, (together, length))
    tokens = max(1, len(visual) // together)
    shown = visual[: together * tokens].unflatten(0, (together, tokens))
    allowed = torch.zeros(together, length, tokens, dtype=torch.bool)
    done = layer(rows, shown, allowed).flatten(0, 1)
    rest = states.flatten(0, 1)[len(done) :]
    return torch.cat([done, rest]).view_as(states) if len(rest) else done.view_as(states)


def hang(model: nn.Module) -> None:
    """Put the gated layers in front of their decoder layers, without what they do in training to
    find out who reads what: it looks at numbers, and here are none."""
    _, decoder = decoder_layers(model.language)
    model.cross_attention.unhook()
    model.cross_attention.read = None
    for number, layer in model.cross_attention.layers.items():

        def before(
            module: nn.Module, args: tuple, kwargs: dict, layer: nn.Module = layer
        ) -> tuple[tuple, dict]:
            states = args[0] if args else kwargs["hidden_states"]
            if model.cross_attention.read is not None:
                states = model.cross_attention.read(layer, states)
            if args:
                return (states, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": states}

        decoder[int(number)].register_forward_pre_hook(before, with_kwargs=True)


def weights_kept(shape: Shape, gpu: bool) -> bool:
    """Does attention keep its weights? On a CPU it does for short samples (`EAGER_LENGTH`)."""
    dtype = torch.float32
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return not gpu and shape.attended <= EAGER_LENGTH.get(dtype, 0)


def compute_loss(model: nn.Module, hidden: Tensor, shape: Shape) -> Tensor:
    """The loss over the supervised positions; logits in chunks, as in training."""
    head = model.language.get_output_embeddings()
    rows = hidden.flatten(0, 1)[torch.zeros(shape.supervised, dtype=torch.long)]
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    if shape.supervised <= size:
        return plain_loss(head, rows)
    from torch.utils.checkpoint import checkpoint

    parts = rows.split(size)
    losses = [checkpoint(plain_loss, head, part, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum()


def fake(model: nn.Module, gpu: bool = False) -> FakeTensorMode:
    """Give a model on the meta device fake weights on a CPU, in place; the mode they live in."""
    model.float()  # configurations name the type of their file; training holds fp32
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model.to_empty(device="cpu")
    if model.cross_attention is not None:
        hang(model)
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
