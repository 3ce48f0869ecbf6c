"""Vision encoders of timm: any of its networks that gives its intermediate maps, nearly all do.

    timm:vit_tiny_patch16_224        by name (with or without a tag): the weights that timm names
    timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k     the same as a Hub id; or a folder like it

What comes out of each block or stage, whether there is a class token and a final norm, and the
pixels that it expects are asked of timm once, on the meta device, and stand in the configuration
from then on; so everything but loading knows them without weights, and a saved model without the
Hub. Weights are safetensors and transformers' to load, as those of every other encoder.

Reference: Wightman, PyTorch Image Models, 2019.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lucida.core.errors import ModelError, PartError, nearest
from lucida.model.encoders.timm_model import TimmConfig, timm_package

BY_NAME = "timm:"
WRAPPED = "timm_wrapper"
"""What transformers' own wrapper of timm writes as `model_type`; timm's own files have none."""
PIXELS = ("input_size", "mean", "std", "interpolation", "crop_pct")
"""What timm says about the pictures that a network was trained on."""


def from_timm(values: Mapping[str, Any]) -> bool:
    """Is this config.json timm's, or transformers' around a network of timm's?"""
    return "architecture" in values and values.get("model_type", WRAPPED) == WRAPPED


def weights_of(path: str) -> str:
    """Where transformers finds the weights of `timm:NAME`; other paths as they are."""
    return hub_id(path.removeprefix(BY_NAME)) if path.startswith(BY_NAME) else path


def hub_id(name: str) -> str:
    """The Hub id of a network's weights; without a tag those that timm takes first."""
    known = described_by_timm(name)
    if not known.hf_hub_id:
        raise PartError(
            "timm names no weights on the Hub for this network",
            given=name,
            remedy="load it with timm, save it with timm.models.save_for_hf, and name that folder",
        )
    return known.hf_hub_id


def described_by_timm(name: str) -> Any:
    """timm's PretrainedCfg of a name; PartError for an unknown one, or for one that timm runs
    with another activation than it was trained with."""
    models = timm_package().models
    architecture, _, tag = name.partition(".")
    if not models.is_model(architecture):
        near = nearest(architecture, models.list_models())
        remedy = f"did you mean `{BY_NAME}{near}`? " if near else ""
        raise PartError(
            "timm knows no network of this name",
            given=name,
            remedy=f"{remedy}timm.list_models() lists them",
        )
    pretrained = models.list_pretrained(f"{architecture}.*")
    if tag and name not in pretrained:
        tags = ", ".join(each.partition(".")[2] for each in pretrained)
        raise PartError(
            "timm knows no weights of this name for the network",
            expected=tags or "none: it has no trained weights",
            given=tag,
            origin=f"{BY_NAME}{name}",
        )
    known = models.get_pretrained_cfg(name)
    quick = architecture.replace("_clip_", "_clip_quickgelu_", 1)
    if quick != architecture and f"{quick}.{known.tag}" in models.list_pretrained(f"{quick}.*"):
        raise PartError(
            "timm runs these weights with GELU under this name, and they were trained with"
            " QuickGELU",
            given=f"{BY_NAME}{name}",
            remedy=f"name {BY_NAME}{quick}.{known.tag}, the same weights as they were trained",
        )
    return known


def timm_config(path: str, values: Mapping[str, Any] | None = None) -> TimmConfig:
    """Configuration of `timm:NAME`, or of what a config.json describes; asks for no weights."""
    if values is None:
        known = described_by_timm(path.removeprefix(BY_NAME))
        values = {"architecture": known.architecture, "pretrained_cfg": known.to_dict()}
        values["architecture"] += f".{known.tag}" if known.tag else ""
    arguments = dict(values.get("model_args") or {})
    network, arguments = on_meta(values["architecture"], arguments, path)
    pixels = {**network.pretrained_cfg, **dict(values.get("pretrained_cfg") or {})}
    pixels = {name: pixels[name] for name in PIXELS if pixels.get(name) is not None}
    if "input_size" not in pixels or len(set(pixels["input_size"][1:])) > 1:
        raise ModelError(
            "timm names no square size of this network's pictures",
            expected="pretrained_cfg.input_size",
            given=pixels.get("input_size"),
            origin=path,
        )
    side = pixels["input_size"][-1]
    maps, class_token = shapes(network, side, path)
    config = TimmConfig(
        architecture=values["architecture"],
        arguments=arguments,
        pixels=pixels,
        intermediates=maps,
        class_token=class_token,
        final_norm=has_norm(network),
        image_size=side,
    )
    if not in_stages(config):
        config.hidden_size, rows, _ = maps[0]
        config.patch_size = side // rows
    return config


def in_stages(config: TimmConfig) -> bool:
    """Whether what comes out of its parts has grids or widths of several kinds."""
    return len({tuple(shape) for shape in config.intermediates}) > 1


def on_meta(
    architecture: str, arguments: dict[str, Any], origin: str
) -> tuple[nn.Module, dict[str, Any]]:
    """A network without memory, and the arguments that make it; pictures of any size if it can."""
    package = timm_package()
    if not package.models.is_model(architecture):
        raise PartError(
            "this timm knows no such network",
            given=architecture,
            origin=origin,
            remedy=f"pip install -U timm (this is {package.__version__})",
        )
    # timm tells nowhere which networks know the option; those that do not raise TypeError with its
    # name.
    for more in ({"dynamic_img_size": True}, {}):
        try:
            with torch.device("meta"):
                made = package.create_model(
                    architecture, pretrained=False, num_classes=0, **arguments, **more
                )
        except TypeError as problem:
            if not more or next(iter(more)) not in str(problem):
                raise ModelError(
                    "timm cannot make this network", given=str(problem), origin=origin
                ) from problem
        else:
            return made.eval(), arguments | more
    raise AssertionError("unreachable")


@torch.no_grad()
def shapes(network: nn.Module, side: int, origin: str) -> tuple[list[list[int]], bool]:
    """Channels, rows and columns of every intermediate map; whether they have a class token."""
    if not hasattr(network, "forward_intermediates"):
        raise ModelError(
            f"timm's {type(network).__name__} does not give its intermediate features",
            origin=origin,
            remedy="choose another network",
        )
    try:
        found = intermediates(network, torch.zeros(1, 3, side, side, device="meta"), None, False)
    except (RuntimeError, NotImplementedError, AssertionError) as problem:
        raise ModelError(
            "what this network of timm's gives cannot be worked out without running it",
            given=str(problem).partition("\n")[0],
            origin=origin,
            remedy="choose another network",
        ) from problem
    maps = [list(each.shape[1:]) for each, _ in found]
    return maps, found[0][1] is not None and getattr(network, "cls_token", None) is not None


def has_norm(network: nn.Module) -> bool:
    """Whether patches have a final norm of their own (and not only the pooled ones)."""
    norm = getattr(network, "norm", None)
    return isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity)


def intermediates(
    network: nn.Module, pixels: Tensor, layers: Sequence[int] | None, normed: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Maps [images, channels, rows, columns] behind blocks or stages, with the tokens that stand
    in front of the patches, where there are any; in the order of `layers`, which count from 0."""
    offered = inspect.signature(network.forward_intermediates).parameters
    prefixed = "return_prefix_tokens" in offered and getattr(network, "num_prefix_tokens", 0) > 0
    options = {"return_prefix_tokens": True} if prefixed else {}
    wanted = None if layers is None else sorted(set(layers))
    given = network.forward_intermediates(
        pixels, indices=wanted, norm=normed, stop_early=True, intermediates_only=True, **options
    )
    pairs = [tuple(each) if prefixed else (each, None) for each in given]
    # timm gives them from the front to the back.
    return pairs if layers is None else [pairs[wanted.index(layer)] for layer in layers]


def cut_after(network: nn.Module, last: int, norm: bool) -> None:
    """Leave out what stands behind intermediate number `last`; the final norm unless wanted."""
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers([last], prune_norm=not norm, prune_head=True)


def hidden_states(
    network: nn.Module, config: TimmConfig, pixels: Tensor, layers: Sequence[int], norm: bool
) -> list[Tensor]:
    """Features [images, places, width] of layers: the class token, if any, then places by rows."""
    patch = config.patch_size
    if patch is not None and config.arguments.get("dynamic_img_size"):
        # What is left at the right and the bottom is not seen, as by a convolution; timm refuses.
        height, width = (side - side % patch for side in pixels.shape[-2:])
        pixels = pixels[:, :, :height, :width]
    try:
        given = intermediates(network, pixels, layers, norm)
    except (AssertionError, RuntimeError) as problem:
        if isinstance(problem, torch.OutOfMemoryError) or fits(config, pixels):
            raise
        raise ModelError(
            f"timm's {config.architecture} cannot take pictures of this size",
            expected=f"{config.image_size} x {config.image_size} pixels",
            given=f"{pixels.shape[-1]} x {pixels.shape[-2]} ({problem})",
            remedy=f"set model.vision.size={config.image_size} and a policy of squares",
        ) from problem
    states = []
    for maps, prefix in given:
        places = maps.flatten(2).transpose(1, 2)
        states.append(torch.cat([prefix[:, :1], places], dim=1) if config.class_token else places)
    return states


def fits(config: TimmConfig, pixels: Tensor) -> bool:
    """Whether pictures have the size that the network was made for."""
    return tuple(pixels.shape[-2:]) == (config.image_size, config.image_size)
