"""Multiple choice: which option an output names, and circular evaluation.

Ways to read a letter, from strict to lenient; say which one a score was read with:

    exact_letter    the output is the letter and nothing else (LLaVA on SEED-Bench)
    first_letter    its first character (lmms-eval on SEED-Bench)
    letter          MMBench's rules without a judge: a letter among the last words, "the answer is
                    B", or the text of exactly one option
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from lucida.core.errors import DataError

LETTERS = string.ascii_uppercase
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer is\s*:?\s*\(?([A-Z])\b")
_LAST_WORDS = 4

Options = Sequence[str] | Mapping[str, str]
"""The options in order (A, B, ...), or by letter."""


def by_letter(options: Options) -> dict[str, str]:
    """The options by letter. DataError for none, more than 26, or a key that is no letter.

    Worked example: ["cat", "dog"] -> {"A": "cat", "B": "dog"}.
    """
    if isinstance(options, Mapping):
        wrong = [key for key in options if key not in LETTERS or len(key) != 1]
        if wrong or not options:
            raise DataError("options are keyed by capital letters", expected="A..Z", given=wrong)
        return {key: str(text) for key, text in options.items()}
    if isinstance(options, str) or not 1 <= len(options) <= len(LETTERS):
        raise DataError(
            "a multiple-choice question needs a list of options",
            expected="1 to 26",
            given=f"the text {options[:40]!r}" if isinstance(options, str) else len(options),
        )
    return {LETTERS[i]: str(text) for i, text in enumerate(options)}


def exact_letter(text: str | None, options: Options) -> str | None:
    """The letter when the output is an option's capital letter and nothing else, else None.

    Worked example, two options: "B" -> B; "B.", "b" and " B" -> None.

    Reference: LLaVA's scorer of SEED-Bench.
    """
    return text if text in by_letter(options) else None


def first_letter(text: str | None, options: Options) -> str | None:
    """The first character when it is an option's letter in either case, else None.

    Worked example, two options: "b) dog" -> B; "Because" -> B as well; " B" -> None.

    Reference: lmms-eval's scorer of SEED-Bench.
    """
    first = (text or "")[:1].upper()
    return first if first and first in by_letter(options) else None


def letter(text: str | None, options: Options) -> str | None:
    """The option that an output names by MMBench's rules, or None when it names none or several.

    1. Brackets, periods, commas, colons, "!", "*" and "#" separate words. When exactly one option's
       letter is a word, first within the last four, that is the answer; an early "A" is an article.
    2. No option's letter but "Z" (a judge's "none of these"): None.
    3. "answer is B".
    4. The text of exactly one option occurs in the output, in any case, and the output is no longer
       than twice all options together. ("not sure" contains the option "No": a known flaw.)

    Worked example, options cat and dog: "(B)" -> B; "The answer is B because of its ears and its
    tail" -> B; "a dog" -> B; "A cat and a dog" -> None.

    Reference: Liu et al., MMBench, 2023, arXiv 2307.06281, section 4.3, and VLMEvalKit.
    """
    known = by_letter(options)
    output = text or ""
    words = output.translate(_SEPARATORS).split()
    named = [key for key in known if key in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
        return named[0]
    if not named and "Z" in words:
        return None
    stated = _ANSWER_IS.search(output)
    if stated and stated.group(1) in known:
        return stated.group(1)
    return option_text(output, known)


def option_text(text: str | None, options: Options) -> str | None:
    """The letter of the only option whose text occurs in the output, in any case, else None.

    An output longer than twice all options together names none; an option without text never does.

    Worked example, options cat and dog: "It is a Dog" -> B; "cat or dog" -> None.
    """
    known = by_letter(options)
    output = (text or "").lower()
    if len(output) > 2 * sum(map(len, known.values())):
        return None
    found = [key for key, option in known.items() if option and option.lower() in output]
    return found[0] if len(found) == 1 else None


def rotations(options: Sequence[str]) -> list[list[str]]:
    """The orders in which circular evaluation asks a question: each option comes first once.

    Worked example: ["cat", "dog", "hen"] -> cat dog hen; dog hen cat; hen cat dog.

    Reference: Liu et al., MMBench, 2023, arXiv 2307.06281, section 4.2.
    """
    return [[*options[i:], *options[:i]] for i in range(len(options))]


def circular_score(right: Sequence[bool | float]) -> float:
    """1.0 when the answer is right in every rotation of the options, else 0.0.

    Raises DataError without a rotation.

    Worked example: right, right, wrong, right -> 0.

    Reference: Liu et al., MMBench, 2023, arXiv 2307.06281, section 4.2.
    """
    if not len(right):
        raise DataError("circular evaluation needs the answers to every rotation", given="none")
    return float(all(right))


def circular_scores(groups: Sequence[str], right: Sequence[bool | float]) -> dict[str, float]:
    """`circular_score` of every question: `groups[i]` names the question that answer i belongs to.

    Worked example: groups q1 q1 q2 q2 and right 1 1 1 0 -> {"q1": 1.0, "q2": 0.0}.
    """
    by_question: dict[str, list[bool | float]] = {}
    for group, is_right in zip(groups, right, strict=True):
        by_question.setdefault(group, []).append(is_right)
    return {question: circular_score(answers) for question, answers in by_question.items()}
