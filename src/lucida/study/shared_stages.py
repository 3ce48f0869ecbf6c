"""First stages that runs of a study have in common: one trains them, the others go on from there.

    STUDY/stages/KEY/     a run as it stood at the end of a stage that another run begins with
      checkpoints/step-N  its checkpoint
      metrics.jsonl, dropped.jsonl, inputs.json, place.json

A run that finds its first stages there begins as if it had been stopped at their end, so it ends
with the weights that it would have had alone, bit for bit. The folder goes when every run of the
study has its outcome.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.files import atomic_folder, link_or_copy
from lucida.core.progress import say
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder, read_json
from lucida.core.spec import Recipe
from lucida.study.keys import STAGES, keys_of_stages
from lucida.training.observe import Observer

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

RECORDS = ("metrics.jsonl", "dropped.jsonl", "inputs.json")


class KeepStages(Observer):
    """Keeps a run as it stands at the end of a stage that another run of the study begins with."""

    name = "stage kept"
    between_stages = True

    def __init__(self, run: Path, recipe: Recipe, others: Sequence[Path], place: Mapping) -> None:
        """others: recipes of the study."""
        self.run, self.place = run, place
        begun = [set(keys_of_stages(load_recipe(file))) for file in others]
        self.keys = keys_of_stages(recipe)
        self.wanted = [sum(key in keys for keys in begun) > 1 for key in self.keys]

    def look(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        step: int,
        earlier: Sequence[Mapping[str, object]],
    ) -> Mapping[str, object] | None:
        """Which key it was kept under, if it was."""
        ended = len(earlier)
        if not ended or not self.wanted[ended - 1]:
            return None
        kept = self.run.parents[1] / STAGES / self.keys[ended - 1]
        checkpoint = self.run / "checkpoints" / f"step-{step:06d}"
        if kept.exists() or not checkpoint.is_dir():
            return None
        with atomic_folder(kept) as aside:
            inside = aside / "checkpoints" / checkpoint.name
            shutil.copytree(checkpoint, inside, copy_function=link_or_copy)
            for name in RECORDS:
                if (self.run / name).is_file():
                    shutil.copyfile(self.run / name, aside / name)
            (aside / "place.json").write_text(json.dumps(self.place))
        return {"key": self.keys[ended - 1]}


def watch_stages(
    run: Path, recipe: Recipe, others: Sequence[Path], place: Mapping
) -> list[KeepStages]:
    """Who keeps stages of a run that another begins with, if there are any; nobody where the run
    was begun without, as a run has all records between its stages or none."""
    keeping = KeepStages(run, recipe, others, place)
    begun = (run / "checkpoints").exists()
    known = any(keeping.name in row for row in RunFolder(run).metrics.read())
    return [keeping] if any(keeping.wanted) and (known or not begun) else []


def take_stages(run: Path, recipe: Recipe, place: Mapping) -> int:
    """Begin a run behind as many of its first stages as another has trained in the same place;
    gives how many. A run that has trained anything itself is left as it is."""
    if (run / "checkpoints").exists():
        return 0
    keys = keys_of_stages(recipe)
    for number in range(len(keys), 0, -1):
        kept = run.parents[1] / STAGES / keys[number - 1]
        if not (kept / "place.json").is_file() or read_json(kept / "place.json") != place:
            continue
        names = [stage.name for stage in recipe.stages[:number]]
        RunFolder(run).prepare().write_recipe(recipe)
        for name in RECORDS:
            if (kept / name).is_file():
                (run / name).write_text("".join(_lines_of(kept / name, names)), encoding="utf-8")
        # Last of all: a run with checkpoints has trained.
        with atomic_folder(run / "checkpoints") as aside:
            stands = kept / "checkpoints"
            shutil.copytree(stands, aside, copy_function=link_or_copy, dirs_exist_ok=True)
        say(f"{', '.join(names)}: trained by another run of this study, which it goes on from")
        return number
    return 0


def _lines_of(file: Path, stages: Sequence[str]) -> Iterator[str]:
    """What a file says of these stages and the parts of the model."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        inputs = {
            place: facts
            for place, facts in json.loads(text).items()
            if not place.startswith("stages.") or place.split(".")[1] in stages
        }
        yield json.dumps(inputs, indent=2) + "\n"
        return
    yield from (
        f"{line}\n" for line in text.splitlines() if json.loads(line).get("stage") in stages
    )
