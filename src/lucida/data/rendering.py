"""Rendering a chat template that somebody else wrote: in bounded time, and with one kind of error.

transformers renders in Jinja's sandbox, where no attribute leads out and nothing is changed. What
the sandbox does not bound is counted here: lines of the template that run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from lucida.core.errors import DataError, LucidaError

Rendered = TypeVar("Rendered")

LINES = 2_000_000
"""Lines of a template that may run for one conversation; a long one takes some thousands."""
PLACE = "<template>"
"""Jinja's name for the file of a text."""


class EndlessError(Exception):
    """A template that ran for too many lines."""


def render_bounded(render: Callable[[], Rendered]) -> Rendered:
    """What `render` gives; DataError for whatever a template raises, and for one that does not end
    within `LINES` lines, the same on every machine."""
    left = LINES

    def count(frame: FrameType, event: str, value: Any) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise EndlessError(f"it runs for more than {LINES:,} lines")
        return count

    def enter(frame: FrameType, event: str, value: Any) -> Any:
        return count if frame.f_code.co_filename == PLACE else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        return render()
    except LucidaError:
        raise
    except Exception as problem:  # a template may divide by zero, or anything else
        told = str(problem) or type(problem).__name__
        raise DataError(f"the chat template cannot write this: {told}") from problem
    finally:
        sys.settrace(before)
