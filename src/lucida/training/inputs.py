"""inputs.json: what a run was begun with besides its recipe, so that it goes on with the same.

    {"stages.sft.mixture.sources.world": {"records": "12,288", "text of 128 records": "5f0c…", …},
     "model.language": {"file model.safetensors": "3,412,992 bytes, 77ab…", …}}

Data, parts and texts that a recipe names may change while it stays as it is. A run that has trained
anything refuses other ones, each difference named, as it refuses another recipe; a run that has not
begins anew with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.files import atomic_write
from lucida.core.progress import say
from lucida.core.runs import RunFolder, read_json
from lucida.core.spec import ModelSpec, Recipe, StageSpec
from lucida.core.start import find_start
from lucida.data.fingerprint import Facts, file_fact, part_facts, source_facts
from lucida.data.mixture import Source
from lucida.model.parts import part_path
from lucida.training.run import Run

FILE = "inputs.json"
TOLD = 12
"""Differences that a message names; the rest are counted."""

Opened = Sequence[tuple[StageSpec, dict[str, Source]]]
"""Of every stage the sources by name, as they were opened, one that only validates too."""


def inputs(recipe: Recipe, opened: Opened) -> dict[str, Facts]:
    """What the recipe's sources, parts and texts are now."""
    found: dict[str, Facts] = {}
    known: dict[str, Facts] = {}
    for stage, sources in opened:
        for name, source in sources.items():
            place = f"stages.{stage.name}.mixture.sources.{name}"
            spec = stage.mixture.sources.get(name)
            if spec is None:
                spec, place = stage.validation.source, f"stages.{stage.name}.validation.source"
            # Stages often read the same source, in other shares: it is looked at once.
            key = spec.model_dump_json(exclude={"weight"})
            if key not in known:
                known[key] = source_facts(spec, source)
            found[place] = known[key]
    for place, path in parts_of(recipe.model).items():
        found[place] = part_facts(part_path(path))
    retention = recipe.evaluation.retention
    if retention is not None and retention.file is not None:
        found["evaluation.retention.file"] = {"file": file_fact(Path(retention.file))}
    return found


def parts_of(spec: ModelSpec) -> dict[str, str]:
    """Place in the recipe → path of each part, or of the one model that a run goes on from."""
    if spec.start is not None:
        return {"model.from": str(find_start(spec.start))}
    vision, parts = spec.vision, {"model.language": spec.language.path}
    for number, each in enumerate([vision, *vision.more] if vision is not None else []):
        parts[f"model.vision.more.{number - 1}" if number else "model.vision"] = each.path
    return parts


def differences(before: dict[str, Facts], now: dict[str, Facts]) -> list[str]:
    """One line for each fact that is another."""
    lines = []
    for place in [*before, *(each for each in now if each not in before)]:
        old, new = before.get(place, {}), now.get(place, {})
        for what in [*old, *(each for each in new if each not in old)]:
            if old.get(what) != new.get(what):
                values = f"{old.get(what, 'not there')} -> {new.get(what, 'not there')}"
                lines.append(f"{place}, {what}: {values}")
    return lines


def check_inputs(run: Run, opened: Opened, accept: bool) -> list[str]:
    """Compare with what the run was begun with, and write it down; gives what has changed.

    RunError on every rank when anything differs, the run has trained, and `accept` is False; or
    when ranks, perhaps of several machines, have found something different.
    """
    now = inputs(run.recipe, opened)
    named = {
        f"{place}, {what}": fact for place, facts in now.items() for what, fact in facts.items()
    }
    run.engine.require_same(named, "bring the same data and parts to every node")

    def check() -> list[str]:
        return _check_files(run, now, accept)

    return run.engine.decided_first(check, "the first process refused the data of this run")


def _check_files(run: Run, now: dict[str, Facts], accept: bool) -> list[str]:
    path = run.folder.path
    before = read_inputs(run.folder)
    # A run that begins behind stages which another has trained has yet to write down the data of
    # its own ones.
    ahead = {stage.name for stage in run.recipe.stages[run.position.stage + 1 :]}
    known = {
        place: facts
        for place, facts in now.items()
        if before is None or place in before or place.split(".")[1] not in ahead
    }
    changes = [] if before is None else differences(before, known)
    if before is None and run.saved is not None:
        say(f"{path}: begun before data were written down; they are taken as they are")
    if changes:
        told = "\n  ".join(changes[:TOLD])
        told += f"\n  and {len(changes) - TOLD} more" if len(changes) > TOLD else ""
        if run.saved is not None and not accept:
            raise RunError(
                f"this run was begun with other data or parts:\n  {told}\n",
                origin=path,
                remedy="bring them back, train in another folder with --run DIR, or go on with "
                "what is there now: --accept-changes",
            )
        say(f"{path}: data or parts have changed, and it goes on with those of now:\n  {told}")
    if before != now:
        atomic_write(path / FILE, json.dumps(now, indent=2) + "\n")
    return changes


def read_inputs(run: RunFolder) -> dict[str, Facts] | None:
    """What stands in inputs.json, None where there is no such file; RunError when it is damaged."""
    path = run.path / FILE
    if not path.exists():
        return None
    found = read_json(path)
    if not all(isinstance(facts, dict) for facts in found.values()):
        raise RunError("not a mapping of facts", origin=path, remedy="delete the file")
    return found
