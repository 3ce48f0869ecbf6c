"""The attention implementation inside transformers' models."""

from __future__ import annotations

import pytest
import torch
from tiny import LANGUAGES, language_folder
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GraniteConfig, MambaConfig

from lucida.core.errors import ModelError
from lucida.model import attention
from lucida.model.attention import Layout
from lucida.model.language import check_packing, load_language
from lucida.model.masks import Fields

torch.set_num_threads(1)

SEGMENTS = torch.tensor([[1] * 7 + [2] * 5 + [3] * 9])
POSITIONS = torch.cat([torch.arange(n) for n in (7, 5, 9)])[None]
IDS = torch.arange(3, 24)[None] * 7 % 200 + 3


def layout() -> Layout:
    nothing = torch.zeros_like(IDS)
    return Layout(Fields(SEGMENTS, nothing, torch.arange(21)[None], nothing, nothing), "causal")


def packed(language, **more):
    return language.base_model(input_ids=IDS, position_ids=POSITIONS, **more).last_hidden_state


def separate(language):
    """Each segment alone, in transformers' own attention."""
    language.set_attn_implementation("sdpa")
    parts = [
        language.base_model(input_ids=part).last_hidden_state for part in IDS.split([7, 5, 9], 1)
    ]
    language.set_attn_implementation(attention.NAME)
    return torch.cat(parts, dim=1)


def ours(language):
    mask = torch.zeros(1, 1, 1, 1)
    return packed(language, attention_mask=mask, use_cache=False, layout=layout())


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGES)
def test_packed_equals_separate_in_every_family(name):
    language, _ = load_language(language_folder(name))
    torch.testing.assert_close(ours(language), separate(language), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_trap_of_transformers_and_that_ours_does_not_fall_into_it():
    """With a mask of ones, or with the default cache, transformers lets packed samples see each
    other and says nothing; the third call is its safe one. Ours is isolated by the layout alone."""
    language, _ = load_language(language_folder("llama"))
    expected = separate(language)
    language.set_attn_implementation("sdpa")
    ones = packed(language, attention_mask=torch.ones_like(IDS), use_cache=False)
    default_cache = packed(language)
    safe = packed(language, use_cache=False)
    language.set_attn_implementation(attention.NAME)
    assert (ones - expected)[0, 7:].abs().max() > 0.05
    assert (default_cache - expected)[0, 7:].abs().max() > 0.05
    torch.testing.assert_close(safe, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours(language), expected, atol=2e-5, rtol=1e-4)
    ignored = packed(
        language, attention_mask=torch.ones_like(IDS), use_cache=False, layout=layout()
    )
    torch.testing.assert_close(ignored, expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="key-value cache"):
        cache = language.base_model(input_ids=IDS[:, :3], use_cache=True).past_key_values
        packed(language, past_key_values=cache, layout=layout())


@torch.no_grad()
def test_without_a_layout_it_is_the_plain_language_model():
    language, tokenizer = load_language(language_folder("qwen2"))
    plain = AutoModelForCausalLM.from_pretrained(language_folder("qwen2"))
    batch = tokenizer(["one red star", "a"], return_tensors="pt", padding=True, padding_side="left")
    assert torch.equal(language(**batch).logits, plain(**batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("length", [40, 300])
def test_both_ways_to_attend_are_equal(length, monkeypatch):
    """Short blocks take matmul and softmax on a CPU, long ones SDPA."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, length, 8, generator=generator)
    nothing = torch.zeros(1, length, dtype=torch.long)
    fields = Fields(nothing + 1, nothing, torch.arange(length)[None], nothing, nothing)
    results = []
    for limit in (0, 1000):
        monkeypatch.setitem(attention.EAGER_LENGTH, torch.float32, limit)
        results.append(
            attention.layout_attention(query, key, value, Layout(fields, "causal"), 0.35, 0.0)
        )
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_bf16_autocast_is_close_and_keeps_its_dtype():
    language, _ = load_language(language_folder("llama"))
    exact = ours(language)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(language)
    rough.float().sum().backward()
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()


@torch.no_grad()
def test_language_models_that_cannot_be_packed_are_refused():
    small = {"vocab_size": 64, "hidden_size": 16}
    grouped = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    refused = {
        "takes no packed batch": BloomConfig(**small, n_layer=2, n_head=4),
        "0 of its 2 layers": FalconConfig(**small, num_hidden_layers=2, num_attention_heads=4),
        "logits from the output matrix": GraniteConfig(
            **small, **grouped, num_key_value_heads=2, logits_scaling=8.0
        ),
    }
    for reason, config in refused.items():
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
        language = AutoModelForCausalLM.from_config(config)
        language.set_attn_implementation(attention.NAME)
        with pytest.raises(ModelError, match=reason):
            check_packing(language, "test")
    state_space = AutoModelForCausalLM.from_config(MambaConfig(**small, num_hidden_layers=2))
    with pytest.raises(ModelError, match="cannot be used"):
        check_packing(state_space, "test")


@torch.no_grad()
def test_a_sliding_window_shorter_than_a_sample_is_refused():
    language, _ = load_language(language_folder("qwen2"))
    for layer in language.model.layers:
        layer.self_attn.sliding_window = 8
    with pytest.raises(ModelError, match="sliding window"):
        ours(language)
    for layer in language.model.layers:
        layer.self_attn.sliding_window = 9
    ours(language)
