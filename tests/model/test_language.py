"""Language models: every family, what cannot be packed, reserved tokens, fewer bits."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny import LANGUAGE, LANGUAGES, language_folder, picture, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma2Config, StableLmConfig

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.collate import collate
from lucida.model import attention
from lucida.model.language import PLACEHOLDERS, add_tokens, check_packing, load_language
from lucida.model.messages import sample_of

torch.set_num_threads(1)


def sample(text: str):
    asked = [{"type": "image"}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "red"}]
    return sample_of(messages, [picture(1)])


@torch.no_grad()
@pytest.mark.parametrize("mask", ["causal", "prefix", "diagonal"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_every_family_trains_packed_and_answers_with_a_cache(name, mask):
    """Packed equals alone, and the two ways in agree, also behind padding: positions restart."""
    model, processor = tiny_model(
        language={"path": language_folder(name), "max_length": 120}, mask=mask
    )
    samples = [sample("what colour?"), sample("a")]
    tokens = [processor.encode(one) for one in samples]
    packed = model.hidden(collate(tokens, True, 0, processor.pixels))[0]
    start = 0
    for one in tokens:
        alone = model.hidden(collate([one], True, 0, processor.pixels))[0]
        close(packed[start : start + len(one)], alone)
        start += len(one)
    prompts = [processor.prompt(one) for one in samples]
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    together = model.generate(**processor.batch(prompts), **options)[:, -4:]
    for row, prompt in enumerate(prompts):
        alone = model.generate(**processor.batch([prompt]), **options)[0]
        assert torch.equal(together[row], alone[-4:])
        whole = model(alone[None], processor.pixels(prompt.images)).logits
        whole[..., processor.image_token_id] = -torch.inf
        if mask != "prefix":  # there, what is given at once is all prompt
            assert torch.equal(whole[0, len(prompt) - 1 : -1].argmax(-1), alone[-4:])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        # Its attention does not go through transformers' interface (as of transformers 5).
        (
            StableLmConfig(**LANGUAGE, num_key_value_heads=2, vocab_size=64, intermediate_size=32),
            "0 of its 2 layers",
        ),
        # Soft-capped scores.
        (Gemma2Config(**LANGUAGE, vocab_size=64, intermediate_size=32, head_dim=4), "softcap"),
    ],
    ids=["stablelm", "gemma2"],
)
def test_what_cannot_be_packed_is_refused_by_name(config, reason):
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    language = AutoModelForCausalLM.from_config(config)
    language.set_attn_implementation(attention.NAME)
    with pytest.raises(ModelError, match=f"{type(language).__name__}.*{reason}") as caught:
        check_packing(language, "some/path")
    assert "some/path" in str(caught.value) and "choose a language model" in str(caught.value)


@pytest.mark.parametrize("token", PLACEHOLDERS)
def test_a_reserved_token_stands_for_an_image_and_costs_nothing(token):
    tokenizer = tiny_tokenizer("<other>", token)
    before = tokenizer.convert_tokens_to_ids(token)
    language = language_of(len(tokenizer))
    assert add_tokens(language, tokenizer, []) == token
    assert tokenizer.image_token_id == before
    assert language.get_input_embeddings().weight.shape[0] == before + 257


def language_of(rows: int):
    config = LANGUAGES["llama"](**LANGUAGE, vocab_size=rows, intermediate_size=32, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config)


def test_embeddings_grow_only_when_the_tokenizer_outgrows_them():
    tokenizer = tiny_tokenizer()
    spare = language_of(len(tokenizer) + 8)
    weight = spare.get_input_embeddings().weight
    add_tokens(spare, tokenizer, ["<b0>", "<b1>"])
    assert spare.get_input_embeddings().weight is weight  # spare rows were enough
    tight = language_of(len(tiny_tokenizer()))
    old = tight.get_input_embeddings().weight.detach().clone()
    tokenizer = tiny_tokenizer()
    add_tokens(tight, tokenizer, ["<b0>", "<b1>"])
    grown = tight.get_input_embeddings().weight
    assert len(grown) == len(tokenizer) == len(old) + 3
    assert torch.equal(grown[: len(old)], old)
    assert len({tuple(row.tolist()) for row in grown[len(old) :]}) == 3  # and not the same


def test_fewer_bits_need_bitsandbytes(monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "bitsandbytes" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(ModelError, match=r"expected bitsandbytes.*pip install .lucida\[quantize\]"):
        load_language(language_folder(), "4bit")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "dtype"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_fewer_bits_say_nearly_the_same(bits, dtype, tmp_path):
    pytest.importorskip("bitsandbytes")
    path = str(tmp_path)
    shape = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 128, "num_hidden_layers": 2, "pad_token_id": 0}
    tokenizer = tiny_tokenizer()
    config = LANGUAGES["llama"](**shape, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    model, processor = tiny_model(language={"path": path, "max_length": 120, "quantize": bits})
    exact, _ = tiny_model(language={"path": path, "max_length": 120})
    held = [w for n, w in model.language.named_parameters() if n.endswith("proj.weight")]
    assert {weight.dtype for weight in held} == {dtype}
    assert not any(weight.requires_grad for weight in held)
    batch = collate([processor.encode(sample("what colour?"))], True, 0, processor.pixels)
    with torch.no_grad():
        few, many = (m.logits(m.hidden(batch)).flatten() for m in (model, exact))
    assert torch.corrcoef(torch.stack([few, many]))[0, 1] > 0.9
    model.train()
    model.hidden(batch).square().sum().backward()  # what trains is reached through them
    assert all(weight.grad.abs().sum() > 0 for weight in model.projector.parameters())
