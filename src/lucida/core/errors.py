"""Errors that a user can act on: what was wrong, both values, where it came from, what to do.

    LucidaError
    ├── RecipeError   a recipe, preset name or override that cannot be followed
    ├── DataError     an image, record, template or batch that cannot be used
    ├── ModelError    parts that do not fit together, weights that are missing or differ
    ├── RunError      a run folder that cannot be written, read, resumed or shared
    └── PartError     a pretrained part that is missing or fails its card

The command line prints a `LucidaError` as one message and exits with 1; any other exception is a
bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

_ABSENT = object()


class LucidaError(Exception):
    """One mistake in plain words.

    `what` is a sentence. `expected` and `given` are the two values that disagree, `origin` names
    the file, record or override it came from, `remedy` says what to do:

        DataError(
            "the record has another number of images than placeholders",
            expected=2, given=1, origin="train.json: record 17",
            remedy="add the missing image or remove the record",
        )
    """

    told = False
    """Whether another process says it: of several that meet the same mistake one speaks."""

    def __init__(
        self,
        what: str,
        *,
        expected: object = _ABSENT,
        given: object = _ABSENT,
        origin: object | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(_sentence(what, expected, given, origin, remedy))

    def __str__(self) -> str:
        return str(self.args[0])


class RecipeError(LucidaError):
    """A recipe, preset name or override that cannot be followed."""


class DataError(LucidaError):
    """An image, record, template or batch that cannot be used."""


class TooLongError(DataError):
    """A prompt that leaves no room for an answer."""


class ModelError(LucidaError):
    """Parts that do not fit together, or weights that are missing or differ."""


class RunError(LucidaError):
    """A run folder that cannot be written, read, resumed or shared."""


class PartError(LucidaError):
    """A pretrained part that is missing or fails its card."""


def _sentence(
    what: str, expected: object, given: object, origin: object | None, remedy: str | None
) -> str:
    # The message is composed once and kept in `args`, so that errors survive the pickling
    # between data workers and the training process.
    message = what if origin is None else f"{origin}: {what}"
    values = []
    if expected is not _ABSENT:
        values.append(f"expected {_prepare_value(expected)}")
    if given is not _ABSENT:
        values.append(f"got {_prepare_value(given)}")
    if values:
        message += f" ({', '.join(values)})"
    message = message if remedy is None else f"{message}; {remedy}"
    # Half a surrogate pair, of a damaged text or file name, can be neither printed nor stored.
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def _prepare_value(value: object) -> object:
    """A value as a message has it: data may hold anything, so nothing endless is written out."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}…"
    return shorten(value, 400) if isinstance(value, (int, Mapping, *_LISTS)) else value


_LISTS = (list, tuple, set, frozenset)
_LONGEST_NUMBER = 4096
"""Bits of a whole number that is written out."""
_LONGEST_TEXT = 2000
_MOST_NAMES, _LONGEST_NAME = 40, 80
"""Names that a remedy lists, and signs of each: a record may have a million keys."""


def shorten(value: object, most: int = 80) -> str:
    """A value for a message, as `repr` writes it but no longer than `most` signs.

    It costs time and memory for what is shown alone: values of damaged files may be lists that
    hold one another a billion times, or numbers with a million digits.
    """
    shown = ""
    for piece in _write_pieces(value, most):
        shown += piece
        if len(shown) > most:
            return f"{shown[:most]}…"
    return shown


def _write_pieces(value: object, most: int) -> Iterator[str]:
    """The pieces of what `repr` would write; each is made when it is asked for."""
    if isinstance(value, str | bytes):
        yield repr(value[: most + 1])
    elif isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        yield f"a whole number of {value.bit_length():,} bits"
    elif isinstance(value, Mapping):
        yield "{"
        for number, (key, each) in enumerate(islice(value.items(), most)):
            yield from (", " if number else "", *_write_pieces(key, most), ": ")
            yield from _write_pieces(each, most)
        yield "}"
    elif isinstance(value, _LISTS):
        begin, end = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        yield begin
        for number, each in enumerate(islice(value, most)):
            yield ", " if number else ""
            yield from _write_pieces(each, most)
        yield f",{end}" if isinstance(value, tuple) and len(value) == 1 else end
    else:
        yield repr(value)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` is most likely a slip of, or None when none is close."""
    by_fold = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Remedy text for a name that does not exist: the nearest one, then all of them."""
    names = [str(name)[:_LONGEST_NAME] for name in islice(known, 50 * _MOST_NAMES)]
    close = nearest(word[:_LONGEST_NAME], names)
    more = ", …" if len(names) > _MOST_NAMES else ""
    listed = f"known: {', '.join(names[:_MOST_NAMES])}{more}" if names else "there are none"
    return f"did you mean `{close}`? {listed}" if close else listed
