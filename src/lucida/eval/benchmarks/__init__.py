"""The table of benchmarks: one line each, imported when asked for."""

from __future__ import annotations

from functools import cache

from lucida.core.errors import RecipeError
from lucida.core.registry import Table
from lucida.eval.benchmark import Benchmark

_WORLD = "lucida.eval.benchmarks.world"

BENCHMARKS = Table(
    "benchmark",
    {
        "caption": f"{_WORLD}:caption",
        "attribute": f"{_WORLD}:attribute",
        "unanswerable": f"{_WORLD}:unanswerable",
        "reading": f"{_WORLD}:reading",
        "boxes": f"{_WORLD}:boxes",
        "relation": f"{_WORLD}:relation",
        "spatial": f"{_WORLD}:spatial",
        "counting": f"{_WORLD}:counting",
        "presence": f"{_WORLD}:presence",
        "presence-random": f"{_WORLD}:presence_random",
        "presence-popular": f"{_WORLD}:presence_popular",
        "presence-adversarial": f"{_WORLD}:presence_adversarial",
        "diagram": f"{_WORLD}:diagram",
        "comparison": f"{_WORLD}:comparison",
        "attribute-novel": f"{_WORLD}:attribute_novel",
        "boxes-novel": f"{_WORLD}:boxes_novel",
    },
    group="lucida.benchmarks",
    error=RecipeError,
)
"""Name -> what gives a `Benchmark` when called with the keywords `prompts` and `data`."""


@cache
def benchmark(name: str, prompts: str | None = None, data: str | None = None) -> Benchmark:
    """The benchmark of that name, made once per process; an unknown name is an error.

    `prompts` names a set of prompts, None takes the benchmark's own; `data` is the folder of the
    published files, None takes the environment's LUCIDA_DATA. Files are read by `examples` only.
    """
    return BENCHMARKS[name](prompts=prompts, data=data)
