"""Values of data files, read strictly: what two readers would understand differently is refused.

text or bytes ─json_value─▶ value ─number_in─▶ float, ─rating_in─▶ float or NaN
"""

from __future__ import annotations

import contextlib
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

from lucida.core.errors import DataError, shorten
from lucida.core.files import take_pairs
from lucida.data.sources.scanning import BYTE_ORDER_MARK, refuse_other_encodings


def read_text(path: Path, origin: object = None) -> str:
    """All of a text file, its line ends as line feeds. DataError: what `decode_text` refuses, and
    what is no file (a pipe would be waited for)."""
    origin = path if origin is None else origin
    if path.exists() and not path.is_file():
        raise DataError("cannot be read: it is no file", origin=origin)
    try:
        text = decode_text(path.read_bytes(), origin)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", origin=origin) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes, origin: object) -> str:
    """A text in UTF-8 without its byte order mark. DataError: another encoding, an archive, a
    pointer of Git LFS."""
    refuse_other_encodings(content, origin)
    content = content.removeprefix(BYTE_ORDER_MARK)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        message, remedy = f"not UTF-8 (byte {error.start})", "convert it to UTF-8, or get it again"
        raise DataError(message, origin=origin, remedy=remedy) from error


def json_value(content: str | bytes, origin: object, remedy: str | None = None) -> Any:
    """What a JSON text holds. DataError: broken or nested too deeply, a key that stands twice in
    one object (whose first value would be lost), numbers of more than 4,300 digits."""
    try:
        if isinstance(content, bytes):
            content = content.decode(json.detect_encoding(content))
        return _PARSER.decode(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON: {error}", origin=origin, remedy=remedy) from error


_PARSER = json.JSONDecoder(object_pairs_hook=take_pairs)


def number_in(value: object, name: str, origin: object) -> float:
    """A number as a float. DataError: another type (true and false are none), NaN, infinity, or
    more than a float holds."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found):
            return found
    expected, given = "a finite number", shorten(value)
    raise DataError(f"bad `{name}`", expected=expected, given=given, origin=origin)


def rating_in(value: object, name: str, origin: object) -> float:
    """A number that a filter goes by, also one that is written as text; NaN, which reaches no
    limit, where none is given (null, an empty text, NaN). DataError as of `number_in`."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and math.isnan(value):
        return math.nan
    return number_in(value, name, origin)
