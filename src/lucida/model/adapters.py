"""Low-rank adapters: set beside linear layers, saved small, merged away. PEFT does the arithmetic.

    linear   y = W x          adapted   y = W x + (alpha / rank) B A x          merged   W + ...

An adapted model has other parameter names than the plain one: PEFT hangs the matrix one level lower
(`q_proj.base_layer.weight`). Everything that is kept on disk, and everything that decides by name,
uses the plain names; `named_weights` and `named_adapters` are the only two places that translate
(`named_tensors` joins them).
PEFT is an extra and is imported inside functions; a model without adapters never needs it.

Reference: Hu et al., LoRA, 2021, arXiv 2106.09685, section 4.1; Liu et al., DoRA, 2024, arXiv
2402.09353.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lucida.core.errors import ModelError, RunError
from lucida.core.spec import LoraSpec
from lucida.model.checksums import check_sums, seal
from lucida.model.folder import read_json, read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "default"
"""PEFT's name for an adapter that is the only one."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT writes in front of every name, because it wraps the model twice."""


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers that can get an adapter, by name, in the model's order.

    Not the output matrix over the vocabulary (it may be the embedding as well), and not the inner
    matrix of torch's own attention module, which is read without ever being called.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    inner = nn.modules.linear.NonDynamicallyQuantizableLinear  # out_proj of nn.MultiheadAttention
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
        if not isinstance(module, inner)
    }


def adapter_size(model: nn.Module, names: Iterable[str], lora: LoraSpec) -> int:
    """Number of weights that adapters on these layers have."""
    modules = dict(model.named_modules())
    total = 0
    for name in names:
        outputs, inputs = sides(modules[name])
        total += lora.rank * (outputs + inputs) + (outputs if lora.dora else 0)
    return total


def sides(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, not read from its matrix, which may be quantised."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return module.out_features, module.in_features


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with an adapter, by their plain name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "lora_A")
    }


def named_weights(
    model: nn.Module, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Parameter]]:
    """Plain name and parameter of everything but adapters, in the plain model's order."""
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters(remove_duplicate=remove_duplicate):
        plain = plain_name(name, layers)
        if plain is not None:
            yield plain, parameter


def plain_name(name: str, layers: Iterable[str]) -> str | None:
    """The name of a tensor in the model without adapters; None for a part of an adapter.

    Worked example: with an adapter on `q`, `q.base_layer.weight` → `q.weight`,
    `q.lora_A.default.weight` → None, `norm.weight` stays.
    """
    for layer in layers:
        if name.startswith(f"{layer}."):
            rest = name.removeprefix(f"{layer}.")
            inner = rest.removeprefix("base_layer.")
            return None if inner == rest else f"{layer}.{inner}"
    return name


def named_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' own weights, by the names that PEFT's files use (without its prefix)."""
    found = {}
    for layer, module in adapted_layers(model).items():
        for name, parameter in module.named_parameters():
            if not name.startswith("base_layer."):
                # `lora_A.default.weight` → `lora_A.weight`, but DoRA's magnitudes have no ending
                # there.
                short = name.removesuffix(f".{NAME}.weight")
                ending = "" if short == "lora_magnitude_vector" else ".weight"
                found[f"{layer}.{short}{ending}"] = parameter
    return found


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter, adapter and buffer of a model under the name that it is compared by: plain
    names, and those of `named_adapters`."""
    layers = adapted_layers(model)
    found: dict[str, torch.Tensor] = dict(named_weights(model)) | named_adapters(model)
    for name, buffer in model.named_buffers():
        found[plain_name(name, layers) or name] = buffer
    return found


def lora_config(lora: LoraSpec, names: Sequence[str], base: str | None = None) -> LoraConfig:
    """The same in PEFT's words; ModelError when PEFT is not installed."""
    try:
        from peft import LoraConfig
    except ImportError as problem:
        raise ModelError(
            "adapters (`lora`) need PEFT, which is not installed",
            remedy="pip install 'lucida[lora]'",
        ) from problem
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=list(names),
        base_model_name_or_path=base,
    )


def attach(model: nn.Module, names: Sequence[str], lora: LoraSpec) -> None:
    """Put new adapters beside these layers; they change nothing until they are trained.

    Their start is drawn from torch's generator. What needs gradients afterwards is PEFT's choice:
    call `apply_plan`.
    """
    config = lora_config(lora, names)
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, NAME)
    # PEFT matches names by their ends: `q` would also take `other.q`.
    if given := sorted(set(adapted_layers(model)) ^ set(names)):
        raise ModelError(
            "PEFT gave adapters to other layers than it was asked to",
            given=", ".join(given[:3]),
            remedy="name the layers by narrower patterns in lora.targets",
        )


@torch.no_grad()
def merge(model: nn.Module) -> list[str]:
    """Add every adapter to its matrix and remove it; the plain names of the changed weights.

    The results stay the same up to the rounding of the matrices. A quantised matrix is written out
    in fp32 first: rounding the sum to a few bits again would lose what was learnt. ModelError when
    a merged matrix would not be finite.
    """
    changed = []
    for name, module in adapted_layers(model).items():
        base = module.get_base_layer()
        try:
            if base.weight.is_floating_point():
                module.merge(safe_merge=True)
            else:
                base = dequantise(base)
                base.weight.copy_(merged_weight(module, base.weight))
        except ValueError as problem:
            raise ModelError(f"the adapter of {name} cannot be merged: {problem}") from problem
        replace(model, name, base)
        changed.append(f"{name}.weight")
    if changed:
        del model.peft_config  # else PEFT takes the model for adapted
    return changed


def merged_weight(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The matrix of an adapted layer with its adapter added, from the matrix in fp32."""
    if NAME in module.lora_variant:  # DoRA: lengths of rows are learnt apart
        return module.lora_variant[NAME].merge_safe(module, NAME, weight)
    return weight + module.get_delta_weight(NAME)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module into the place that has this name."""
    above, _, own = name.rpartition(".")
    setattr(model.get_submodule(above), own, module)


@torch.no_grad()
def write_out(model: nn.Module) -> int:
    """Replace every quantised linear layer by a plain one in fp32; gives how many there were."""
    layers = quantised_layers(model)
    for name, module in layers.items():
        replace(model, name, dequantise(module))
    return len(layers)


def quantised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers whose matrices are held in a few bits, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    }


def keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit matrices for a CPU at every look in evaluation mode:
    products with a repacked matrix pass no gradient on. `state_dict` takes a repacking back."""
    for module in quantised_layers(model).values():
        module.state_dict()
        module.support_avx512bf16_for_cpu = False


def dequantise(module: nn.Module) -> nn.Linear:
    """A plain fp32 copy of a linear layer that bitsandbytes holds in 4 or 8 bits."""
    from peft.utils.integrations import dequantize_bnb_weight

    bias = module.bias is not None
    device = module.weight.device
    plain = nn.Linear(module.in_features, module.out_features, bias=bias, device=device)
    state = getattr(module.weight, "quant_state", None) or getattr(module, "state", None)
    plain.weight.copy_(dequantize_bnb_weight(module.weight, state=state))
    if bias:
        plain.bias.copy_(module.bias)
    return plain


def save_adapter(
    model: nn.Module,
    folder: Path,
    lora: LoraSpec,
    below: str = "",
    base: str | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapters in PEFT's layout into a folder that exists: safetensors and JSON.

    `below` names the sub-module that PEFT will load them onto ("language"), and `base` where that
    one comes from; without it they are for the whole model. `weights`: those of `named_adapters`
    where the model itself holds only a part of each.
    """
    lead = f"{below}." if below else ""
    tensors = {
        PREFIX + name.removeprefix(lead): value.detach().cpu().contiguous()
        for name, value in (weights or named_adapters(model)).items()
    }
    names = sorted(name.removeprefix(lead) for name in adapted_layers(model))
    values = lora_config(lora, names, base).to_dict() | {"inference_mode": True}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(values, indent=2, sort_keys=True, default=sorted)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    seal(folder)


def load_adapter(model: nn.Module, folder: Path, lora: LoraSpec) -> None:
    """Fill the adapters of a model with those that `save_adapter` wrote for the whole model.

    RunError, with both values, when they were made with another rank, scale, kind or target;
    ModelError when a file is damaged or another than was saved.
    """
    check_sums(folder)
    values = read_json(folder / CONFIG, "r", "lora_alpha", "use_dora", "target_modules")
    here = lora_config(lora, sorted(adapted_layers(model))).to_dict()
    compared = {"r": "rank", "lora_alpha": "alpha", "use_dora": "dora", "target_modules": "targets"}
    for field, called in compared.items():
        expected, given = here[field], values[field]
        if field == "target_modules":
            expected, given = sorted(expected), in_order(given)
        if expected != given:
            raise RunError(
                f"the adapter was trained with other lora.{called}",
                expected=shorten(expected),
                given=shorten(given),
                origin=folder,
                remedy="use the stage's `lora` it was trained with, or train in another folder",
            )
    stored = read_tensors(folder / WEIGHTS)
    places = named_adapters(model)
    for name in sorted(set(stored) ^ {PREFIX + place for place in places}):
        raise RunError(
            f"the adapter and the model hold different tensors, {name} for one", origin=folder
        )
    with torch.no_grad():
        for name, place in places.items():
            value = stored[PREFIX + name]
            if value.shape != place.shape or not value.is_floating_point():
                raise RunError(
                    f"{name} has another shape or type of numbers",
                    expected=f"{tuple(place.shape)}, {place.dtype}",
                    given=f"{tuple(value.shape)}, {value.dtype}",
                    origin=folder,
                )
            place.copy_(value)


def in_order(value: object) -> object:
    """A list sorted; anything else, which no targets are, as it is."""
    return sorted(value, key=str) if isinstance(value, list) else value


def shorten(value: object) -> object:
    """A list of names as its number and its first three."""
    if not isinstance(value, list):
        return value
    more = ", …" if len(value) > 3 else ""
    return f"{len(value)} layers ({', '.join(value[:3])}{more})"
