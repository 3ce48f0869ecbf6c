"""Loading parts of a checkpoint: quietly, and complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

from lucida.core.errors import ModelError, PartError


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Errors only: no progress bar, no table of weights that are left out on purpose."""
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reachable(path: str, field: str) -> Iterator[None]:
    """Turns "not here, and the Hub does not answer" into a PartError that names the part."""
    try:
        yield
    except OSError as problem:
        if problem.errno is not None:  # the disk's own trouble is told elsewhere
            raise
        fetch = f"bring it here (`hf download {path}` where there is a network) or "
        raise PartError(
            f"`{path}` is not on this machine and cannot be had from the Hub",
            given=str(problem).strip().partition("\n")[0],
            origin=field,
            remedy=f"check the name, {'' if path[:1] in './~' else fetch}name a folder that has it",
        ) from problem


def complete(report: dict[str, Any], origin: str, unused: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint that lacks weights: transformers would make them up at random.

    `unused` names modules whose weights do not matter.
    """
    mismatched = {entry[0] for entry in report.get("mismatched_keys", ())}
    wrong = sorted(
        name
        for name in set(report["missing_keys"]) | mismatched
        if not name.startswith(tuple(f"{module}." for module in unused))
    )
    if wrong:
        listed = ", ".join(wrong[:5])
        raise ModelError(
            f"{len(wrong)} weights are missing or have another shape: {listed}",
            origin=origin,
            remedy="get the checkpoint again, or check that it is a model of the type it names",
        )
