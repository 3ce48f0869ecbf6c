"""Multiple choice: which option an output names, and circular evaluation.

Ways to read a letter, from strict to lenient; say which one a score was read with:

    exact_letter    the output is the letter and nothing else (LLaVA on SEED-Bench)
    first_letter    its first character that is no white space (lmms-eval on SEED-Bench)
    mmstar_letter   that, or what follows "(", "option " or "the answer is " (MMStar)
    mmmu_pro_letter the last one in brackets, before a space or a period; else a text (MMMU-Pro)
    letter          Lucida's own rule, after MMBench's without a judge: the letter that is declared,
                    else the only one that is named, else the text of exactly one option
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.declared import find_declared, find_named, plain, refuses
from lucida.eval.metrics.outputs import as_text

LETTERS = string.ascii_uppercase

Options = Sequence[str] | Mapping[str, str]
"""The options in order (A, B, ...), or by letter: then letters in between may be missing."""


def by_letter(options: Options) -> dict[str, str]:
    """The options by letter. DataError for none, more than 26, or a key that is no letter.

    Worked example: ["cat", "dog"] -> {"A": "cat", "B": "dog"}.
    """
    if isinstance(options, Mapping):
        wrong = [key for key in options if key not in list(LETTERS)]
        if wrong or not options:
            raise DataError("options are keyed by capital letters", expected="A..Z", given=wrong)
        return {key: str(text) for key, text in options.items()}
    listed = hasattr(options, "__getitem__") and not isinstance(options, str)
    if not listed or not 1 <= len(options) <= len(LETTERS):
        raise DataError(
            "a multiple-choice question needs a list of options",
            expected="1 to 26",
            given=len(options) if listed else f"the {type(options).__name__} {str(options)[:40]!r}",
        )
    return {LETTERS[i]: str(text) for i, text in enumerate(options)}


def exact_letter(text: object, options: Options) -> str | None:
    """The letter when the output is an option's capital letter and nothing else, else None.

    Worked example, two options: "B" -> B; "B.", "b" and " B" -> None.

    Reference: LLaVA's scorer of SEED-Bench.
    """
    output = as_text(text)
    return output if output in by_letter(options) else None


def first_letter(text: object, options: Options) -> str | None:
    """The first character behind white space when it is an option's letter in either case, else
    None.

    Worked example, two options: "b) dog" and " B" -> B; "Because" -> B as well; "(B)" -> None.

    Reference: lmms-eval's scorer of SEED-Bench.
    """
    first = as_text(text).strip()[:1].lower()
    return next((key for key in by_letter(options) if key.lower() == first), None)


def mmstar_letter(text: object, options: Options) -> str | None:
    """The letter that MMStar's script reads, else None.

    In lower case and without space at the ends: the first character, or what follows an opening
    bracket, "option " or "the answer is " at the beginning.

    Worked example, options A and B: "B. dog", "(b) dog", "Option B", "The answer is B" -> B; "It is
    B" -> None; "A dog" -> A.

    Reference: Chen et al., Are We on the Right Way for Evaluating LVLMs?, 2024, arXiv 2403.20330;
    the MMStar_eval that VLMEvalKit and others carry.
    """
    output = as_text(text).lower().strip().replace("\n", " ")
    known = {key.lower(): key for key in by_letter(options)}
    for start in ("", "(", "option ", "the answer is "):
        following = output[len(start) : len(start) + 1]
        if output.startswith(start) and following in known:
            return known[following]
    return None


def mmmu_pro_letter(text: object, options: Options) -> str | None:
    """The letter that MMMU-Pro's script reads; None where it would guess at random.

    1. Behind the last "Answer:" exactly one option's letter stands anywhere.
    2. Letters in brackets, "(B)"; else letters before a space, "B "; else before a period, "B.".
       Of several the one that comes last, counted as "(B)" or as " B ".
    3. In more than five words, options whose text the output has, in any case; of several the one
       that comes last.

    Signs of punctuation at the ends do not count. A letter may be the end of a word ("CIA " is A).

    Worked example, options cat and dog: "Answer: B", "(A) or (B)", "It is B." -> B; "so" -> None.

    Reference: Yue et al., MMMU-Pro, 2024, arXiv 2409.02813; mmmu-pro/evaluate.py.
    """
    output, known = as_text(text), by_letter(options)
    declared = output.rpartition("Answer:")
    inside = [name for name in known if declared[1] and name in declared[2]]
    if len(inside) == 1:
        return inside[0]
    for sign in ",.!?;:'":
        output = output.strip(sign)
    output = f" {output} "
    # The script looks for one form and ranks by another: in "A. cat, B. dog" both letters are found
    # by their period, neither stands between spaces, and of equals the first wins.
    for written, counted in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        places = {n: output.rfind(counted.format(n)) for n in known if written.format(n) in output}
        if places:
            return max(places, key=places.__getitem__)
    if len(output.split()) <= 5:
        return None
    lowered = output.lower()
    places = {n: lowered.rfind(t.lower()) for n, t in known.items() if t.lower() in lowered}
    return max(places, key=places.__getitem__) if places else None


def letter(text: object, options: Options) -> str | None:
    """The option that an output names, or None when it names none or several.

    Decoration never counts: bold, quotes, brackets, LaTeX, full-width characters (`declared`).

    1. A refusal ("Cannot determine the answer", as VLMEvalKit lists them) names none.
    2. A letter that is declared ("the answer is b", "Answer: (B)", "ANSWER IS B", "I choose B",
       "B is correct", a box, a line of its own): the last one declared. "A or B" declares none.
    3. Exactly one option's capital letter is a word: it is taken when it begins or ends the output
       (as MMBench: among the last four words), or is called an option. An "A" before another word
       is an article, and "B is wrong" does not name B.
    4. No option's letter but "Z" (a judge's "none of these"): None.
    5. The text of exactly one option occurs in the output (`option_text`); not that of an option
       that is itself the letter of one (option D is "B": "A, B" is no D).

    Worked example, options cat and dog: "(B)" -> B; "The answer is **b**, because of its ears" ->
    B; "(A) cat (B) dog. Answer: B" -> B; "A dog" -> B; "A cat and a dog" -> None.

    It follows MMBench's rules (VLMEvalKit's can_infer) and reads more: they know one wording of a
    declaration and capitals only, and take every "A" for a letter.

    Reference: Liu et al., MMBench, 2023, arXiv 2307.06281, section 4.3, and VLMEvalKit.
    """
    known = by_letter(options)
    output = as_text(text)
    if refuses(output):
        return None
    found = find_declared(output, known) or find_named(output, known)
    if not found:
        # Emptied and not left out: all options may be letters, and no options are an error.
        letters = {name.lower() for name in known}
        own = {n: "" if plain(t).strip(" *").lower() in letters else t for n, t in known.items()}
        return option_text(output, own)
    return found[0] if len(found) == 1 else None


def option_text(text: object, options: Options) -> str | None:
    """The letter of the only option whose text occurs in the output, in any case, else None.

    An output longer than twice all options together names none, nor does a refusal; an option
    without text is never named. ("not sure" contains the option "No": a known flaw.)

    Worked example, options cat and dog: "It is a Dog" -> B; "cat or dog" -> None.
    """
    known = by_letter(options)
    output = as_text(text)
    if len(output) > 2 * sum(map(len, known.values())) or refuses(output):
        return None
    output = output.lower()
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
