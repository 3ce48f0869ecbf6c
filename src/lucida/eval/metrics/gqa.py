"""GQA: one answer, right or wrong, under one of three notions of equality.

official   the published script: the very same text
llava      LLaVA's conversion before the script: trailing periods go, lower case
lmms       lmms-eval: lower case and no ASCII punctuation, on both sides
"""

from __future__ import annotations

import string
from typing import Literal

from lucida.core.errors import DataError

GqaVariant = Literal["official", "llava", "lmms"]
VARIANTS: tuple[str, ...] = ("official", "llava", "lmms")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def gqa_match(prediction: str | None, answer: str, variant: GqaVariant = "official") -> float:
    """1.0 when the prediction equals the answer under the variant, else 0.0.

    Worked example, answer "t-shirt": "t-shirt" is right everywhere, "T-shirt." with llava and lmms,
    "tshirt" with lmms only.

    Reference: Hudson and Manning, GQA, 2019, arXiv 1902.09506; variants: LLaVA's
    convert_gqa_for_eval, lmms-eval's exact_match.
    """
    found = prediction or ""
    if variant == "official":
        return float(found == answer)
    if variant == "llava":
        return float(found.rstrip(".").lower() == answer)
    if variant == "lmms":
        return float(_bare(found) == _bare(answer))
    raise DataError(
        "no such variant of GQA accuracy", expected=" or ".join(VARIANTS), given=variant
    )


def _bare(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)
