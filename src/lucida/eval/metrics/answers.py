"""Short answers as the VQA scripts compare them: punctuation, numbers, articles, contractions.

VQAv2, OK-VQA, TextVQA and VizWiz all build on these steps; each scorer says which of them it takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lucida.eval.metrics.outputs import as_text

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    )
} | {"none": "0"}
COMMA_IN_NUMBER = re.compile(r"\d,\d")
COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the published call passes a flag of value 32 where the count belongs

_WHOLE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's "
    "how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've "
    "o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll "
    "someone's something'd something'll that's there'd there're there's they'd they'll they're "
    "they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd "
    "you'll you're you've couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've "
    "shouldn't've somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've "
    "wouldn't've y'all'll y'all'd've you'd've"
)
"""Contractions as they should be. Each is restored wherever exactly one apostrophe is missing."""


def _contractions() -> dict[str, str]:
    """The published table: 113 spellings that lack one apostrophe, and an oddity.

    "somebody'd" loses its apostrophe. Four entries with a capital I can never apply, because words
    are lower-cased before the look-up, and two map to themselves; they are left out.
    """
    table = {"somebody'd": "somebodyd"}
    for whole in _WHOLE.split():
        for place, mark in enumerate(whole):
            if mark == "'":
                table[whole[:place] + whole[place + 1 :]] = whole
    return table


CONTRACTIONS = _contractions()


def clean(text: object) -> str:
    """Line feeds and tabs become spaces; space at both ends goes. What is no text is as `as_text`
    says."""
    return as_text(text).replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str, commas: re.Pattern[str] = COMMA_IN_NUMBER) -> str:
    """The text without punctuation, by the script's peculiar rule.

    A mark that stands next to a space anywhere in the text, or any mark when a comma stands between
    two digits anywhere, is deleted; otherwise it becomes a space. Then the first 32 periods that no
    digit follows are deleted. Apostrophes, colons and % $ & # * stay.

    Worked example: "yes, sir" -> "yes sir"; "t-shirt" -> "t shirt"; "1,000 m." -> "1000 m";
    "u.s.a." -> "usa"; "2.5" -> "2.5".
    """
    deletes_all = commas.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        if mark in cleaned:
            # In the text as it came: spaces that earlier marks left behind do not count.
            beside_space = f"{mark} " in text or f" {mark}" in text
            cleaned = cleaned.replace(mark, "" if deletes_all or beside_space else " ")
    return _PERIOD_BEFORE_NO_DIGIT.sub("", cleaned, count=_MOST_PERIODS)


def plain_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Lower case, zero..ten (and "none") as digits, no articles, contractions restored.

    Worked example: "The two dogs dont" -> "2 dogs don't".
    """
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in ARTICLES)


def normalise(text: object) -> str:
    """An answer as VQAv2 compares it.

    Worked example: "The Red Star." -> "red star"; "two" -> "2"; "light-blue" -> "light blue";
    "dont" -> "don't"; "a" -> "" (nothing is left of an article).

    Reference: Goyal et al., Making the V in VQA Matter, 2017, arXiv 1612.00837, evaluation code.
    """
    return plain_words(without_punctuation(clean(text)))


def normalise_lmms(text: object) -> str:
    """An answer as lmms-eval compares it on VQAv2: commas between digits may stand in a run."""
    return plain_words(without_punctuation(clean(text), COMMAS_IN_NUMBER))


def normalise_m4c(text: object) -> str:
    """An answer as M4C's evaluator compares it.

    It differs from VQAv2's in the beginning: commas and question marks go first, and "'s" becomes
    a word of its own.

    Worked example: "Macy's" -> "macy 's"; "1,000" -> "1000"; "The Stop sign" -> "stop sign".

    Reference: Singh et al., Towards VQA Models That Can Read, 2019, arXiv 1904.08920; evaluator of
    Hu et al., M4C, 2020, arXiv 1911.06258.
    """
    text = as_text(text).lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return plain_words(without_punctuation(clean(text), COMMAS_IN_NUMBER))


_STRAIGHT = frozenset(
    [
        "ain't",
        "aren't",
        "can't",
        "could've",
        "couldn't",
        "we've",
        "where's",
        "who've",
        "couldn'tve",
        "hadn'tve",
    ]
)


def _vizwiz_contractions() -> dict[str, str]:
    """VizWiz's table: VQAv2's with the apostrophe U+2019 but for ten spellings, as published."""

    def curly(word: str) -> str:
        return word if word in _STRAIGHT else word.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")

    return {curly(written): curly(whole) for written, whole in CONTRACTIONS.items()}


VIZWIZ_CONTRACTIONS = _vizwiz_contractions()


def normalise_vizwiz(text: object) -> str:
    """A prediction as VizWiz compares it; references stay as they are.

    Worked example: "The Dog." -> "dog"; "dont" -> "don\N{RIGHT SINGLE QUOTATION MARK}t".

    Reference: Gurari et al., VizWiz Grand Challenge, 2018, arXiv 1802.08218, evaluation code.
    """
    return plain_words(without_punctuation(clean(text)), VIZWIZ_CONTRACTIONS)
