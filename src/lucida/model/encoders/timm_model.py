"""A network of timm as a model of transformers, which loads, saves and nests it like any other.

transformers' own wrapper of timm does not serve: it wants torchvision, and keeps a thousand names
of ImageNet's classes in the configuration.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from lucida.core.errors import PartError


def timm_package() -> ModuleType:
    """timm itself; PartError with what to install when it, or the torchvision that it imports,
    cannot be imported."""
    if importlib.util.find_spec("timm") is None:
        raise PartError(
            "encoders of timm need timm, which is not installed",
            remedy="pip install 'lucida[timm]'",
        )
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError, AttributeError, TypeError, OSError) as problem:
        for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
            del sys.modules[name]  # nothing of a failed import stays behind
        raise PartError(
            "timm cannot be imported; it needs the torchvision that was built for this torch",
            expected=f"a torchvision for torch {torch.__version__}",
            given=f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}",
            remedy="install both from the same place (beside a torch for CPUs: pip install "
            "torchvision --index-url https://download.pytorch.org/whl/cpu)",
        ) from None


@strict
class TimmConfig(PreTrainedConfig):
    """What makes a network of timm, and what is known of it without weights.

    architecture and arguments are for `timm.create_model`. pixels: what timm says about the
    pictures (input_size, mean, std). intermediates: channels, rows and columns of what comes out of
    each block or stage for a picture of image_size. class_token: in front of the patches.
    final_norm: whether patches have one. hidden_size and patch_size: where all blocks agree.
    """

    model_type = "timm_network"

    architecture: str = ""
    arguments: dict[str, Any] | None = None
    pixels: dict[str, Any] | None = None
    intermediates: list[Any] | None = None
    class_token: bool = False
    final_norm: bool = False
    image_size: int = 224
    hidden_size: int | None = None
    patch_size: int | None = None


class TimmModel(PreTrainedModel):
    """The network without its head; `timm_model` is timm's own module."""

    config_class = TimmConfig
    config: TimmConfig
    base_model_prefix = "timm_model"  # weights of timm's own files stand without it
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False  # training/layers.py finds the blocks by itself
    _supports_sdpa = True  # timm's attention takes SDPA whenever it can

    def __init__(self, config: TimmConfig) -> None:
        super().__init__(config)
        self.timm_model = timm_package().create_model(
            config.architecture, pretrained=False, num_classes=0, **(config.arguments or {})
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Only buffers that no file holds (rotary angles, relative places); timm knows how."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Unpooled features, as timm gives them."""
        return self.timm_model.forward_features(pixel_values)


AutoConfig.register(TimmConfig.model_type, TimmConfig, exist_ok=True)
AutoModel.register(TimmConfig, TimmModel, exist_ok=True)
