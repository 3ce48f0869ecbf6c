"""Rows of a table with pictures inside, as samples; which rows are kept by their ratings.

images, texts [{user, assistant}]      the Cauldron, FineVision
messages | conversations (+ images)    as in the sources of these names
image, question, answer | answers      as PathVQA and others on the Hub have them
image, text | caption                  one picture, one text
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from lucida.core.errors import DataError, shorten, suggestion
from lucida.data.decoding import format_of
from lucida.data.encoded import find_held_source, looks_encoded
from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.data.source import RecordSource, Shape
from lucida.data.sources.conversation import (
    ASIDE,
    SPOKEN,
    list_pictures,
    make_captioned,
    one_conversation,
    one_of,
    place_images,
    read_turns,
    text_of,
)
from lucida.data.sources.messages import MESSAGES, message_sample
from lucida.data.sources.prompts import asking, prompts_of
from lucida.data.sources.questions import BLIND, answered_sample
from lucida.data.sources.tables import field_of
from lucida.data.sources.values import rating_in

TEXTS = ("text", "caption", "txt")
PICTURES = ("images", "image", "jpg")
"""Columns of pictures; one of them holds something."""
LAYOUTS = (
    ("texts",), ("messages",), ("conversations",), ("question", "answer", "answers"),
    *((name,) for name in TEXTS),
)  # fmt: skip
"""Columns of text; the first that is not null says how a row is read."""
COLUMNS: Shape = {
    **MESSAGES, **dict.fromkeys((*PICTURES, *TEXTS, "question", "answer")),
    "answers": {"answer": None},
    "texts": {"user": None, "assistant": None},
    "conversations": SPOKEN,
}  # fmt: skip
"""What is read of a row, whatever its layout."""
LOW_TURNS = "turns rated too low"


class Ratings:
    """Which rows and turns are good enough: column → smallest value.

    A number rates the row. A list with one number for each turn rates turns; a row that keeps none
    of them is dropped. A missing rating (null) is not good enough, nor is what is no number. `kept`
    are the rows that stay, `dropped` counts the rows that go, by the column that they fail.

    Worked example: at_least {"relevance_ratings": 3} keeps of a row with the ratings [5, 2] its
    first turn, and drops a row with [1, 2].
    """

    def __init__(self, at_least: dict[str, float]) -> None:
        self.at_least = at_least
        self.dropped: Counter[str] = Counter()

    def kept(self, columns: dict[str, Iterable[Any]], rows: int, origin: str) -> np.ndarray | None:
        """Numbers of the rows that stay; None when nothing is asked."""
        if not self.at_least:
            return None
        for name in self.at_least:
            if name not in columns:
                raise DataError(f"no column `{name}` to filter by", origin=origin)
        good = np.ones(rows, dtype=bool)
        for number, values in enumerate(
            zip(*(columns[name] for name in self.at_least), strict=True)
        ):
            row = dict(zip(self.at_least, values, strict=True))
            if (reason := self._reason(row)) is not None:
                good[number] = False
                self.dropped[reason] += 1
        return np.flatnonzero(good)

    def turns(self, row: dict[str, Any]) -> list[int] | None:
        """Numbers of the turns that stay; None when no column rates turns."""
        lists = {n: row[n] for n in self.at_least if isinstance(row.get(n), list)}
        if not lists:
            return None
        many = min(map(len, lists.values()))
        return [
            turn
            for turn in range(many)
            if all(self._fault(name, values[turn]) is None for name, values in lists.items())
        ]

    def _reason(self, row: dict[str, Any]) -> str | None:
        """Why a row goes, None for one that stays."""
        for name, value in row.items():
            fault = None if isinstance(value, list) else self._fault(name, value)
            if fault is not None:
                return fault
        return "every turn is rated too low" if self.turns(row) == [] else None

    def _fault(self, name: str, value: Any) -> str | None:
        """What is wrong with a rating, None where it is good enough."""
        least = self.at_least[name]
        try:
            good = value == math.inf or rating_in(value, name, name) >= least
        except DataError:
            return f"{name} is no number"
        return None if good else f"{name} below {least:g}"


class Numbered(Protocol):
    """Rows by number, each with its origin."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]: ...


class RowSource(RecordSource):
    """Rows as records: all of them, or those whose numbers are `kept`, which `ratings` chose."""

    uses: ClassVar = COLUMNS

    def __init__(
        self,
        rows: Numbered,
        ratings: Ratings,
        kept: np.ndarray | None,
        prompts: list[str] | str | None,
    ) -> None:
        self.rows, self.ratings, self._kept = rows, ratings, kept
        self.prompts = prompts_of(prompts)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that were left out at opening, by reason; they are no records of this source."""
        return dict(self.ratings.dropped)

    def __len__(self) -> int:
        return len(self.rows) if self._kept is None else len(self._kept)

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """The columns that are read of a row, and those that rate it."""
        return columns_read(record) | dict.fromkeys(self.ratings.at_least)

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A row as a sample; with `words` in place of its own caption."""
        return row_sample(record, origin, self.prompts, index, self.ratings, words)

    def explained(self, index: int, words: str | None = None) -> tuple[Sample, Counter[str]]:
        """A row, and what of it is not read: columns, turns that are rated too low, a picture that
        its column does not hold."""
        row, origin = self.record(index)
        sample, lost = self.made(row, origin, index, words), self.unread(row)
        lost[BLIND] += not sample.images and any(name in row for name in PICTURES)
        if words is None and (chosen := self.ratings.turns(row)) is not None:
            lost[LOW_TURNS] += len(row["texts"]) - len(chosen)
        return sample, +lost

    def key(self, index: int, field: str | None) -> str:
        """The file name that a row gives its picture, or one of its columns."""
        return row_key(*self.record(index), field)

    def record(self, index: int) -> tuple[dict[str, Any], str]:
        """A row and where it stands."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[index if self._kept is None else int(self._kept[index])]


def columns_read(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that `row_sample` reads: what it takes first has rivals."""
    layout = next((names for names in LAYOUTS if row.get(names[0]) is not None), ())
    read = {*layout, *PICTURES, *ASIDE}
    if "answers" in layout and row.get("answer") is not None:
        read.discard("answers")
    return {name: inside for name, inside in COLUMNS.items() if name in read}


def row_sample(
    row: dict[str, Any],
    origin: str,
    prompts: list[str],
    number: int,
    ratings: Ratings,
    instead: str | None = None,
) -> Sample:
    """A row as a sample; DataError says which columns were expected.

    `instead` is the caption of its one picture, whatever text the row has.
    """
    if instead is not None:
        return _pair(row, instead, origin, prompts, number)
    if row.get("texts") is not None:
        return _make_rated_sample(row, origin, ratings)
    if ratings.turns(row) is not None:
        expected, given = "`texts`, which have a rating each", shorten(list(row), 200)
        message = "a row whose turns are rated, and that has no such turns"
        raise DataError(message, expected=expected, given=given, origin=origin)
    if row.get("messages") is not None:
        return message_sample(_plain(row), origin, picture)
    if row.get("conversations") is not None:
        images = tuple(picture(each, origin) for each in _images(row, origin))
        return place_images(origin, images, read_turns(row["conversations"], origin), row)
    if row.get("question") is not None:
        return _make_answered_sample(row, origin, prompts, number)
    for name in TEXTS:
        if row.get(name) is not None:
            return _pair(row, row[name], origin, prompts, number)
    raise DataError(
        "no column with text",
        expected=f"texts, messages, conversations, question, {', '.join(TEXTS)}",
        given=shorten(list(row), 400),
        origin=origin,
        remedy=suggestion("texts", row),
    )


def row_key(row: dict[str, Any], origin: str, field: str | None) -> str:
    """The file name that stands with a row's picture, or another column, as text."""
    if field is not None:
        return str(field_of(row, field, origin))
    first = next(iter(_images(row, origin)), None)
    path = first.get("path") if isinstance(first, dict) else None
    if not isinstance(path, str) or not path:
        remedy = "compare another column: set `by` of the captions"
        raise DataError("the picture of this row has no name", origin=origin, remedy=remedy)
    return path


def _pair(row: dict[str, Any], text: Any, origin: str, prompts: list[str], number: int) -> Sample:
    images = _images(row, origin)
    if len(images) != 1:
        expected, given = "one image", len(images)
        raise DataError("no pair", expected=expected, given=given, origin=origin)
    return make_captioned(origin, picture(images[0], origin), text, prompts, number)


def picture(value: Any, origin: str) -> ImageSource:
    """The picture that a cell holds: bytes, or base64. DataError: a path without bytes, or what is
    no picture at all."""
    source = find_held_source(value, origin)
    if source is None:
        raise DataError(
            "the picture is not in the file",
            expected="bytes, a struct with `bytes`, or base64",
            given=shorten(value),
            origin=origin,
            remedy="a table that only names pictures, with one text each, is read with kind=pairs "
            "and images=FOLDER; other tables as JSON with kind=llava, or with the bytes put in",
        )
    return source


def _images(row: dict[str, Any], origin: str) -> list[Any]:
    value = one_of(row, PICTURES, origin)
    if value is None:
        _refuse_unread(row, origin)
        return []
    if isinstance(value, list):
        return list_pictures(value, origin)
    if isinstance(value, bytes | dict | str):
        return [value]
    expected, given = "a picture or a list of pictures", shorten(value)
    raise DataError("bad images", expected=expected, given=given, origin=origin)


def _refuse_unread(row: dict[str, Any], origin: str) -> None:
    """DataError for pictures in a column that is not read: training would go on without them."""
    if any(name in row for name in PICTURES):
        return
    for name, value in row.items():
        if is_picture(value):
            expected, given = " or ".join(PICTURES), f"`{name}`"
            message = "the pictures stand in a column that is not read"
            remedy = f"rename `{name}` to `image`, or leave that column out"
            raise DataError(message, expected=expected, given=given, origin=origin, remedy=remedy)


def is_picture(value: Any) -> bool:
    """Whether a cell holds a picture: bytes or base64 of one, a struct of them, or a list whose
    first value that is there does."""
    if isinstance(value, list):
        value = next((each for each in value if each is not None), None)
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes) and format_of(value[:16]) is not None:
        return True
    return isinstance(value, bytes | str) and looks_encoded(value)


def _make_rated_sample(row: dict[str, Any], origin: str, ratings: Ratings) -> Sample:
    """`images` before the first question, then the turns of `texts` that are rated well enough."""
    texts = row["texts"]
    if not isinstance(texts, list) or not texts or not all(isinstance(t, dict) for t in texts):
        expected, given = "a list of user and assistant", shorten(texts)
        raise DataError("bad `texts`", expected=expected, given=given, origin=origin)
    for name in ratings.at_least:
        if isinstance(rated := row.get(name), list) and len(rated) != len(texts):
            message = f"`{name}` does not rate each turn"
            expected, given = f"{len(texts)} numbers", len(rated)
            raise DataError(message, expected=expected, given=given, origin=origin)
    chosen = ratings.turns(row)
    kept = texts if chosen is None else [texts[n] for n in chosen]
    if not kept:
        raise DataError("every turn is rated too low", origin=origin)
    images = tuple(picture(each, origin) for each in _images(row, origin))
    shown = tuple(ImagePart(number) for number in range(len(images)))
    turns = []
    for number, each in enumerate(kept):
        asked = text_of(each.get("user"), "user", origin)
        answered = text_of(each.get("assistant"), "assistant", origin)
        first = shown if number == 0 else ()
        turns.append(Turn("user", (*first, asked) if asked else first))
        turns.append(Turn("assistant", (answered,) if answered else ()))
    return one_conversation(origin, images, tuple(turns), row)


def _make_answered_sample(
    row: dict[str, Any], origin: str, prompts: list[str], number: int
) -> Sample:
    """A question and its answer, with all pictures of the row."""
    question = text_of(row["question"], "question", origin)
    answers = row["answer"] if row.get("answer") is not None else row.get("answers")
    images = tuple(picture(each, origin) for each in _images(row, origin))
    return answered_sample(question, answers, images, asking(prompts, origin), number, row, origin)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the nulls that a table's structs fill in for absent keys."""
    messages = row["messages"]
    if not isinstance(messages, list):
        return row
    made = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            content = [
                {k: v for k, v in part.items() if v is not None} if isinstance(part, dict) else part
                for part in content
            ]
            message = {**message, "content": content}
        made.append(message)
    return {**row, "messages": made}
