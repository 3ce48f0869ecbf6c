"""The garbage collector while a command starts.

Importing torch and transformers makes two thirds of a million objects, all of which stay. Python
looks through them again and again for what could go, which took a tenth of the time until
`lucida chat` could answer (LOG.md).
"""

from __future__ import annotations

import gc
import sys

RARELY = 50_000
"""New objects before the collector looks, while modules come; some tens of megabytes at most."""

_modules, _usual = 0, (0, 0, 0)


def rest_while_importing() -> None:
    """Let the collector look rarely until no module has come between two of its looks; from then
    on it works as it did before."""
    global _modules, _usual
    if _watch in gc.callbacks:
        return
    _modules, _usual = 0, gc.get_threshold()
    gc.callbacks.append(_watch)
    gc.set_threshold(RARELY, *_usual[1:])


def _watch(phase: str, told: dict[str, int]) -> None:
    """Python calls it at the beginning and the end of each look."""
    global _modules
    if phase != "stop":
        return
    if len(sys.modules) == _modules:
        gc.callbacks.remove(_watch)
        gc.set_threshold(*_usual)
    _modules = len(sys.modules)
