"""Prismatic's forward pass written out plainly, over weights under its own names, and tiny random
checkpoints in its layout. Nothing of Lucida's is used here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    Dinov2WithRegistersConfig,
    SiglipVisionConfig,
    ViTConfig,
)

WIDTH, HEADS, DEPTH, HIDDEN = 16, 2, 3, 32
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)
SHAPE = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": DEPTH,
    "intermediate_size": HIDDEN,
}
CONFIGS = {
    "dino": Dinov2WithRegistersConfig,
    "siglip": SiglipVisionConfig,
    "clip": CLIPVisionConfig,
    "in1k": ViTConfig,
}


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def random_vit(kind: str, patch: int, places: int) -> dict[str, Tensor]:
    """Weights of a ViT under timm's names: DEPTH blocks, and what the kind has besides."""

    def drawn(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape)

    hidden = 4 * WIDTH if kind == "dino" else HIDDEN
    state = {
        "patch_embed.proj.weight": 0.05 * torch.randn(WIDTH, 3, patch, patch),
        "pos_embed": drawn(1, places + (kind in ("clip", "in1k")), WIDTH),
        "norm.weight": 1 + drawn(WIDTH),
        "norm.bias": drawn(WIDTH),
    }
    if kind != "clip":
        state["patch_embed.proj.bias"] = drawn(WIDTH)
    if kind != "siglip":
        state["cls_token"] = drawn(1, 1, WIDTH)
    if kind == "clip":
        state |= {"norm_pre.weight": 1 + drawn(WIDTH), "norm_pre.bias": drawn(WIDTH)}
    if kind == "dino":
        state["reg_token"] = drawn(1, 4, WIDTH)
    if kind == "siglip":
        state["attn_pool.latent"] = drawn(1, 1, WIDTH)
    for n in range(DEPTH):
        shapes = {
            "norm1": None,
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "norm2": None,
            "mlp.fc1": (hidden, WIDTH),
            "mlp.fc2": (WIDTH, hidden),
        }
        for name, shape in shapes.items():
            weight = 1 + drawn(WIDTH) if shape is None else drawn(*shape)
            state[f"blocks.{n}.{name}.weight"] = weight
            state[f"blocks.{n}.{name}.bias"] = drawn(weight.shape[0])
        if kind == "dino":
            state[f"blocks.{n}.ls1.gamma"] = 1 + drawn(WIDTH)
            state[f"blocks.{n}.ls2.gamma"] = 1 + drawn(WIDTH)
    return state


def vit(kind: str, state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Patches behind the last block but one, as timm's get_intermediate_layers gives them."""
    epsilon = 1e-5 if kind == "clip" else 1e-6
    act = quick_gelu if kind == "clip" else functional.gelu

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.layer_norm(x, (WIDTH,), weight, bias, epsilon)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    weight, bias = state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias")
    x = functional.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    front = [state[name] for name in ("cls_token", "reg_token") if name in state]
    front = [each.expand(len(x), -1, -1) for each in front]
    prefix = sum(each.shape[1] for each in front)
    if kind == "dino":  # positions of patches only
        x = torch.cat([*front, x + state["pos_embed"]], dim=1)
    else:
        x = torch.cat([*front, x], dim=1) + state["pos_embed"]
    if kind == "clip":
        x = norm(x, "norm_pre")
    for n in range(DEPTH - 1):
        block = f"blocks.{n}."
        rows = linear(norm(x, block + "norm1"), block + "attn.qkv")
        q, k, v = rows.unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), block + "attn.proj") * state.get(
            block + "ls1.gamma", 1
        )
        inner = act(linear(norm(x, block + "norm2"), block + "mlp.fc1"))
        x = x + linear(inner, block + "mlp.fc2") * state.get(block + "ls2.gamma", 1)
    return x[:, prefix:]


@dataclass
class Original:
    """A tiny checkpoint of Prismatic's: where it stands and what it computes."""

    folder: Path
    encoders: list[str]
    language: str
    kinds: tuple[str, ...]
    towers: list
    projector: dict[str, Tensor]
    llm: torch.nn.Module
    size: int
    policy: str

    @torch.no_grad()
    def logits(self, image: Image.Image, prompt: str) -> tuple[list[int], Tensor]:
        """Ids behind the start token's image, and logits at the text: [BOS] [patches] [text]."""
        tokenizer = AutoTokenizer.from_pretrained(self.language)
        ids = [tokenizer.bos_token_id]
        ids += tokenizer.encode(prompt, add_special_tokens=False)
        features = torch.cat([tower(self.pixels(image)) for tower in self.towers], dim=-1)
        visual = self.project(features)
        words = self.llm.get_input_embeddings()(torch.tensor([ids]))
        spliced = torch.cat([words[:, :1], visual, words[:, 1:]], dim=1)
        logits = self.llm(inputs_embeds=spliced).logits
        return ids, logits[0]

    def pixels(self, image: Image.Image) -> Tensor:
        """resize-naive, or letterbox: a border of whole pixels on both sides, then the short side
        scaled and the middle kept."""
        if self.policy == "letterbox":
            width, height = image.size
            across, down = ((max(image.size) - side) // 2 for side in image.size)
            colour = tuple(int(255 * value) for value in MEAN)
            square = Image.new("RGB", (width + 2 * across, height + 2 * down), colour)
            square.paste(image, (across, down))
            scale = self.size / min(square.size)
            image = square.resize([int(scale * side) for side in square.size], 3)
            left, top = ((side - self.size) // 2 for side in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
        levels = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC)) / 255
        pixels = (levels - np.array(MEAN)) / np.array(STD)
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()

    def project(self, x: Tensor) -> Tensor:
        names = sorted({name.rpartition(".")[0] for name in self.projector})
        for number, name in enumerate(names):
            x = functional.gelu(x) if number else x
            weight, bias = self.projector[f"{name}.weight"], self.projector[f"{name}.bias"]
            x = functional.linear(x, weight, bias)
        return x


def random_projector(kind: str, vision: int, width: int) -> dict[str, Tensor]:
    """Weights under Prismatic's names."""
    widths = {
        "linear": [vision, width],
        "gelu-mlp": [vision, width, width],
        "fused-gelu-mlp": [vision, 4 * vision, width, width],
    }[kind]
    state = {}
    for n, (before, after) in enumerate(pairwise(widths)):
        name = "projector" if kind == "linear" else f"projector.{2 * n}"
        state[f"{name}.weight"] = 0.3 * torch.randn(after, before)
        state[f"{name}.bias"] = 0.3 * torch.randn(after)
    return state


def encoder_folder(folder: Path, kind: str, size: int, patch: int) -> str:
    """A folder of transformers with random weights, of the size that it was pretrained for."""
    config = CONFIGS[kind](**SHAPE, image_size=size, patch_size=patch)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    values = {"image_mean": MEAN, "image_std": STD, "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return str(folder)


def tower_of_folder(path: str, kind: str, size: int):
    """The encoder of a folder as timm has it: exact GELU, positions resampled at loading."""
    act = {"siglip": {"hidden_act": "gelu"}}.get(kind, {})
    model = AutoModel.from_pretrained(path, **act).eval()

    def tower(pixels: Tensor) -> Tensor:
        more = {} if kind == "dino" else {"interpolate_pos_encoding": False}
        states = model(pixels, output_hidden_states=True, **more).hidden_states[-2]
        return states[:, {"dino": 5, "siglip": 0, "clip": 1, "in1k": 1}[kind] :]

    return tower


def checkpoint(
    root: Path,
    language: str,
    vision_id: str = "dinosiglip-vit-so-224px",
    arch: str = "no-align+fused-gelu-mlp",
    kinds: tuple[str, ...] = ("dino", "siglip"),
    size: int = 224,
    patch: int = 56,
    trained: bool = True,
    llm_id: str = "llama2-7b-pure",
    policy: str = "resize-naive",
    as_yaml: bool = False,
) -> Original:
    """Write a checkpoint in Prismatic's layout, and the folders of its parts."""
    torch.manual_seed(5)
    root.mkdir(parents=True, exist_ok=True)
    places = (size // patch) ** 2
    native = [size + patch if kind == "dino" and not trained else size for kind in kinds]
    encoders = [
        encoder_folder(root / f"encoder-{n}", kind, own, patch)
        for n, (kind, own) in enumerate(zip(kinds, native, strict=True))
    ]
    vits = [random_vit(kind, patch, places) for kind in kinds]
    llm = AutoModelForCausalLM.from_pretrained(language)
    tokens = len(AutoTokenizer.from_pretrained(language)) + 1
    llm.resize_token_embeddings(tokens, pad_to_multiple_of=64, mean_resizing=False)
    with torch.no_grad():
        for weight in llm.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    width = llm.config.hidden_size
    kind = arch.removeprefix("no-align+")
    projector = random_projector(kind, WIDTH * len(kinds), width)
    groups = {
        "projector": projector,
        "llm_backbone": {f"llm.{name}": value for name, value in llm.state_dict().items()},
    }
    groups["llm_backbone"]["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    if trained:
        heads = ("featurizer",) if len(kinds) == 1 else [f"{name}_featurizer" for name in kinds]
        groups["vision_backbone"] = {
            f"{head}.{name}": value
            for head, state in zip(heads, vits, strict=True)
            for name, value in state.items()
        }
    run = root / "prism"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({"model": groups}, run / "checkpoints" / "latest-checkpoint.pt")
    model = {
        "model_id": "prism-test",
        "vision_backbone_id": vision_id,
        "llm_backbone_id": llm_id,
        "arch_specifier": arch,
        "image_resize_strategy": policy,
        "llm_max_length": 400,
    }
    values = {"model": model, "stage": "finetune", "seed": 7}
    if as_yaml:
        (run / "config.yaml").write_text(yaml.safe_dump(values))
    else:
        (run / "config.json").write_text(json.dumps(values))
    towers = [
        (lambda pixels, kind=kind, state=state: vit(kind, state, pixels))
        if trained
        else tower_of_folder(path, kind, size)
        for kind, state, path in zip(kinds, vits, encoders, strict=True)
    ]
    return Original(run, encoders, language, kinds, towers, projector, llm.eval(), size, policy)
