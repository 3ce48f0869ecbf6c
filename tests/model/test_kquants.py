"""K forms: what gguf unpacks of them is near, nearer than the older forms; the mixes' choices."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from lucida.model.conversion.kquants import PACKED, form_in_mix, is_precise, pack
from lucida.model.parts import part_path

gguf = pytest.importorskip("gguf")
OLDER = {"Q4_K": "Q4_0", "Q5_K": "Q5_1", "Q6_K": "Q5_1"}
WORST = {"Q4_K": 0.08, "Q5_K": 0.04, "Q6_K": 0.02}
"""Root mean square error of numbers from a normal distribution of width 1; ggml's own is 0.0716,
0.0362 and 0.0178."""


def unpacked(values: np.ndarray, form: str) -> np.ndarray:
    """A matrix through a form and back, by gguf's own reading."""
    types = gguf.GGMLQuantizationType
    packed = pack(values, form) if form in PACKED else gguf.quants.quantize(values, types[form])
    return gguf.quants.dequantize(packed, types[form])


def error(values: np.ndarray, form: str) -> float:
    return float(np.sqrt(np.mean((unpacked(values, form) - values) ** 2)))


def trained() -> np.ndarray:
    """Matrices of a language model that ships whose rows are multiples of 256."""
    with safe_open(f"{part_path('lucida:base-mini')}/model.safetensors", "np") as file:
        names = [name for name in file.keys() if name.endswith("down_proj.weight")]  # noqa: SIM118
        return np.concatenate([file.get_tensor(name) for name in names]).astype(np.float32)


@pytest.mark.parametrize("form", PACKED)
def test_errors_are_small_and_smaller_than_of_older_forms(form):
    drawn = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    assert error(drawn, form) < WORST[form]
    for values in (drawn, drawn**3, trained()):
        assert error(values, form) < error(values, OLDER[form])


@pytest.mark.parametrize("form", PACKED)
def test_every_value_is_within_a_step(form):
    """A step of a block of values between a and b is at most (b - a) / levels, or for q6_k twice
    the largest; scales of six or eight bits add some."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 256)).astype(np.float32) * np.exp(rng.normal(size=(8, 1)))
    size, levels = {"Q4_K": (32, 15), "Q5_K": (32, 31), "Q6_K": (16, 63)}[form]
    blocks = values.reshape(8, -1, size)
    spread = np.maximum(blocks.max(-1), 0) - np.minimum(blocks.min(-1), 0)
    if form == "Q6_K":
        spread = 2 * np.abs(blocks).max(-1)
    off = np.abs(unpacked(values, form) - values).reshape(blocks.shape).max(-1)
    widest = spread.reshape(8, -1).max(-1, keepdims=True)
    assert (off <= spread / levels + widest / 63 / 2).all()


@pytest.mark.parametrize("form", PACKED)
def test_rows_of_one_value_and_of_nothing(form):
    for value in (0.0, 2.5, -2.5):
        rows = np.full((2, 256), value, np.float32)
        np.testing.assert_allclose(unpacked(rows, form), rows, rtol=2e-3)
    assert not pack(np.zeros((1, 256), np.float32), form)[0, :144].any() or form == "Q6_K"


def test_shapes_and_bytes():
    values = np.random.default_rng(2).normal(size=(3, 5, 512)).astype(np.float32)
    for form, size in zip(PACKED, (144, 176, 210), strict=True):
        packed = pack(values, form)
        assert packed.shape == (3, 5, 2 * size) and packed.dtype == np.uint8
        alone = pack(values[1, 2], form)
        assert (packed[1, 2] == alone).all(), "a row is packed by itself"


def test_mixes_choose_as_llama_quantize_does():
    precise = [number for number in range(32) if is_precise(number, 32)]
    assert precise == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    expected = {
        "output.weight": "Q6_K",
        "token_embd.weight": "Q4_K",
        "blk.0.attn_v.weight": "Q6_K",
        "blk.4.attn_v.weight": "Q4_K",
        "blk.31.ffn_down.weight": "Q6_K",
        "blk.5.ffn_down.weight": "Q4_K",
        "blk.0.attn_q.weight": "Q4_K",
    }
    for name, form in expected.items():
        assert form_in_mix("q4_k_m", name, 32, 512, tied=False) == form, name
    assert form_in_mix("q4_k_m", "token_embd.weight", 32, 512, tied=True) == "Q6_K"
    assert form_in_mix("q5_k_m", "blk.4.attn_q.weight", 32, 512, tied=True) == "Q5_K"
    assert form_in_mix("q6_k", "blk.4.attn_q.weight", 32, 512, tied=True) == "Q6_K"
    short = {
        "token_embd.weight": "Q8_0",
        "blk.3.attn_v.weight": "Q8_0",
        "blk.0.attn_q.weight": "Q5_0",
    }
    for name, form in short.items():
        assert form_in_mix("q4_k_m", name, 4, 192, tied=True) == form, name
    assert form_in_mix("q5_k_m", "blk.0.attn_q.weight", 4, 192, tied=True) == "Q5_1"
