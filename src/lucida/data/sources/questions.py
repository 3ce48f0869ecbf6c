"""Pictures, a question and its answer a row, from CSV, TSV, JSON, JSONL, parquet or Arrow.

image,question,answer                  {"images": ["a.jpg", "b.jpg"], "question": "Alike?",
a.jpg,What flies?,A kite.               "answer": "No.", "category": "pairs"}

Which columns are read: the one that the recipe names, else the first that holds something of
`IMAGES`, `QUESTIONS` and `ANSWERS`. Several pictures are a list (in a CSV a JSON list), or numbered
columns (image_1, image_2). They stand before the question, or where `<image>` stands in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lucida.core.errors import DataError, shorten, suggestion
from lucida.data.sample import ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.source import IGNORED, Shape
from lucida.data.sources.conversation import (
    ASIDE,
    PLACEHOLDER,
    check_places,
    list_pictures,
    most_given,
    one_conversation,
    one_of,
    text_of,
)
from lucida.data.sources.prompts import asked, asking, prompts_of
from lucida.data.sources.tables import PicturedRows, field_of
from lucida.data.sources.values import json_value

IMAGES = ("image", "images", "image_path", "image_file", "img", "file_name", "filename")
QUESTIONS = ("question", "query", "prompt", "instruction")
ANSWERS = ("answer", "answers", "response", "output", "completion")
ABOUT = "input"
"""Beside an `instruction`: what it is about."""
BLIND = "rows without a picture (asked in words alone)"
NUMBERED = re.compile(r"image_?(\d+)")
"""Columns of several pictures."""
LIST = re.compile(r"""\s*\[\s*["'\]]""")
"""How a cell begins that holds a list: as JSON has it, or as Python, which is refused."""


class QuestionsSource(PicturedRows):
    """Rows of pictures, a question and an answer; of several answers the one given most often.

    DataError: no column of a question, an answer or a picture, a row without an answer, more or
    fewer `<image>` than pictures, a picture that cannot be found. A row with an empty picture is
    asked in words alone, which is counted.
    """

    uses: ClassVar = {**ASIDE, **dict.fromkeys((*IMAGES, *QUESTIONS, *ANSWERS, ABOUT))}
    ignores = IGNORED | {"category", "question_id", "image_id", "split"}

    def __init__(
        self,
        path: str | Path,
        images: str | Path | None = None,
        image: str | None = None,
        question: str | None = None,
        answer: str | None = None,
        columns: list[str] | None = None,
        prompts: list[str] | str | None = None,
        allow_outside: bool = False,
    ) -> None:
        super().__init__(path, images, allow_outside, columns)
        self.prompts = asking(prompts_of(prompts), str(path))
        self.image, self.question, self.answer = image, question, answer
        if isinstance(known := getattr(self.rows, "columns", None), list):
            self._refuse_missing(known)

    def _refuse_missing(self, known: list[str]) -> None:
        """DataError for a table that lacks one of the three columns."""
        row = dict.fromkeys(known)
        for what, given, names in (
            ("picture", self.image, IMAGES),
            ("question", self.question, QUESTIONS),
            ("answer", self.answer, ANSWERS),
        ):
            numbered = what == "picture" and given is None and _list_numbered(row)
            if numbered or set(known) & set((given,) if given else names):
                continue
            field = "image" if what == "picture" else what
            remedy = f"set `{field}` to the column, or `columns` for a file without a header line"
            if what == "picture":
                remedy += "; records without pictures are read with kind=text, from JSONL"
            message = f"no column with the {what}"
            expected, given = given or ", ".join(names), shorten(known, 200)
            raise DataError(
                message, expected=expected, given=given, origin=self.files[0], remedy=remedy
            )

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The columns that are read of a row: what comes first has rivals."""
        read = [*ASIDE, _first(record, self.question, QUESTIONS)]
        read += [_first(record, self.answer, ANSWERS)]
        read += [self.image] if self.image else [*IMAGES, *_list_numbered(record)]
        read += [ABOUT] if "instruction" in read else []
        return dict.fromkeys(name for name in read if name)

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A row as a sample; it has no caption to be replaced."""
        question = self._text(record, origin)
        answer = _field(record, self.answer, ANSWERS, "answer", origin)
        images = tuple(self.picture(each, origin) for each in self._images(record, origin))
        return answered_sample(question, answer, images, self.prompts, index, record, origin)

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """A row, and what of it is not read."""
        sample, lost = super().explained(index, words)
        return sample, lost + Counter({BLIND: int(not sample.images)})

    def key(self, index: int, field: str | None) -> str:
        """The path of a row's first picture, or one of its columns, as text."""
        record, origin = self.record(index)
        if field is not None:
            return str(field_of(record, field, origin))
        return str(next(iter(self._images(record, origin)), ""))

    def _text(self, record: Mapping[str, Any], origin: str) -> str:
        """The question, and what it is about where it is an instruction."""
        said = _field(record, self.question, QUESTIONS, "question", origin)
        question = text_of(said, "question", origin)
        about = (
            record.get(ABOUT) if _first(record, self.question, QUESTIONS) == "instruction" else ""
        )
        about = text_of("" if about is None else about, ABOUT, origin)
        return f"{question}\n\n{about}" if about else question

    def _images(self, record: Mapping[str, Any], origin: str) -> list[Any]:
        """What names or holds each picture of a row."""
        if self.image is not None:
            return list_pictures(_read_list(field_of(record, self.image, origin), origin), origin)
        found = list_pictures(_read_list(one_of(record, IMAGES, origin), origin), origin)
        numbered = [
            record[name] for name in _list_numbered(record) if record[name] not in (None, "")
        ]
        if found and numbered:
            expected, given = "one of them", "`image` and numbered ones"
            message = "two kinds of columns with pictures"
            raise DataError(message, expected=expected, given=given, origin=origin)
        return found or numbered


def answered_sample(
    question: str,
    answers: Any,
    images: tuple[ImageSource, ...],
    prompts: Sequence[str],
    number: int,
    beside: Mapping[str, Any],
    origin: str,
) -> Sample:
    """A question about pictures and its answer, or of several answers the one given most often.

    The pictures stand where `<image>` stands in the question, else before it. `beside` is the
    record, whose system text becomes the first turn. DataError: no answer, one that is no text.
    """
    given = answers if isinstance(answers, list) else [answers]
    # VQAv2 on the Hub has each annotator's answer as a struct.
    plain = [each.get("answer") if isinstance(each, Mapping) else each for each in given]
    said = [read_answer(each, origin) for each in plain]
    if not said:
        raise DataError("the question has no answer", origin=origin)
    answer, parts = most_given(said), asked(question, prompts, number)
    if PLACEHOLDER in question:
        check_places(origin, len(images), [("user", str(parts[0]))])
        pieces = str(parts[0]).split(PLACEHOLDER)
        placed: list[Part] = [pieces[0]]
        for place, piece in enumerate(pieces[1:]):
            placed += [ImagePart(place), piece]
        parts = tuple(part for part in placed if part != "")
    else:
        parts = (*(ImagePart(place) for place in range(len(images))), *parts)
    turns = (Turn("user", parts), Turn("assistant", (answer,) if answer else ()))
    return one_conversation(origin, images, turns, beside)


def read_answer(value: Any, origin: str) -> str:
    """An answer as text; a whole number as its digits. DataError for other types: a fraction and a
    truth can be said in several ways."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        expected, given = "a text or a whole number", shorten(value)
        remedy = "write the column as text, the way the model should say it"
        raise DataError(
            "bad `answer`", expected=expected, given=given, origin=origin, remedy=remedy
        )
    return text_of(value, "answer", origin)


def _first(record: Mapping[str, Any], chosen: str | None, names: tuple[str, ...]) -> str | None:
    """The column that was chosen, else the first of these that holds something."""
    return chosen or next((name for name in names if record.get(name) not in (None, "", [])), None)


def _field(
    record: Mapping[str, Any], chosen: str | None, names: tuple[str, ...], what: str, origin: str
) -> Any:
    """What stands in the column of a question or an answer; `answers` of a CSV may be JSON."""
    name = _first(record, chosen, names)
    if name is None:
        empty = [each for each in names if each in record]
        remedy = f"`{empty[0]}` is empty; fill it in" if empty else suggestion(what, record)
        expected = ", ".join(names)
        given = ", ".join(map(str, record))[:200]
        raise DataError(
            f"this row has no {what}", expected=expected, given=given, origin=origin, remedy=remedy
        )
    value = field_of(dict(record), name, origin)
    if name != "answers":
        return value
    return [each for each in _read_list(value, origin) if each not in (None, "")]


def _list_numbered(record: Mapping[str, Any]) -> list[str]:
    """Columns image_1, image_2, … in the order of their numbers."""
    found = {name: match for name in record if (match := NUMBERED.fullmatch(str(name)))}
    return sorted(found, key=lambda name: int(found[name][1]))


def _read_list(value: Any, origin: str) -> list[Any]:
    """The values of a list, also of one that a cell holds as JSON; anything else is alone."""
    if isinstance(value, str) and LIST.match(value):
        remedy = 'a cell that begins with [ holds a JSON list, ["like", "this"]'
        value = json_value(value, origin, remedy)
    return value if isinstance(value, list) else [value]
