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
from collections.abc import Iterable

_ABSENT = object()


class LucidaError(Exception):
    """One mistake in plain words.

    `what` is a sentence. `expected` and `given` are the two values that disagree, `origin` names
    the file, record or override it came from, `remedy` says what to do:

        DataError(
            "the record has another number of images than placeholders",
            expected=2, given=1, origin="train.json: record 17",
            remedy="add the missing image or drop the record with mixture.on_error=skip",
        )
    """

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
        values.append(f"expected {expected}")
    if given is not _ABSENT:
        values.append(f"got {given}")
    if values:
        message += f" ({', '.join(values)})"
    return message if remedy is None else f"{message}; {remedy}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` is most likely a slip of, or None when none is close."""
    by_fold = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Remedy text for a name that does not exist: the nearest one, then all of them."""
    names = [str(name) for name in known]
    close = nearest(word, names)
    listed = f"known: {', '.join(names)}" if names else "there are none"
    return f"did you mean `{close}`? {listed}" if close else listed
