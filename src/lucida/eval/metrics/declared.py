"""Option letters in an output: which is declared to be the answer, which is only named.

    output ──plain──▶ one spelling of all decoration ──declared──▶ the last letter of "answer is X",
                                                     └──named────▶ the only letter that is a word

All decoration (bold, quotes, brackets, LaTeX, line ends, full-width characters) becomes the one
mark "*" and all white space one space, so no rule can disagree with another about it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

REFUSALS = (
    "sorry, i can't help with images of people yet",
    "i can't process this file",
    "i'm sorry, but without the image provided",
    "cannot determine the answer",
    "failed to obtain answer via api",
)
"""Outputs that name no option whatever else they hold, as VLMEvalKit lists them; in any case."""

_LAST_WORDS = 4
_BOXES = re.compile(r"\\(?:boxed|fbox|framebox)\b|<answer>", re.IGNORECASE)
_LATEX = re.compile(
    r"\\(?:(?:text|math)[a-z]*|mbox|left|right|bf|rm|it|sf|tt|displaystyle|quad|l?arge)\b"
    r"|\\[()\[\],;:! ]|</?(?:answer|b|i|u|em|strong|p|br|span)\s?/?>"
)
# A mark at the edge of a word is a quotation mark; inside it is an apostrophe ("don't").
_EDGES = re.compile(r"(?<![A-Za-z0-9])['\u2018\u2019_]+|['\u2018\u2019_]+(?![A-Za-z0-9])")
_DECORATION = re.compile(
    r"[\s*`\"(){}<>\[\]$#~|\\^\u201c-\u201f\u00ab\u00bb\u2039\u203a\u3008-\u3011\u3014\u3015]+"
)

_ANY_CASE = re.IGNORECASE | re.ASCII

# A letter is a word of its own: not in "D-day", "B's", "U.S.A.".
_BEFORE = r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]['\u2019-])(?<![A-Za-z]\.)"
_AFTER = r"(?![A-Za-z0-9])(?!['\u2019-][A-Za-z0-9])(?!\.[A-Za-z](?![A-Za-z]))"
_GAP = r"[ *:=\u2013\u2014\u2192-]*"
# What may stand between "answer" and the letter, up to five of them; the Chinese words in `_TAIL`
# are "option" and twice "is".
_FILLERS = (
    "is it it's its the to be as option choice letter number would should must will are was "
    "definitely probably likely most clearly therefore thus simply just closest following"
)
_TAIL = (
    rf"{_GAP}(?:(?:(?:{'|'.join(_FILLERS.split())})(?![a-z'\u2019])|\u9009\u9879|\u662f|\u4e3a)"
    rf"{_GAP}){{0,5}}"
)
_CUES = (
    # answer B, the answer to the question is B; but not the wrong answer.
    r"(?<!wrong )(?<!incorrect )(?<!not the )(?<!not an )(?<![a-z])(?:answers?|ans)(?![a-z])"
    r"(?: (?!not |answer)[a-z]+){0,6}?",
    r"(?:correct|right|best|final|chosen|selected)[ *]"
    r"(?:option|choice|letter|one|selection)(?![a-z])",
    r"(?<![a-z])(?:option|choice|letter|selection)[ *]?(?:is(?![a-z'\u2019])|:)",
    r"(?<!not )(?<!n't )(?<![a-z])(?:choose|chose|pick|select|selected|go with|going with|opt for)",
    # The same in Chinese: answer, option, (therefore) choose.
    r"\u7b54\u6848|\u9009\u9879|\u9009\u62e9|\u6545\u9009|\u5e94\u9009|\u9009",
)
# "B is correct", "B must be the best".
_RIGHT = (
    r"[ *.,]*(?:is|seems|must be|would be)[ *](?:the[ *])?(?:most[ *])?"
    r"(?:correct|right|best|answer|appropriate|accurate)(?![a-z])"
)
# "not B", "rather than B", "I exclude option B": a letter that is rejected is not named.
_NOT_BEFORE = (
    r"(?:(?<![a-z])not|n['\u2019]t|(?<![a-z])(?:nor|neither|than|instead of)|"
    r"(?:exclude|eliminate|reject|rule out|rules out)[sd]?)"
    r"(?:[ *](?:option|choice|the|letter|answer|be)){0,3}[ *]"
)
# "B is wrong", "B can be ruled out".
_NOT_AFTER = (
    r"[ *.,]{0,3}(?:(?:is|are|was|were|seems?|looks?|would be|can be|do|does|can|could|must be|has "
    r"been) )?(?:(?:also|clearly|definitely|just|the) ){0,2}(?:not|wrong|incorrect|false|out|ruled|"
    r"excluded|eliminated|impossible|unlikely|cannot|(?:is|are|was|does|do|ca|wo|could)n['\u2019]t)"
    r"(?![a-z])"
)
# Behind a letter these go on about an answer ("A because"); any other word makes "A" an article.
_REASONS = (
    r"(?:because|since|as|for|due|and|or|is|was|are|but|not|which|that|based|given|so|where|while|"
    r"although|if|from|would|seems)(?![a-z])"
)
_ALONE = re.compile(rf"(?! [A-Za-z0-9])|(?= (?i:{_REASONS}))")  # no word goes on behind a letter
_END = r"(?!['\u2019-]?[a-z0-9])"  # an option's text ends here: not in "dog-like"
_LONGEST_LINE = 40  # characters of a line that holds a letter only, decorated
_LONGEST_END = 1_000  # characters, more than four words have


def refuses(output: str) -> bool:
    """Whether the output is one of the known refusals, in any case and with any apostrophe."""
    words = " ".join(output.replace("\u2019", "'").lower().split())
    return any(refusal in words for refusal in REFUSALS)


def plain(output: str) -> str:
    """The output with all decoration as "*" and all white space as one space.

    Worked example: 'The answer is **"B"**' -> 'The answer is*B*'; "\\boxed{\\text{B}}" ->
    " answer:*B*"; "A cat" stays, "(A) cat" -> "*A*cat".
    """
    text = unicodedata.normalize("NFKC", output)
    text = _LATEX.sub("*", _BOXES.sub(" answer:", text))
    text = _EDGES.sub("*", text)
    return _DECORATION.sub(lambda gap: "*" if gap.group().strip(" \t") else " ", text)


def find_declared(output: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The letters that the last declaration of an output names, in any case: one, several ("A or
    B"), or none where nothing is declared.

    Worked example, options A to D: "Answer: B. No: the answer is (c)." -> C; "it is A or B" -> ().
    """
    text, texts = plain(output), _texts(known)
    one, letters = _letter(known), "".join(known)
    words = "|".join(re.escape(each) for each in sorted(texts, key=len, reverse=True))
    words = f"(?:{words or '(?!)'})"
    # Or an option's own text: behind "a", or where no other word goes on.
    told = rf"(?:{one}|{_BEFORE}(a {words}{_END}|{words}(?:{_ALONE.pattern}){_END}))"
    pattern = rf"(?:{'|'.join(_CUES)}){_TAIL}{told}|{one}{_RIGHT}"
    more = re.compile(
        rf"[ *]*(?:(?:or|and|/|&)[ *]*(?:option )?([{letters}]){_AFTER}(?![ *](?:is|are|was)\b)"
        rf"|,[ *]?([{letters}])(?=[*.,;]|$))",
        _ANY_CASE,
    )
    found: tuple[str, ...] = ()
    # Groups: 1 a letter behind a cue, 2 an option's own text behind one, 3 a letter that "is
    # right".
    for match in re.finditer(pattern, text, _ANY_CASE):
        if match[2] is not None:
            said = match[2].lower()
            found = (texts[said] if said in texts else texts[said.removeprefix("a ")],)
            continue
        found = ((match[1] or match[3]).upper(),)
        if other := more.match(text, match.end(1) if match[1] else match.end(3)):
            found += ((other[1] or other[2]).upper(),)
    return found or _alone(output, known)


def find_named(output: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The letter that an output without a declaration names; () where none or several are, and two
    marks where a judge's "Z" says that none is right.

    Worked example, options A and B: "B. dog" -> B; "I see option b there" -> B; "A or B" -> ();
    "B is wrong" -> (); "Z" -> ("Z", "Z").
    """
    text, one = plain(output), _letter(known)
    mentions = _places(one, text, re.ASCII)
    called = _places(rf"{_BEFORE}(?:option|choice|letter)[ *]{one}", text)
    rejected = _places(f"{_NOT_BEFORE}{one}", text) | _places(f"{one}(?={_NOT_AFTER})", text)
    places = sorted((mentions | called) - rejected)
    names = {text[place].upper() for place in places}
    if not names and "Z" not in known and re.search(r"(?<![A-Za-z0-9])Z(?![A-Za-z0-9])", text):
        return ("Z", "Z")
    if len(names) != 1:
        return ()
    # Every "A" that `_letter` takes for an article.
    articles = _places(rf"{_BEFORE}(A){_AFTER}", text, re.ASCII) - mentions
    if articles and "A" in known and not all(_ALONE.match(text, place + 1) for place in places):
        return ()  # neither may be a letter: "A dog is beside B shrub"
    first, last = places[0], places[-1] + 1
    begins = first == len(text) - len(text.lstrip(" *")) and _ALONE.match(text, first + 1)
    is_answer = begins or _is_among_last(text, last) or not called.isdisjoint(places)
    return tuple(names) if is_answer else ()


def _letter(known: Mapping[str, str]) -> str:
    """The pattern of one option's letter as a word. An "a" or "I" before another word is none (an
    article, a pronoun), unless it is decorated or its own option's text or a reason follows."""
    articles = ""
    for name in set("AI").intersection(known):
        own = re.escape(plain(known[name]).strip(" *"))
        own = rf"|{own}(?:{_ALONE.pattern})(?![a-z0-9])" if own else ""
        follows = rf"(?=[a-z0-9])(?!{_REASONS}{own})"
        articles += rf"(?!(?<!\*)[{name}{name.lower()}] (?i:{follows}))"
    return rf"{_BEFORE}{articles}([{''.join(known)}]){_AFTER}"


def _places(pattern: str, text: str, flags: re.RegexFlag = _ANY_CASE) -> set[int]:
    """Where the letters are that a pattern finds."""
    return {match.start(1) for match in re.finditer(pattern, text, flags)}


def _texts(known: Mapping[str, str]) -> dict[str, str]:
    """The letters by their options' texts as they stand in `plain` outputs, in lower case; a text
    that two options have is left out."""
    texts = [(plain(text).strip(" *").lower(), name) for name, text in known.items()]
    counts = Counter(text for text, _ in texts)
    return {text: name for text, name in texts if text and counts[text] == 1}


def _alone(output: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The capital letter that has a line of its own, when all such lines agree."""
    lines = unicodedata.normalize("NFKC", output).splitlines()
    bare = {plain(line).strip(" *.,:;!?\u3002") for line in lines if len(line) <= _LONGEST_LINE}
    found = bare.intersection(known)
    return tuple(found) if len(found) == 1 else ()


def _is_among_last(text: str, end: int) -> bool:
    """Whether fewer than `_LAST_WORDS` words stand behind this place."""
    if len(text) - end > _LONGEST_END:
        return False
    return len(re.findall(r"[^ *.,:;!?]+", text[end:])) < _LAST_WORDS
