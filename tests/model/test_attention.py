"""The attention implementation inside transformers' models."""

from __future__ import annotations

import pytest
import torch
from tiny import LANGUAGES, language_folder
from torch.nn.attention import flex_attention
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
)

from closeness import close
from lucida.core.errors import ModelError
from lucida.model import attention, flex, segments
from lucida.model.attention import Layout
from lucida.model.language import check_packing, load_language
from lucida.model.masks import Fields

torch.set_num_threads(1)

SEGMENTS = torch.tensor([[1] * 7 + [2] * 5 + [3] * 9])
POSITIONS = torch.cat([torch.arange(n) for n in (7, 5, 9)])[None]
IDS = torch.arange(3, 24)[None] * 7 % 200 + 3


def layout(how: str = "segments") -> Layout:
    nothing = torch.zeros_like(IDS)
    fields = Fields(SEGMENTS, nothing, torch.arange(21)[None], nothing, nothing)
    return Layout(fields, "causal", how)


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


def ours(language, how: str = "segments"):
    mask = torch.zeros(1, 1, 1, 1)
    return packed(language, attention_mask=mask, use_cache=False, layout=layout(how))


@pytest.fixture(autouse=True)
def untraced(monkeypatch):
    """torch traces flex attention even where it does not compile it, once for every shape, and the
    checks of types that tests run under cannot be traced."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture
def able_cpu(monkeypatch):
    """torch refuses the backward pass of flex attention on a CPU, although its plain version (all
    scores at once) has one; with both refusals out of the way the wiring can be checked here."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex, "refuse_gradients", lambda device: None)


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGES)
def test_packed_equals_separate_in_every_family(name):
    language, _ = load_language(language_folder(name))
    alone = separate(language)
    for how in attention.WAYS:
        close(ours(language, how), alone, msg=how)


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
    close(safe, expected)
    close(ours(language), expected)
    ignored = packed(
        language, attention_mask=torch.ones_like(IDS), use_cache=False, layout=layout()
    )
    close(ignored, expected)
    with pytest.raises(ModelError, match="key-value cache"):
        cache = language.base_model(input_ids=IDS[:, :3], use_cache=True).past_key_values
        packed(language, past_key_values=cache, layout=layout())


@torch.no_grad()
def test_without_a_layout_it_is_the_plain_language_model():
    language, tokenizer = load_language(language_folder("qwen2"))
    plain = AutoModelForCausalLM.from_pretrained(language_folder("qwen2"))
    batch = tokenizer(["one red star", "a"], return_tensors="pt", padding=True, padding_side="left")
    assert torch.equal(language(**batch).logits, plain(**batch).logits)


@pytest.mark.parametrize("length", [40, 300])
def test_both_ways_to_attend_are_equal(length, monkeypatch):
    """With gradients, short blocks take matmul and softmax on a CPU, long ones SDPA."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, length, 8, generator=generator, requires_grad=True)
    nothing = torch.zeros(1, length, dtype=torch.long)
    fields = Fields(nothing + 1, nothing, torch.arange(length)[None], nothing, nothing)
    results = []
    for limit in (0, 1000):
        monkeypatch.setitem(segments.EAGER_LENGTH, torch.float32, limit)
        results.append(
            attention.layout_attention(query, key, value, Layout(fields, "causal"), 0.35, 0.0)
        )
    close(*results)


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


def test_flex_trains_like_segments_in_a_whole_language_model(able_cpu):
    language, _ = load_language(language_folder("qwen2"))
    gradients = []
    for how in ("segments", "flex"):
        language.zero_grad()
        ours(language, how).square().sum().backward()
        gradients.append([weight.grad for weight in language.model.parameters()])
    for expected, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_one_block_mask_is_made_for_all_layers(monkeypatch):
    language, _ = load_language(language_folder("llama"))
    made = []
    true = flex.block_mask
    monkeypatch.setattr(flex, "block_mask", lambda *given: made.append(given) or true(*given))
    with torch.no_grad():
        ours(language, "flex")
    assert len(made) == 1 < language.config.num_hidden_layers


def test_which_way_to_attend():
    config, cpu = LlamaConfig(), torch.device("cpu")
    for wanted, taken in {"auto": "segments", "segments": "segments", "dense": "dense"}.items():
        assert attention.trained_way(wanted, config, cpu, torch.float32) == taken
    with pytest.raises(ModelError, match=r"expected a GPU, got cpu.*engine\.attention=auto"):
        attention.trained_way("flex", config, cpu, torch.float32)
    with pytest.raises(ModelError, match=r"attention_dropout 0, got 0\.1"):
        dropping = LlamaConfig(attention_dropout=0.1)
        attention.trained_way("flex", dropping, cpu, torch.float32)
    with pytest.raises(ModelError, match="did you mean `flex`"):
        layout("flax")


def test_flex_refuses_a_backward_pass_on_a_cpu():
    language, _ = load_language(language_folder("llama"))
    with pytest.raises(ModelError, match="no backward pass"):
        ours(language, "flex")


SMALL = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2)


def test_flex_is_tried_before_training(able_cpu, monkeypatch):
    cpu = torch.device("cpu")
    assert attention.trained_way("flex", SMALL, cpu, torch.float32) == "flex"
    assert attention.trained_way("flex", SMALL, cpu, torch.bfloat16) == "flex"
    with monkeypatch.context() as context:
        everything = lambda row, head, query, key: query >= 0  # noqa: E731
        context.setattr(flex, "pairwise", lambda fields, mask: everything)
        with pytest.raises(ModelError, match=r"differs from attention by segment by \d+"):
            attention.trained_way("flex", SMALL, cpu, torch.float32)

    def broken(*given, **more):
        raise RuntimeError("no such kernel\nand a long trace")

    monkeypatch.setattr(flex_attention, "flex_attention", broken)
    with pytest.raises(ModelError, match=r"it failed \(no such kernel\)"):
        attention.trained_way("flex", SMALL, cpu, torch.float32)


def test_auto_takes_flex_for_long_segments_on_a_gpu():
    class OnGpu(torch.Tensor):
        is_cuda = True

    for segment, expected in ((torch.ones(1), "segments"), (torch.ones(1).as_subclass(OnGpu), "")):
        fields = Fields(segment, *[None] * 4)
        assert attention.by_length(fields, attention.FLEX_FROM - 1) == "segments"
        assert attention.by_length(fields, attention.FLEX_FROM) == (expected or "flex")
