"""Who answers, from what is written on a command line: a run, `hf:FOLDER`, or an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError

if TYPE_CHECKING:
    from lucida.core.results import Results
    from lucida.core.spec import FewerTokensSpec
    from lucida.eval.asking import Answerer
    from lucida.eval.plan import Options
    from lucida.model.few_bits import Weights

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


def read_visual_tokens(written: str | None) -> FewerTokensSpec | None:
    """What `attention:0.25` asks for; RunError for what asks for nothing."""
    if written is None:
        return None
    from pydantic import ValidationError

    from lucida.core.spec import FewerTokensSpec

    way, _, keep = written.partition(":")
    try:
        return FewerTokensSpec.model_validate({"by": way, "keep": keep})
    except ValidationError as problem:
        raise RunError(
            "--visual-tokens: " + "; ".join(each["msg"] for each in problem.errors()),
            expected="WAY:KEEP, such as attention:0.25, random:0.5, grid:16 or merge:0.5",
            given=written,
        ) from problem


def measure_otherwise(
    run: Path,
    names: list | None,
    limit: int | None,
    options: Callable[[], Options] | None,
    out: Path | None,
    weights: Weights | None,
    fewer: FewerTokensSpec | None,
) -> Results:
    """The results of a run whose weights are held in fewer bits, or that is asked with fewer visual
    tokens, beside its own ones."""
    from lucida.core.runs import RunFolder
    from lucida.eval.answerers.lucida_model import load_answerer
    from lucida.eval.run import evaluate_target
    from lucida.eval.store import weights_hash
    from lucida.model.few_bits import check_weights

    spec, words, told = RunFolder(run).recipe.evaluation, [], []
    if weights is not None:
        check_weights(weights)
        words, told = [weights], [f"held as {weights}"]
    if fewer is not None:
        words.append(f"{fewer.by}-{fewer.keep:g}")
        told.append(f"visual tokens {fewer.by}:{fewer.keep:g}")
    folder = out or run / "-".join(words)

    def load(place: Path) -> Answerer:
        answerer = load_answerer(run, weights, fewer or spec.visual_tokens)
        # Trained anew, the run is asked anew.
        answerer.identity = {**answerer.identity, "weights": weights_hash(run)}
        return answerer

    evaluate_target(
        f"{run} {', '.join(told)}",
        load,
        folder,
        spec,
        spec.tasks if names is None else names,
        limit,
        None if options is None else options(),
    )
    return RunFolder(folder).results
