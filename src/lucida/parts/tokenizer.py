"""The tokenizer of the miniature language models: byte-level BPE on text of the world.

Every common word is one token and every other text is still representable. Markers: <pad>, <bos>,
<eos>, <image>, ChatML's two, and one token per coordinate bin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lucida.data.boxes import box_tokens
from lucida.world import text
from lucida.world.scenes import WORDS

BINS = 32
MARKERS = ("<pad>", "<bos>", "<eos>", "<image>", "<|im_start|>", "<|im_end|>")
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(seed: int = 0, texts: int = 20000) -> PreTrainedTokenizerFast:
    """Train it on `texts` documents of the training split."""
    return train_tokenizer(_texts(seed, texts), 704)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `size` tokens from texts, the markers in it, and the coordinates' beside
    it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<image>", "<|im_start|>", "<|im_end|>"],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in box_tokens(BINS)])
    tokenizer.chat_template = _CHAT
    return tokenizer


def _texts(seed: int, count: int) -> Iterator[str]:
    yield " ".join(f" {word}" for word in WORDS) + " " + " ".join(WORDS)
    for index in range(count):
        told = text.exercise(seed, "train", index)
        yield "".join(part for part in told.told if isinstance(part, str))
        for exchange in told.exchanges:
            yield f"\nQuestion: {exchange.question}\nAnswer: {exchange.answer}"
        yield text.document(seed, "train", index)
