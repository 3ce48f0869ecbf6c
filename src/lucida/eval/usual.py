"""What a preset usually scores: the spread over seeds and machines, kept beside the recipes.

    benchmarks/reliability.py --write ─▶ recipes/usual.json ─▶ the table of the demo

A single run says little about a recipe: beside its scores stands what other seeds and processors
gave. The file holds the recipe that was measured, so figures of an older one are not shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from lucida.core.files import atomic_write
from lucida.core.recipe import PRESETS
from lucida.core.spec import Recipe

FILE = PRESETS / "usual.json"


def usual_scores(recipe: Recipe, file: Path = FILE) -> dict | None:
    """The entry of a recipe: `how` it was measured, `runs`, and for every task of `tasks` the
    `lowest`, `median` and `highest` score as results.json holds them.

    None where nothing was measured, or where model or stages are no longer those measured.
    """
    entry = json.loads(file.read_text(encoding="utf-8")).get(recipe.name) if file.exists() else None
    return entry if entry is not None and entry["of"] == what_counts(recipe) else None


def write_usual_scores(
    recipe: Recipe, results: Sequence[Mapping], how: str, file: Path = FILE
) -> None:
    """Keep the spread of the `tasks` of several results.json as the entry of this recipe."""
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    tasks = {}
    for name in results[0]:
        scores = [each[name]["score"] for each in results]
        values = {"lowest": min(scores), "median": median(scores), "highest": max(scores)}
        tasks[name] = {key: round(value, 4) for key, value in values.items()}
    entries[recipe.name] = {
        "how": how,
        "runs": len(results),
        "tasks": tasks,
        "of": what_counts(recipe),
    }
    atomic_write(file, json.dumps(entries, indent=1) + "\n")


def what_counts(recipe: Recipe) -> dict:
    """What the scores hang on: the model and the stages, as far as they differ from defaults (a
    later Lucida may have more of these) and without looks on the way."""
    return recipe.model_dump(
        mode="json",
        include={"model": True, "stages": True},
        exclude={"stages": {"__all__": {"evaluate_every", "validate_every", "checkpoint_every"}}},
        exclude_defaults=True,
    )
