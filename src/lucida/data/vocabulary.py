"""Strings to ids, one piece at a time: template text with its markers, data text without any.

Text of the data that happens to read `<image>` or `<eos>` stays text: it is tokenised without
special tokens, and should an id of one come out all the same, the string is cut inside its name.
Pieces are tokenised apart, so an id sequence never depends on what stands in the next turn.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from lucida.core.errors import DataError
from lucida.data.boxes import box_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

SHORT = 200
"""Texts of at most so many characters are remembered with their ids."""


class Vocabulary:
    """A tokenizer's ids for template text, data text and boxes; results are remembered.

    It works on copies of the tokenizer, so that a data thread may encode while another thread uses
    the tokenizer itself (Hugging Face's switches special tokens on and off inside a shared object).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token_id: int | None) -> None:
        self.name = tokenizer.name_or_path or None
        self.bos: int | None = tokenizer.bos_token_id
        self._unknown: int | None = tokenizer.unk_token_id
        known = tokenizer.get_vocab()
        self._box_ids = {token: known[token] for token in box_tokens(1000) if token in known}
        self._box_ids |= {token: known[token] for token in box_tokens(100) if token in known}
        markers = {known[name]: name for name in special_tokens(tokenizer) if name in known}
        if image_token_id is not None:
            markers[image_token_id] = tokenizer.convert_ids_to_tokens(image_token_id)
        # Words that a tokenizer does not know are no markers.
        self._markers = {i: name for i, name in markers.items() if i != self._unknown}
        self._with_markers = _encoder(tokenizer, split_special=False)
        self._as_words = _encoder(tokenizer, split_special=True)
        self.literal = lru_cache(maxsize=4096)(self._literal)
        self._short = lru_cache(maxsize=65536)(self._words)

    def _literal(self, text: str) -> Ids:
        """Ids of template text, in which markers such as `<|im_end|>` are tokens."""
        ids = self._with_markers(text)
        if self._unknown is not None and self._unknown in ids:
            raise DataError(
                f"the tokenizer has no token for the template's text {text!r}",
                origin=self.name,
                remedy="choose another model.language.template or a tokenizer that covers it",
            )
        return ids

    def words(self, text: str) -> Ids:
        """Ids of text from the data, in which nothing is a marker."""
        # Questions and short answers come again; long texts hardly ever do, and would fill memory.
        return self._short(text) if len(text) <= SHORT else self._words(text)

    def _words(self, text: str) -> Ids:
        ids = self._as_words(text)
        met = next((i for i in ids if i in self._markers), None)
        if met is None:
            return ids
        name = self._markers[met]
        first, *rest = text.split(name)
        if not rest or len(name) < 2:
            raise DataError(
                f"the text {text[:80]!r} would become the special token {name}", origin=self.name
            )
        # "a<image>b<image>c" is tokenised as "a<", "image>b<" and "image>c".
        middle = [name[1:] + piece + name[:1] for piece in rest[:-1]]
        cut = [first + name[:1], *middle, name[1:] + rest[-1]]
        return tuple(chain.from_iterable(map(self._words, cut)))

    def box(self, tokens: Sequence[str]) -> Ids:
        """Ids of box tokens, each exactly one."""
        try:
            return tuple(self._box_ids[token] for token in tokens)
        except KeyError as missing:
            raise DataError(
                f"the tokenizer has no box token {missing.args[0]}",
                origin=self.name,
                remedy="add the tokens of lucida.data.boxes.box_tokens(bins) to it",
            ) from None


_known: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[int, int | None], Vocabulary]]
_known = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary(tokenizer: PreTrainedTokenizerBase, image_token_id: int | None) -> Vocabulary:
    """The `Vocabulary` of a tokenizer, made once; a tokenizer that has grown gets a new one."""
    key = (len(tokenizer), image_token_id)
    with _lock:
        made = _known.setdefault(tokenizer, {})
        if key not in made:
            made[key] = Vocabulary(tokenizer, image_token_id)
        return made[key]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """All markers of a tokenizer, also those that have no role of their own (Phi's `<|end|>`)."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _encoder(tokenizer: PreTrainedTokenizerBase, split_special: bool) -> Callable[[str], Ids]:
    """A function from text to ids that adds nothing, neither tokens nor a first space."""
    if tokenizer.is_fast:
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = split_special

        def encode(text: str) -> Ids:
            return tuple(copy.encode(text, add_special_tokens=False).ids)
    else:

        def encode(text: str) -> Ids:
            return tuple(
                tokenizer(text, add_special_tokens=False, split_special_tokens=split_special)[
                    "input_ids"
                ]
            )

    # SentencePiece tokenizers put a space before whatever they are given. Behind a line break they
    # do not, so each piece is tokenised behind one and the break's ids are taken off again.
    if tokenizer.convert_ids_to_tokens(list(encode("a")))[:1] != ["▁a"]:
        return encode
    anchor = encode("\n")

    def encode_inside(text: str) -> Ids:
        ids = encode("\n" + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else encode(text)

    return encode_inside
