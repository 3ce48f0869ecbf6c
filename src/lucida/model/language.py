"""The language model, its tokenizer, and the few tokens that images and boxes need."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, NoReturn

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lucida.core.errors import ModelError
from lucida.model import attention
from lucida.model.attention import Layout
from lucida.model.loading import load_tokenizer, load_whole, quiet_loading
from lucida.model.masks import Fields

PLACEHOLDERS = (
    "<image>",
    "<|image_pad|>",
    "<|image|>",
    "<image_soft_token>",
    "<|reserved_special_token_0|>",
    "<unused0>",
)
"""Tokens that stand for a visual token, in order of preference: those made for it, then tokens that
a tokenizer keeps in reserve. One that exists costs no new row in the embedding."""


def load_language(
    path: str, quantize: Literal["4bit", "8bit"] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pretrained causal language model at `path` (folder or Hub id) in fp32, and its tokenizer.

    With `quantize` its linear layers are held in 4 bits (NF4, scales quantized again) or 8 bits and
    cannot be trained themselves; the rest stays in fp32. Weights are safetensors and code is
    transformers' own, always. ModelError when files are damaged, when a weight is missing or a
    layer is left over, when the tokenizer has no end token, or when the model cannot attend as
    packing needs.
    """
    quantization = quantization_of(quantize)
    tokenizer = load_tokenizer(path)
    language = load_whole(AutoModelForCausalLM, path, quantization_config=quantization)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token",
            origin=path,
            remedy='set "eos_token" in its tokenizer_config.json',
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    language.set_attn_implementation(attention.NAME)
    check_packing(language, path)
    return language, tokenizer


def quantization_of(quantize: Literal["4bit", "8bit"] | None) -> BitsAndBytesConfig | None:
    """How weights are held in fewer bits; ModelError when bitsandbytes is not installed.

    Reference: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023,
    arXiv 2305.14314, section 3.
    """
    if quantize is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "holding weights in fewer bits needs a package that is not installed",
            expected="bitsandbytes",
            given=f"model.language.quantize={quantize}",
            remedy='pip install "lucida[quantize]", or leave model.language.quantize out',
        )
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    half = torch.float16
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        half = torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half if torch.cuda.is_available() else torch.float32,
    )


def add_tokens(
    language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, boxes: Sequence[str]
) -> str:
    """Make sure that a placeholder and the box tokens exist; the name of the placeholder.

    Nothing is added that is there. The embedding grows only when the tokenizer outgrows it (many
    models have spare rows). New rows start at the mean of the old ones plus a little fixed noise:
    in distribution, and yet not the same.
    """
    known = tokenizer.get_vocab()
    placeholder = next((token for token in PLACEHOLDERS if token in known), None)
    if placeholder is None:
        placeholder = PLACEHOLDERS[0]
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [placeholder]}, replace_extra_special_tokens=False
        )
    new = [token for token in boxes if token not in known]
    tokenizer.add_tokens(new)
    tokenizer.new_tokens = new  # whoever leaves the embeddings frozen is told (training/words.py)
    name_placeholder(tokenizer, placeholder)
    before = language.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > before:
        with quiet_loading():
            language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for module in (language.get_input_embeddings(), language.get_output_embeddings()):
            start_new_rows(module.weight, before)
    return placeholder


def name_placeholder(tokenizer: PreTrainedTokenizerBase, placeholder: str) -> None:
    """Sets `tokenizer.image_token` and `.image_token_id`, as transformers' own processors do."""
    tokenizer.image_token = placeholder
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(placeholder)


@torch.no_grad()
def start_new_rows(weight: torch.Tensor, first: int) -> None:
    """Rows from `first` on: the mean of the rows before, plus a tenth of their spread as noise."""
    old = weight[:first]
    shape = weight[first:].shape
    # A generator of its own: whether tokens were added must not change what else the seed draws.
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    weight[first:] = old.mean(0) + 0.1 * old.std(0) * noise


@torch.no_grad()
def check_packing(language: PreTrainedModel, origin: str) -> None:
    """Run a packed row through the model and compare it with its samples alone; refuse if unequal.

    This finds, whatever the architecture is called: models that do not hand the layout down to
    their attention (Bloom, Falcon, GPT-Neo), layers that mix positions without attention (Mamba),
    positions that do not restart, and heads that do more than one matrix (soft-capped logits).
    """
    device = language.device
    ids = torch.arange(6, device=device)[None] % language.config.vocab_size
    # The second sample is what could go wrong: it has the first in front of it.
    position = torch.tensor([[0, 1, 2, 0, 1, 2]], device=device)
    segment = torch.tensor([[1, 1, 1, 2, 2, 2]], device=device)
    order, nothing = torch.arange(6, device=device)[None], torch.zeros_like(ids)
    layout = Layout(Fields(segment, nothing, order, nothing, nothing), "causal")
    layout.witnesses = []
    training = language.training
    language.eval()
    backbone = language.base_model
    embedded = language.get_input_embeddings()(ids)
    try:
        packed = backbone(
            inputs_embeds=embedded,
            position_ids=position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),  # rank 4: handed on as it is
            use_cache=False,
            layout=layout,
        ).last_hidden_state
    except (ModelError, TypeError, ValueError, RuntimeError) as problem:
        refuse(origin, language, f"it takes no packed batch ({problem})", problem)
    alone = backbone(input_ids=ids[:, 3:], use_cache=False).last_hidden_state
    logits = language(input_ids=ids[:, 3:], use_cache=False).logits
    language.train(training)
    layers, honoured = language.config.num_hidden_layers, len(layout.witnesses)
    if honoured != layers:  # layers of other kinds (Mamba) leave no witness
        refuse(origin, language, f"{honoured} of its {layers} layers honour a packed batch")
    close(origin, language, "hidden states of a packed sample", alone, packed[:, 3:])
    head = language.get_output_embeddings()
    close(origin, language, "logits from the output matrix alone", logits, head(alone))


def close(
    origin: str, language: nn.Module, what: str, expected: torch.Tensor, given: torch.Tensor
) -> None:
    """Refuse when two results differ by more than rounding."""
    quantized = getattr(language, "is_quantized", False)  # activations are rounded by the batch
    scale = expected.float().abs().max().clamp(min=1e-6)
    error = float((expected - given).float().abs().max() / scale)
    exact = expected.dtype == torch.float32 and not quantized
    tolerance = 1e-3 if exact else 5e-2
    if not error <= tolerance:
        refuse(origin, language, f"{what} differ (relative error {error:.2g}, at most {tolerance})")


def refuse(
    origin: str, language: nn.Module, reason: str, cause: Exception | None = None
) -> NoReturn:
    """One message for every way in which a language model does not fit."""
    raise ModelError(
        f"{type(language).__name__} cannot be used: {reason}",
        origin=origin,
        remedy="choose a language model whose attention goes through transformers' attention"
        " interface (Llama, Qwen2, Qwen3, Mistral, GPT-NeoX, Phi, OPT, Gemma, …)",
    ) from cause
