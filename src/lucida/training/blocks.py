"""The layers of an encoder or a language model, in order, whatever its architecture calls them.

    module ─▶ its widest list of like modules ─▶ a stage in turn holds a list ─▶ blocks in order

Nothing is recognised by a name. A transformer holds one list of layers; a convolutional encoder or
a Swin holds a list of stages, each with its list of blocks, which count through all stages.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def blocks(module: nn.Module) -> dict[str, nn.Module]:
    """Name below `module` → layer, from the input to the output; empty when it has no layers.

    Worked example: a ResNet of two stages of 1 and 2 blocks gives `stages.0.layers.0`,
    `stages.1.layers.0` and `stages.1.layers.1` (with the names of its own lists in front).
    """
    lists = outermost_lists(module, "")
    if not lists:
        return {}
    name = max(lists, key=lambda each: size(lists[each]))
    prefix = f"{name}." if name else ""
    children = {prefix + key: child for key, child in lists[name].named_children()}
    inner = {key: own_list(child) for key, child in children.items()}
    if any(found is None for found in inner.values()):
        return children
    found = {}
    for key, (inside, within) in inner.items():
        found |= {f"{key}.{inside}.{index}": child for index, child in within.named_children()}
    return found


def outermost_lists(module: nn.Module, name: str) -> dict[str, nn.Module]:
    """Lists of like modules below `module` that stand in no other such list, by name."""
    if is_list(module):
        return {name: module}
    found: dict[str, nn.Module] = {}
    for key, child in module.named_children():
        found |= outermost_lists(child, f"{name}.{key}" if name else key)
    return found


def is_list(module: nn.Module) -> bool:
    """A list or chain of modules of one class that hold weights and are no whole models."""
    children = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and bool(children)
        and len({type(child) for child in children}) == 1
        and not whole_models(module)
        and any(size(child) for child in children)
    )


def whole_models(module: nn.Module, name: str = "") -> list[str]:
    """Names of the outermost transformers models below `module`."""
    if isinstance(module, PreTrainedModel):
        return [name]
    found = []
    for key, child in module.named_children():
        found += whole_models(child, f"{name}.{key}" if name else key)
    return found


def own_list(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The widest list that is a child of this module itself and holds most of its weights."""
    lists = {name: child for name, child in module.named_children() if is_list(child)}
    if not lists:
        return None
    name = max(lists, key=lambda each: size(lists[each]))
    return (name, lists[name]) if 2 * size(lists[name]) > size(module) else None


def size(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
