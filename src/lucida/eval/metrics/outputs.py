"""Whatever came back as an answer, as text: the first step of every scorer."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lucida.core.errors import DataError


def as_text(output: object) -> str:
    """An output as the text that is scored; never raises.

    Text stays as it is, bytes are read as UTF-8, a number is written out. None, NaN (a hole in a
    table) and whatever else is no answer in words are the empty answer.

    Worked example: "Two." -> "Two."; b"Two." -> "Two."; 2 -> "2"; None, nan, ["2"] -> "".
    """
    if isinstance(output, str):
        return output
    if isinstance(output, bytes | bytearray):
        return bytes(output).decode("utf-8", "replace")
    if not isinstance(output, int | float) or (isinstance(output, float) and math.isnan(output)):
        return ""
    try:
        return str(output)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return ""


def read_references(
    answers: Iterable[object], scorer: str, many: tuple[int, ...] = ()
) -> list[str]:
    """The true answers as texts; numbers are written out. DataError for one text instead of a list
    (its letters would each be an answer), for None, for a reference that is neither text nor
    number, and where there are others than as `many` as the scorer is defined for.

    Worked example: ["2", 2] -> ["2", "2"].
    """
    remedy = "put the annotators' answers into a list"
    if isinstance(answers, str | bytes) or not isinstance(answers, Iterable):
        kind = "text" if isinstance(answers, str | bytes) else type(answers).__name__
        given = f"the {kind} {str(answers)[:40]!r}"
        raise DataError(f"{scorer} needs a list of references", given=given, remedy=remedy)
    answers = list(answers)
    for answer in answers:
        if not isinstance(answer, str | int | float) or answer != answer:
            given = f"{type(answer).__name__} among {len(answers)}"
            raise DataError(f"{scorer} needs texts as references", given=given, remedy=remedy)
    if many and len(answers) not in many:
        raise DataError(
            f"{scorer} is defined for another number of references",
            expected=" or ".join(map(str, many)),
            given=len(answers),
            remedy="pass every annotator's answer, repeated answers too",
        )
    return [as_text(answer) for answer in answers]
