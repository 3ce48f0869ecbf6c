"""What tokens are written with: their bytes, also where they are a part of a character only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"
"""What SentencePiece writes for a space."""


def make_byte_alphabet() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with: those that can be seen stand for
    themselves, the others for letters from 256 on (GPT-2, `bytes_to_unicode`)."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + k): b for k, b in enumerate(hidden)}


class Spelling:
    """The bytes of each token of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.added = tokenizer.get_added_vocab()
        self.special = set(tokenizer.all_special_ids)
        # A byte-level decoder makes the letter of a space a space; any other leaves it alone.
        level = tokenizer.convert_tokens_to_string(["aĠa"]) == "a a"
        self.alphabet = make_byte_alphabet() if level else {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for. For one that no text holds, its name's."""
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # beyond the vocabulary: rows that only round up the table
            return b""
        if piece in self.added:
            return piece.encode()
        if self.alphabet:
            return bytes(self.alphabet[letter] for letter in piece)
        if found := re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece):
            return bytes.fromhex(found[1])
        return piece.replace(SPACE, " ").encode()
