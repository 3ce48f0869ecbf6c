"""Stanford's PTB tokens of a caption in pure Python: the words that COCO's caption metrics count.

The original is a Java program (CoreNLP 3.4.1 PTBTokenizer; it lower-cases after it has split, so
that AT&T is one word and m&m three). Its grammar is a long list of rules of which the longest match
wins; here they are one regular expression whose alternatives stand in the order in which they win.

It also reads whole files, of a caption a line: whether a last single letter keeps its period ("12th
Ave S.") depends there on how the next caption begins, blank ones left out. The official pipeline
writes all candidates into one file and all references into another, so `tokenize_lines` is what
scores are computed with; `tokenize` reads one caption by itself.

Not followed: vowel signs and accents that are characters of their own (Hindi, Arabic, decomposed
accents) split a word here, and runs of three and more quotation marks are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lucida.eval.metrics.outputs import as_text


def _between(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


_FOLDED = str.maketrans(
    {
        "\u200b": " ",
        # Raised, lowered and circled digits are words of their own.
        **{c: f" {c} " for c in "\u00b2\u00b3\u00b9\u2070" + _between(0x2074, 0x2079)},
        **{c: f" {c} " for c in _between(0x2080, 0x2089) + _between(0x2460, 0x249B)},
        **dict.fromkeys("\u2019\u0092", "'"),
        **dict.fromkeys("\u2018\u0091\u201b\u2039\u203a", "`"),
        **dict.fromkeys("\u201c\u201d\u0093\u0094\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2013\u2014\u2015\u0096\u0097", " -- "),
        **dict.fromkeys("\u20ac\u0080\u00a4\u20a0", "$"),
        "\u2026": "...",
        "\u00ad": "",
        "\u00a3": "#",
        "\u00a2": " cents ",
        "\u00bc": " 1/4 ",
        "\u00bd": " 1/2 ",
        "\u00be": " 3/4 ",
        "\u2153": " 1/3 ",
        "\u2154": " 2/3 ",
    }
)
"""Characters that become others before splitting."""

_BEYOND_JAVA = re.compile("[\U00010000-\U0010ffff]")
"""The original reads 16-bit characters: emoji and other rare ones are dropped, and separate."""


def _any(words: str) -> str:
    return "|".join(words.split())


_L = r"[^\W\d_]"  # a letter of any script
_A = r"[^\W_]"  # a letter or digit
_END = rf"(?!{_A})"
_PATH = r"(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){},-])?"
_ABBREVIATIONS = _any(
    "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg "
    "blvd brig bros calif capt cf cie cmdr co col colo conn corp cos cpl ct dak dec dept det "
    "dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl "
    "invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle "
    "mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte "
    "ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc "
    "sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed "
    "wis wisc wm wyo comdr (?:ed|ph)\\.d"
)
"""Those of up to four letters were found by asking the original for every such word."""
_CAPITALISED = _any("Az Ark Del Ill La Mass Miss Ore Tex Wash")
_APOSTROPHED = _any(
    "'n 'em 'till? 'cause ol' dunkin' somethin' c'mon e'er s'mores ev'ry li'l nat'l nor'easter "
    "cont'd"
)
_BEGINNINGS = _any(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last "
    "Many More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There "
    "These They This We When While What Yet You"
)
"""Words that begin a sentence: before them the period of a single letter ends the last one."""

# Repetitions that a rule can fail behind are bounded, so that a runaway output takes linear time.
_RULES = (
    # Tags and addresses.
    r"</?[A-Za-z][\w:.-]{0,60}(?: [A-Za-z][\w:.-]{0,60}(?:=\"[^\"<>]{0,200}\")?){0,9} ?/?>",
    r"<!--[^<>]{0,200}-->|&(?:lt|gt|#\d{1,5});",
    r"(?i:https?)://[^\s\"<>|()]+[^\s\"<>|.!?(){},-]",
    r"<?[A-Za-z0-9][^\s\"<>|()@]{0,64}@(?:[^\s\"<>|().]{1,64}\.){0,8}[^\s\"<>|().]{1,64}>?",
    rf"(?i:www)\.(?:[\w-]{{1,64}}\.){{1,8}}[a-zA-Z]{{2,4}}{_PATH}",
    rf"(?:[\w-]{{1,64}}\.){{1,8}}(?i:com|net|org|edu)(?![\w-]){_PATH}",
    # Telephone numbers and fractions.
    r"\(\d{2,3}\) ?\d{3,4}[- ]?\d{3,5}",
    r"(?:\d{2,4}[- ])?\d{2,4}[- ]\d{3,4}[- ]?\d{3,5}(?!\w)",
    r"\d{1,4}[- ]\d{1,4}/\d{1,4}(?![\w/])",
    # Apostrophes that belong to a word, and words that split.
    rf"'n'|'[2-9]0s{_END}|(?<!\w)'\d\d(?!\S)|(?i:{_APOSTROPHED}){_END}",
    rf"(?i:'t(?=(?:was|is){_END})|can(?=not{_END})|(?:gon|wan)(?=na{_END})|got(?=ta{_END}))",
    rf"(?i:(?:gim|lem)(?=me{_END})|y'(?=[a-z]))",
    rf"(?i:{_A}+(?=n't(?!{_L}))|n't(?!{_L})|'(?:[smd]|re|ve|ll)(?!{_L}))",
    rf"[dDoOlL]'{_A}+(?:[-_]{_A}+)*|[A-HJ-XZn]'{_L}{{2,}}",
    rf"{_L}*[aeiouyAEIOUY]'(?!(?i:[smd]|re|ve|ll){_END})[aeiouA-Z]{_L}*|[lLdDjJ]'",
    # Words joined by slashes, hyphens, ampersands.
    r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
    r"[A-Za-z0-9][A-Za-z0-9.,]{0,60}(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+",
    r"[A-Z]*\$|[A-Z]+(?:[+&][A-Z]+)+|(?i:c\+\+|[cf]#)",
    rf"{_A}+(?:[-_]{_A}+)+",
    rf"[@#](?:{_L}|_)\w*|-(?i:[lr][rsc]b)-",
    # Abbreviations and single letters keep their period.
    rf"[A-Za-z](?:\.[A-Za-z])+(?!\.?{_A})\.?|[A-Za-z]\.(?!{_L}| (?:{_BEGINNINGS}) )",
    rf"(?:(?i:{_ABBREVIATIONS})|{_CAPITALISED})\.{_END}|(?i:fig|nos?|pp?|arts?)\.(?= *\d)",
    rf"{_A}+\.(?=[,;:\u3001])",
    # Words with periods inside, words with digits, numbers.
    rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*",
    rf"\d+{_L}{_A}*",
    r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",
    # Punctuation that survives; a single mark does not.
    r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])",
    r"\('\.'\)|[!?]{2,}|-{5,}|_+|\*+|#+|<<|>>",
    r"[#%&+/<=>@\\^~|$()\[\]{}]",
    r"[\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00bf\u00d7\u00f7]",
    r"[\u2016-\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2044\u207a-\u2bff]",
    r"[\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe6]",
)
_TOKEN = re.compile("|".join(_RULES))

_NAMED = {"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "&lt;": "<", "&gt;": ">"}
_INSIDE = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\u00a0"})
"""Written so inside longer tokens too: ":-)", "(555) 123-4567" and "1 1/2" are one token."""
_ENTITIES = (("&amp;", "&"), ("&quot;", '"'), ("&apos;", "'"), ("&nbsp;", " "))
_ACROSS_SPACE = re.compile(
    r"[\d)]\s+\d|(?i:\b(?:fig|nos?|pp?|arts?))\.\s+\d|\b[A-Za-z]\.\s+[A-Z]|<[A-Za-z/!]"
)
_LAST_LETTER = re.compile(r"(?<![\w.'])[A-Za-z]\.\s*$")
_BEGINNING = re.compile(rf"\s*(?:{_BEGINNINGS})\s")
_LAST_NUMBERED = re.compile(r"\b(?i:fig|nos?|pp?|arts?)\.\s*$")
_known: dict[str, tuple[str, ...]] = {}
_MOST_KNOWN, _LONGEST_KNOWN = 200_000, 40


def tokenize(text: object, following: str = "") -> list[str]:
    """The tokens that coco-caption's metrics see: lower case, without punctuation.

    Contractions split ("isn't" is two tokens), hyphens and slashes inside words stay, brackets are
    named, emoji vanish. A carriage return, vertical tab, form feed, U+2028 or U+2029 is a space
    (the original loses count of its lines there). None has no tokens.

    `following` is what stands behind the caption's line, as `tokenize_lines` knows it.

    Worked example: "It's the dog's ball (isn't it?) at 5:30 p.m." ->
    it 's the dog 's ball -lrb- is n't it -rrb- at 5:30 p.m.

    Reference: Marcus et al., Building a Large Annotated Corpus of English: The Penn Treebank, 1993;
    Stanford CoreNLP 3.4.1 PTBTokenizer as called by tylin/coco-caption.
    """
    text = as_text(text)
    if not text:
        return []
    if following and _LAST_LETTER.search(text) and _BEGINNING.match(following):
        text = text.rstrip()[:-1]
    elif following.lstrip()[:1].isdigit() and _LAST_NUMBERED.search(text):
        return tokenize(f"{text.rstrip()} 0")[:-1]  # "no." before a number keeps its period
    if not text.isascii():
        text = _BEYOND_JAVA.sub(" ", text.translate(_FOLDED))
    if "&" in text:
        for entity, mark in _ENTITIES:
            text = text.replace(entity, mark)
    words = text.split()
    # Only then can a token hold a space or depend on the next word; else words are split one by
    # one, and each only once.
    if _ACROSS_SPACE.search(text):
        return list(_split(" ".join(words)))
    tokens: list[str] = []
    for word in words:
        found = _known.get(word)
        tokens += _remember(word) if found is None else found
    return tokens


def tokenize_lines(texts: Sequence[object]) -> list[list[str]]:
    """The tokens of a list of captions as the original reads them, one on each line of a file.

    Worked example: "12th Ave S.", "" and "The dog" give 12th ave s, nothing, the dog; with "the
    dog" at the end the first is 12th ave s. (with its period).

    Reference: as `tokenize`; tylin/coco-caption's PTBTokenizer.tokenize (one file for each call).
    """
    found: list[list[str]] = []
    # From the end, where it is known what follows. A next caption of one word has its line end
    # behind it, unless it is the last: `_BEGINNING` wants white space there.
    following = after = ""
    for text in map(as_text, reversed(texts)):
        found.append(tokenize(text, following))
        if text and not text.isspace():
            following = text + after
        after = "\n"
    return found[::-1]


def _split(text: str) -> tuple[str, ...]:
    return tuple(
        _NAMED.get(token) or token.translate(_INSIDE).lower() for token in _TOKEN.findall(text)
    )


def _remember(word: str) -> tuple[str, ...]:
    """Words recur: 25,000 captions have 10,000 of them, so each is split once."""
    found = _split(word)
    if len(word) <= _LONGEST_KNOWN:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[word] = found
    return found
