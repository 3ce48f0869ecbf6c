"""Stanford's PTB tokens of a caption, in pure Python."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+(?:'\w+)?")


def tokenize(text: str | None) -> list[str]:
    """Tokens of one caption."""
    return _WORD.findall((text or "").lower())
