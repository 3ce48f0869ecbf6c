"""Words that a language model lacks, where a stage adapts it and leaves its embeddings frozen.

    supervised text of some records ─▶ its words ─▶ pieces of the tokenizer ─▶ lacking?

A word is lacking when its pieces hold fewer than two bytes of it each (English words have four and
more), or when a piece is the unknown token. Adapters learn to use the pieces; a language model
that has never met these words learns them better when its embeddings train as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lucida.data.reader import Encoded
from lucida.data.sample import IGNORED, Tokens

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from lucida.training.stage_run import StageRun

READ = 64
"""Records of a source that are read for their words."""
BYTES = 2.0
"""A word has at least so many bytes in each of its pieces, or it is lacking."""
MANY = 0.1
"""Share of lacking words from which on it is told."""
WORD = re.compile(r"[^\W\d_]{3,}")
"""Letters only: numbers are written digit by digit on purpose."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What is supervised, and what of it the language model has no word for. words: all, with
    repetitions; lacking: times that each lacking word comes; new: supervised tokens that Lucida
    added to the vocabulary (boxes), by their text."""

    words: int
    lacking: Counter[str]
    new: Counter[str]

    @property
    def share(self) -> float:
        """Of the words, those that are lacking."""
        return self.lacking.total() / max(1, self.words)


def count_words(
    tokenizer: PreTrainedTokenizerBase, samples: Iterable[Tokens], added: Iterable[str] = ()
) -> Vocabulary:
    """The words of what the samples supervise; `added`: tokens that stand for no word."""
    found: Counter[str] = Counter()
    ids: Counter[int] = Counter()
    for sample in samples:
        target = sample.target[sample.target != IGNORED].tolist()
        ids.update(target)
        found.update(WORD.findall(tokenizer.decode(target, skip_special_tokens=True)))
    lacking = {word: many for word, many in found.items() if is_lacking(tokenizer, word)}
    names = {tokenizer.convert_tokens_to_ids(name): name for name in added}
    new = {names[id]: many for id, many in ids.items() if id in names}
    return Vocabulary(found.total(), Counter(lacking), Counter(new))


def is_lacking(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    """Is this no word to the tokenizer, inside a sentence?

    Worked example: "giraffe" as ` g i raf f e` has 7 bytes in 5 pieces: 1.4, lacking.
    """
    # Byte-level tokenizers have the space in front in the word's own token.
    pieces = tokenizer.encode(f" {word}", add_special_tokens=False)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in pieces:
        return True
    return len(word.encode()) / max(1, len(pieces)) < BYTES


def tell_lacking_words(stage: StageRun) -> Vocabulary | None:
    """Say so when a stage adapts a language model to words that it lacks and leaves the embeddings
    frozen, with the option that trains them; gives what was counted, None where nothing has to be.
    """
    model, what = stage.run.model, stage.what
    names = embeddings_of(model)
    if stage.spec.lora is None or not what.touches("language") or names & set(what.trained):
        return None
    data = stage.feed.loader.data
    reader = replace(data.reader, look=None)
    samples = [
        record.tokens
        for name, source in data.mixture.sources.items()
        for record in reader.spread(name, source, READ)
        if isinstance(record, Encoded)
    ]
    tokenizer = stage.processor.tokenizer
    found = count_words(tokenizer, samples, getattr(tokenizer, "new_tokens", ()))
    if found.share < MANY and not found.new:
        return found
    told = []
    if found.share >= MANY:
        usual = ", ".join(f"`{word}`" for word, _ in found.lacking.most_common(4))
        told.append(
            f"{found.share:.0%} of the {found.words:,} words that are learnt in "
            f"{len(samples):,} records are none of this language model's ({usual}): it has them in "
            "small pieces only"
        )
    if found.new:
        example = next(iter(found.new))
        told.append(f"{found.new.total():,} supervised tokens are new to it ({example}, …)")
    pattern = sorted(names)[0].removesuffix(".weight")
    key = f"stages.{stage.spec.name}.train.{pattern}={stage.spec.lora.rate:g}"
    stage.say(
        f"NOTE: the embeddings stay frozen beside the adapters, and {'; '.join(told)}. To train "
        f"them: {key}"
    )
    return found


def embeddings_of(model: nn.Module) -> set[str]:
    """Names of the input embeddings' and the output matrix's weights; one where they are tied."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(end.weight) for end in ends}
    return {name for name, weight in model.named_parameters() if id(weight) in own}
