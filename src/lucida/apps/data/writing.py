"""What a model is asked to write about pictures, and how its words are read.

caption   a sentence about the pictures           ─▶ {"caption": "A kite over trees."}
ask       questions with answers, one a line      ─▶ {"question": …, "answer": …}, several
rate      how well a record's answer fits, 1 to 5 ─▶ {"rating": 4}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lucida.data.sample import ImagePart, Sample
from lucida.eval.metrics.declared import refuses

Read = Callable[[str], list[dict[str, Any]]]
"""From what was written to the fields of new records; none where it cannot be read."""

# "I'm sorry, …", "Sorry, but I can't …", "As an AI, …"; not "The man is sorry".
_SORRY = re.compile(
    r"^\W*(i'?m |i am |we'?re )?(sorry|unable|afraid|not able)\b"
    r"|^\W*(sorry[,. ]+)?(but )?(i|we) (can'?t|cannot|can not|won'?t|will not|must decline)\b"
    r"|\bas an ai\b",
    re.IGNORECASE,
)
# What stands in front of a question: "1. ", "- ", "Q2: ", "3) Question: "; of its answer "A: ".
_BEGINNING = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])?\s*(?:q(?:uestion)?\s*\d*\s*[:.])?\s*", re.I)
_NEXT = re.compile(r"^\s*(?:[-*•]\s*)?a(?:nswer)?\s*\d*\s*[:.]\s*", re.I)
# One digit by itself, as in "4", "4/5" or "4 out of 5"; not those of "14", "4.5", "3/4" or "2024".
_GRADE = re.compile(r"(?<![\d.,/])([1-5])(?:\s*(?:/|out of)\s*5)?(?![\d/]|[.,]\d)")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of the answerer. prompt: with `{record}` where the record's own words stand
    and `{many}` for a number. kind: of the source that the results are read with, and the fields
    that it needs. shown: whether a record's own question and answer are part of the prompt."""

    name: str
    prompt: str
    read: Read
    kind: str
    fields: Mapping[str, str]
    shown: bool = False


def read_caption(output: str) -> list[dict[str, Any]]:
    """The output as one caption; quotes around it and a word in front of it are left out."""
    text = re.sub(r"^\s*(?:caption|description)\s*:\s*", "", output, flags=re.I).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return [{"caption": text}] if re.search(r"\w", text) else []


def read_questions(output: str) -> list[dict[str, Any]]:
    """Questions with answers: `Question? | Answer` on a line, or `Q: …` and `A: …` on two or one.

    Numbers and bullets in front are left out; a question that comes again counts once.

    Worked example: "1. What flies? | A kite." and "Q: Is it red? A: No" are two records.
    """
    found: dict[str, str] = {}
    question = None
    for line in output.splitlines():
        if question is not None and (answer := _NEXT.match(line)):
            found.setdefault(question, line[answer.end() :].strip(" |"))
            question = None
            continue
        text = _BEGINNING.sub("", line, count=1)
        asked, mark, rest = text.partition("?")
        if not mark or not re.search(r"\w", asked):
            continue
        question = f"{asked.strip()}?"
        rest = re.sub(r"^[\s|:–—-]*(?:a(?:nswer)?\s*[:.])?", "", rest, flags=re.I).strip(" |")
        if rest:
            found.setdefault(question, rest)
            question = None
    return [
        {"question": question, "answer": answer}
        for question, answer in found.items()
        if re.search(r"\w", answer)
    ]


def read_rating(output: str) -> list[dict[str, Any]]:
    """The one number from 1 to 5 in the output; none where there is no such number, or two.

    Worked example: "4", "4/5" and "Rating: 4 out of 5." are 4; "4 or 5" and "4.5" are nothing.
    """
    grades = set(_GRADE.findall(output))
    return [{"rating": int(grades.pop())}] if len(grades) == 1 else []


WISHES = {
    "caption": Wish(
        "caption",
        "Describe this picture in one sentence.",
        read_caption,
        "pairs",
        {"text": "caption"},
    ),
    "ask": Wish(
        "ask",
        "Write {many} short questions about this picture that can be answered by looking at it "
        "and not without. Give each with its short answer on a line of its own, like this:\n"
        "What colour is the car? | red",
        read_questions,
        "questions",
        {},
    ),
    "rate": Wish(
        "rate",
        "{record}\n\nHow well does this text fit the picture: is it true, is the picture needed "
        "for it, and is it clearly said? Answer with one number from 1 (not at all) to 5 (very "
        "well), and nothing else.",
        read_rating,
        "",
        {},
        shown=True,
    ),
}


def is_refusal(output: str) -> bool:
    """Whether the output says that it will not or cannot answer."""
    return bool(_SORRY.search(output.replace("’", "'"))) or refuses(output)


def record_words(sample: Sample) -> str:
    """What a record says, turn by turn, without its pictures; the names of roles in front."""
    names = {"user": "Question", "assistant": "Answer", "system": "Instruction"}
    lines = []
    for turn in (*sample.stem, *(turn for branch in sample.branches for turn in branch)):
        text = "".join(str(part) for part in turn.parts if isinstance(part, str)).strip()
        if text:
            lines.append(f"{names[turn.role]}: {text}")
    return "\n".join(lines)


def picture_parts(sample: Sample) -> list[ImagePart]:
    """The pictures of a record, in their order."""
    return [ImagePart(place) for place in range(len(sample.images))]
