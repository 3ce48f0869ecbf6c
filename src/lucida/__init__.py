"""Lucida: a workbench for vision-language models.

    import lucida

    run = lucida.train("mini")                    # or a Recipe, or a recipe file
    results = lucida.evaluate(run)
    model, processor = lucida.load(run)
    answers = lucida.ask(run, [("cat.png", "what is it?"), "and what is 2 + 2?"])
    seen = lucida.look(run, "cat.png", "what is it?")   # what it looked at

After `lucida.register()`, transformers' `AutoModelForImageTextToText.from_pretrained(run)` and
`AutoProcessor.from_pretrained(run)` work too. Importing Lucida imports neither torch nor
transformers: the names below load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lucida.core.errors import LucidaError as LucidaError
    from lucida.core.recipe import load_recipe as load_recipe
    from lucida.core.spec import Recipe as Recipe
    from lucida.eval.questions import ask as ask
    from lucida.eval.questions import likelihoods as likelihoods
    from lucida.eval.questions import stream_answers as stream_answers
    from lucida.eval.run import evaluate_run as evaluate
    from lucida.interpretability.inside import look as look
    from lucida.model.checkpoint import load as load
    from lucida.model.registration import register as register
    from lucida.training.loop import train as train

__version__ = "0.1.0"

__all__ = [
    "LucidaError",
    "Recipe",
    "ask",
    "evaluate",
    "likelihoods",
    "load",
    "load_recipe",
    "look",
    "register",
    "stream_answers",
    "train",
]

_HOMES = {
    "LucidaError": "lucida.core.errors:LucidaError",
    "Recipe": "lucida.core.spec:Recipe",
    "ask": "lucida.eval.questions:ask",
    "likelihoods": "lucida.eval.questions:likelihoods",
    "stream_answers": "lucida.eval.questions:stream_answers",
    "evaluate": "lucida.eval.run:evaluate_run",
    "load": "lucida.model.checkpoint:load",
    "load_recipe": "lucida.core.recipe:load_recipe",
    "look": "lucida.interpretability.inside:look",
    "register": "lucida.model.registration:register",
    "train": "lucida.training.loop:train",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lucida' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
