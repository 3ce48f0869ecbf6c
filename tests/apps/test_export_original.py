"""Checkpoints of LLaVA's own code become models equal to transformers' Llava with their weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

import tiny

from lucida.apps.export.read import read
from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.checkpoint import load
from lucida.model.conversion.llava import as_tiles
from lucida.model.messages import image_source

GRIDS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]


ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


def language(name: str = "llama") -> str:
    return tiny.language_folder(name, False)


def random_llava(name: str = "llama", tiles: bool = False, llm: torch.nn.Module | None = None):
    """transformers' Llava or LlavaNext over tiny parts, with one more row for its placeholder."""
    torch.manual_seed(7)
    tower = AutoModel.from_pretrained(tiny.encoder_folder("clip"))
    llm = llm or AutoModelForCausalLM.from_pretrained(language(name))
    rows = max(llm.config.vocab_size, len(AutoTokenizer.from_pretrained(language(name))))
    llm.resize_token_embeddings(rows, mean_resizing=False)
    values = {
        "vision_config": tower.config.to_dict(),
        "text_config": {**llm.config.to_dict(), "vocab_size": rows + 1},
        "image_token_index": rows,
        "vision_feature_layer": -2,
    }
    if tiles:
        config = LlavaNextConfig(**values, image_grid_pinpoints=GRIDS)
        llava = LlavaNextForConditionalGeneration(config)
    else:
        llava = LlavaForConditionalGeneration(LlavaConfig(**values))
    with torch.no_grad():
        for weight in llava.model.multi_modal_projector.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    llava.model.vision_tower.load_state_dict(tower.state_dict())
    own = llm.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        own[name] = torch.nn.functional.pad(own[name], (0, 0, 0, 1))
    llava.lm_head.weight = torch.nn.Parameter(own.pop("lm_head.weight"))
    llava.model.language_model.load_state_dict(
        {name.removeprefix("model."): value for name, value in own.items()}
    )
    return llava.eval()


def original_names(llava, tower: bool) -> dict[str, torch.Tensor]:
    """Its weights as LLaVA's own code calls them, without the row that it has not got."""
    state = {}
    for name, value in llava.state_dict().items():
        name = name.removeprefix("model.")
        if name.startswith("vision_tower."):
            name = name.replace("vision_tower.", "vision_tower.vision_tower.vision_model.", 1)
            if tower:
                state[f"model.{name}"] = value.clone()
            continue
        if name in ("language_model.embed_tokens.weight", "lm_head.weight"):
            value = value[:-1]
        name = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
        name = name.replace("multi_modal_projector.linear_2", "mm_projector.2")
        name = name.replace("language_model.", "")
        state[name if name.startswith("lm_head") else f"model.{name}"] = value.clone()
    return state


def configuration(name: str = "llama", **more: object) -> dict:
    path = Path(language(name)) / "config.json"
    values = json.loads(path.read_text()) | {
        "architectures": [{"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM",
                           "qwen2": "LlavaQwenForCausalLM"}[name]],
        "model_type": f"llava_{name}",
        "_name_or_path": language(name),
        "mm_vision_tower": tiny.encoder_folder("clip"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": 16,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 400,
        "tune_mm_mlp_adapter": False,
    }  # fmt: skip
    return values | more


def written(folder: Path, values: dict, tokenizer: str | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    if tokenizer:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def padded_as_llava(picture: Image.Image, side: int) -> np.ndarray:
    """LLaVA's `pad`, written out: a square of the longer side in the mean's colour, the picture in
    its middle, and that through CLIP's processor."""
    mean, longer = (0.5, 0.4, 0.3), max(picture.size)
    square = Image.new("RGB", (longer, longer), tuple(int(255 * each) for each in mean))
    square.paste(picture, tuple((longer - each) // 2 for each in picture.size))
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=mean,
        image_std=(0.5, 0.6, 0.7),
    )
    return np.stack(clip(square)["pixel_values"])


@torch.no_grad()
def equal(folder: Path, llava) -> None:
    """A picture and a question through the imported model and through transformers' Llava."""
    model, processor = load(folder)
    picture = tiny.picture(3, 50, 31)
    given = dict(
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": picture},
                                          {"type": "text", "text": "What?"}]}],
            **ASK,
        )
    )  # fmt: skip
    ours = model(**given).logits
    places = given["input_ids"] == processor.image_token_id
    given["input_ids"] = given["input_ids"].masked_fill(places, llava.config.image_token_id)
    if isinstance(given["pixel_values"], Views):
        given |= as_tiles(given["pixel_values"])
    theirs = llava(**given).logits[..., :-1]
    assert places.sum() > 1
    assert float((ours[..., : theirs.shape[-1]] - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("name", "template", "form"),
    [
        ("llama", "vicuna", "bin"),
        ("mistral", "mistral", "safetensors"),
        pytest.param("qwen2", "qa", "shards", marks=pytest.mark.slow),
    ],
)
def test_whole_models(name, template, form, tmp_path):
    llava = random_llava(name)
    state = original_names(llava, tower=form == "bin")
    folder = written(tmp_path / "llava", configuration(name), language(name))
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        halves = [dict(list(state.items())[n::2]) for n in (0, 1)]
        files = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
        for file, half in zip(files, halves, strict=True):
            torch.save(half, folder / file)
        index = {k: file for file, half in zip(files, halves, strict=True) for k in half}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    template = None if name != "qwen2" else template
    done = read(folder, tmp_path / "out", template, allow_pickle=form != "safetensors")
    assert done.agreement.logits <= 1e-5 and done.template == (template or done.template)
    assert not done.notes
    equal(tmp_path / "out", llava)
    processor = load(tmp_path / "out")[1]
    for size in ((50, 31), (31, 50), (40, 40), (7, 90)):
        source = image_source(tiny.picture(3, *size), 1)
        shown = padded_as_llava(tiny.picture(3, *size), processor.image_policy.size)
        np.testing.assert_allclose(processor.pixels([source]).images()[0], shown, atol=2e-6)


def test_tiles(tmp_path):
    llava = random_llava(tiles=True)
    pairs = str([(width, height) for height, width in GRIDS])
    tiles = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": pairs}
    values = configuration(**tiles, mm_patch_merge_type="spatial_unpad",
                           unfreeze_mm_vision_tower=True)  # fmt: skip
    folder = written(tmp_path / "llava", values, language())
    save_file(original_names(llava, tower=True), folder / "model.safetensors")
    done = read(folder, tmp_path / "out")
    assert done.agreement.logits <= 1e-5
    equal(tmp_path / "out", llava)


def test_a_projector_alone(tmp_path):
    llava = random_llava()
    folder = written(tmp_path / "llava", configuration(image_aspect_ratio="square"))
    state = original_names(llava, tower=False)
    only = {name: value for name, value in state.items() if "mm_projector" in name}
    torch.save(only, folder / "mm_projector.bin")
    with pytest.raises(ModelError, match=r"mm_projector\.bin is a Python pickle"):
        read(folder, tmp_path / "out")
    done = read(folder, tmp_path / "out", allow_pickle=True)
    assert language() in done.notes[0]
    equal(tmp_path / "out", llava)


@pytest.fixture
def adapter(tmp_path):
    """A LoRA folder as LLaVA's training leaves it, and the model that PEFT merges it into."""
    torch.manual_seed(9)
    llm = AutoModelForCausalLM.from_pretrained(language())
    wrapped = get_peft_model(
        llm, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn_like(weight))
    folder = written(tmp_path / "llava", configuration())
    wrapped.save_pretrained(folder, safe_serialization=False)
    llava = random_llava(llm=wrapped.merge_and_unload())
    only = {
        f"base_model.model.{name}": value
        for name, value in original_names(llava, tower=False).items()
        if "mm_projector" in name
    }
    torch.save(only, folder / "non_lora_trainables.bin")
    return folder, llava


def test_an_adapter(adapter, tmp_path):
    folder, llava = adapter
    done = read(folder, tmp_path / "out", allow_pickle=True, language=language())
    assert "merged into 4 matrices" in " ".join(done.notes)
    equal(tmp_path / "out", llava)


def test_adapters_that_do_not_fit(adapter, tmp_path):
    folder, _ = adapter
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text())
    for change, message in (
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {"q": 3}}, "alpha_pattern"),
    ):
        file.write_text(json.dumps(settings | change))
        with pytest.raises(ModelError, match=message):
            read(folder, tmp_path / "out", allow_pickle=True)
    for broken, message in (("{", "no JSON"), ("{}", "expected r, lora_alpha")):
        file.write_text(broken)
        with pytest.raises(ModelError, match=message):
            read(folder, tmp_path / "out", allow_pickle=True)
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="does not fit its language model"):
        read(folder, tmp_path / "out", allow_pickle=True, language=tiny.language_folder("opt"))
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(ModelError, match=r"expected non_lora_trainables\.bin"):
        read(folder, tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of one whole model."""
    return original_names(random_llava(), tower=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "resampler"}, "mm_projector_type.*got resampler"),
        ({"mm_projector_type": "mlp3x_gelu"}, "not those of the kind"),
        ({"mm_projector_type": "linear"}, "not those of the kind"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio"),
        ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "flat"}, "mm_patch_merge_type"),
        ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
          "image_grid_pinpoints": "[(16, 32"}, "image_grid_pinpoints"),
        ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
          "image_grid_pinpoints": [[17, 32]]}, "multiple of the tile|that ends their rows"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature"),
        ({"mm_vision_select_layer": -9}, "feature layer does not exist"),
        ({"mm_vision_select_layer": [-2, -5]}, "mm_vision_select_layer"),
        ({"hidden_size": "wide"}, "no configuration of a llama"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_vision_tower": "/nowhere/clip"}, "cannot be had.*--vision"),
        ({"mm_vision_tower": None}, "mm_vision_tower"),
        ({"architectures": ["LlavaMPTForCausalLM"]}, "architectures.*LlavaMPT"),
        ({"unfreeze_mm_vision_tower": True}, "was trained"),
        ({"num_hidden_layers": 1}, "has no place for"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(change, message, whole, tmp_path):
    folder = written(tmp_path / "llava", configuration(**change), language())
    save_file(whole, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        read(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_refused(whole, tmp_path):
    folder = written(tmp_path / "llava", configuration(), language())

    def refused(state: dict, message: str) -> None:
        save_file(state, folder / "model.safetensors")
        with pytest.raises(ModelError, match=message):
            read(folder, tmp_path / "out")

    with pytest.raises(ModelError, match="holds no weights"):
        read(folder, tmp_path / "out")
    narrow = {"model.mm_projector.0.weight": whole["model.mm_projector.0.weight"][:, :8].clone()}
    refused(whole | narrow, "projector does not fit")
    fewer = {
        name: whole[name][:100].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    refused(whole | fewer, "vocabulary is smaller.*got 100 rows")
    refused({n: v for n, v in whole.items() if "norm" not in n}, "lacks")
    (folder / "model.safetensors").write_bytes(b"\\x00" * 40)
    with pytest.raises(ModelError, match="damaged"):
        read(folder, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-1.safetensors"}})
    )
    (folder / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        read(folder, tmp_path / "out")
