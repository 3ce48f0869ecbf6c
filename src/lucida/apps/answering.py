"""Who answers, from what is written on a command line: a run, `hf:FOLDER`, or an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError

if TYPE_CHECKING:
    from lucida.eval.asking import Answerer

WEB = ("http://", "https://")
"""How an address of the web begins; a folder may be called `http-run`."""
ELSEWHERE = ("hf:", *WEB)
"""How a model begins that is no run."""


def make_loader(target: str, model: str | None, boxes: str | None) -> Callable[[Path], Answerer]:
    """What makes the answerer of a model that is no run."""
    if boxes is not None:
        from lucida.eval.answerers.written_box import check_unit

        check_unit(boxes)  # before a model is loaded
    if target.startswith("hf:"):
        from lucida.eval.answerers.transformers_model import load_answerer

        return lambda folder: load_answerer(target.removeprefix("hf:"), boxes)
    from lucida.eval.answerers.endpoint import EndpointAnswerer

    return lambda folder: EndpointAnswerer(target, model, boxes=boxes or "form")


def check_named(target: str, model: str | None) -> None:
    """RunError for an endpoint without the name of a model."""
    if target.startswith(WEB) and model is None:
        raise RunError(
            "an endpoint serves models by name", origin=target, remedy="add --model NAME"
        )


def check_judge(address: str | None, model: str | None) -> None:
    """RunError for a judge without an address or a name."""
    if (address is None) != (model is None):
        missing = "--judge URL" if address is None else "--judge-model NAME"
        raise RunError("a judge has an address and a name", remedy=f"add {missing}")
    if address is not None and not address.startswith(WEB):
        raise RunError(
            "a judge is asked at the address of an OpenAI-compatible endpoint",
            expected="--judge http://HOST/v1",
            given=address,
        )


def open_answerer(target: str, model: str | None = None) -> Answerer:
    """The answerer of a run, a model of transformers or an endpoint, which says who it is.

    RunError: no run there, an endpoint without the name of a model.
    """
    check_named(target, model)
    if target.startswith(ELSEWHERE):
        return make_loader(target, model, None)(Path())
    if model is not None:
        raise RunError("--model names the model of an endpoint", given=target)
    from lucida.eval.answerers.lucida_model import load_answerer
    from lucida.eval.store import weights_hash

    answerer = load_answerer(Path(target))
    answerer.identity = {"weights": weights_hash(Path(target))}
    return answerer
