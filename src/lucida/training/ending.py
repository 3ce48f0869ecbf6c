"""Which weights a stage ends with, and whether it ends before its budget (`EndingSpec`).

    look ─▶ better than the best? ─┬─ yes: keep the weights
                                   └─ `patience` times not: the stage is over
    every `every` steps ─▶ keep the weights ─▶ at the end the mean of the last `last`

Kept weights are files of the run folder, `kept/STAGE/step-000120.safetensors`, each with what the
stage trains and the buffers. Which look was the best follows from metrics.jsonl, so a run that was
stopped ends with the same weights as one that was not: what was kept behind the checkpoint that it
goes on from is forgotten and kept again.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lucida.core.errors import RecipeError, RunError
from lucida.core.files import atomic_write, disk_errors, make_folder
from lucida.core.spec import EndingSpec, StageSpec
from lucida.training.feed import Feed
from lucida.training.observe import Observer
from lucida.training.reading import read_tensors

FOLDER = "kept"


@dataclass(slots=True)
class Ending:
    """What the looks of a stage have found so far, and the weights that are kept.

    folder: of this stage's kept weights; higher: whether more is better. looks: (step, score), in
    order.
    """

    spec: EndingSpec
    folder: Path
    higher: bool = False
    looks: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, rows: Iterable[Mapping[str, Any]], step: int, writes: bool) -> None:
        """Take up what stands in the stage's records, and forget weights from behind `step`."""
        for row in rows:
            score = score_of(row, self.spec.by)
            if score is not None and row["step"] <= step:
                self.looks.append((row["step"], score))
        if not writes:
            return
        with disk_errors(self.folder):
            for number, file in self.kept():
                if number > step:
                    file.unlink()

    def note(self, step: int, score: float | None) -> bool:
        """Take in a look; is it the best so far? A score that is no number counts as no better."""
        if score is None or not math.isfinite(score):
            score = -math.inf if self.higher else math.inf
        self.looks.append((step, score))
        return self.best is not None and self.best[0] == step

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and score of the last look that was better than all before it by `margin`."""
        found = None
        for step, score in self.looks:
            if not math.isfinite(score):
                continue
            # Against the last best and not the last look: gains below `margin` add up until they
            # count.
            gain = 0.0 if found is None else (score - found[1]) * (1 if self.higher else -1)
            if found is None or gain > self.spec.margin:
                found = (step, score)
        return found

    @property
    def spent(self) -> bool:
        """Has nothing become better for `patience` looks?"""
        if self.spec.patience is None or not self.looks:
            return False
        since = 0 if self.best is None else self.best[0]  # no score that is a number: nothing yet
        return sum(step > since for step, _ in self.looks) >= self.spec.patience

    def is_averaged(self, step: int) -> bool:
        """Do the weights after this step belong to the mean?"""
        return self.spec.every is not None and step % self.spec.every == 0

    def keep(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights after a step, on the CPU and contiguous."""
        make_folder(self.folder)
        file = self.folder / f"step-{step:06d}.safetensors"
        with disk_errors(file):
            atomic_write(file, save(dict(tensors)))

    def kept(self) -> list[tuple[int, Path]]:
        """Step and file of all kept weights, oldest first."""
        found = [
            (int(file.stem.removeprefix("step-")), file)
            for file in self.folder.glob("step-*.safetensors")
        ]
        return sorted(found)

    def prune(self) -> None:
        """Remove kept weights that the end cannot need any more. Only a checkpoint makes that
        certain: from an older one the run would go on, and find the best anew."""
        kept = self.kept()
        if self.spec.weights == "average":
            needed = {number for number, _ in kept[-self.spec.last :]}
        else:
            needed = {self.best[0]} if self.best is not None else set()
        with disk_errors(self.folder):
            for number, file in kept:
                if number not in needed:
                    file.unlink(missing_ok=True)

    def choose(self) -> tuple[list[int], dict[str, torch.Tensor]] | None:
        """The weights that the stage ends with and the steps they come from; None for those after
        the last step. RunError when kept weights are gone."""
        if self.spec.weights == "last":
            return None
        kept = dict(self.kept())
        if self.spec.weights == "best":
            if self.best is None:
                return None
            steps = [self.best[0]]
        else:
            steps = sorted(kept)[-self.spec.last :]  # fewer where the stage ended early
            if not steps:
                return None
        for step in steps:
            if step not in kept:
                raise RunError(
                    f"the weights of step {step}, the best by {self.spec.by}, are gone",
                    expected=self.folder / f"step-{step:06d}.safetensors",
                    origin=self.folder,
                    remedy="delete the newest checkpoint, and the run finds them again",
                )
        return steps, average([kept[step] for step in steps])

    def close(self) -> None:
        """Remove all kept weights: the checkpoint at the end of the stage holds what was chosen."""
        shutil.rmtree(self.folder, ignore_errors=True)


def average(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of weights in files, added in fp64 and rounded once; of tensors that are no floating
    numbers (counters) the last. Of one file the weights themselves."""
    if len(files) == 1:
        return read_tensors(files[0])
    total: dict[str, torch.Tensor] = {}
    for file in files:
        last = read_tensors(file)
        for name, value in last.items():
            if value.is_floating_point():
                total[name] = total.get(name, 0) + value.double()
    # `last` is that of the newest file, where the loop ended.
    return {
        name: (total[name] / len(files)).to(value.dtype) if name in total else value
        for name, value in last.items()
    }


def score_of(row: Mapping[str, Any], by: str) -> float | None:
    """What a line of metrics.jsonl says about the score that is looked at; None for none."""
    if by == "loss":
        found = row.get("validation_loss")
    else:
        found = ((row.get("evaluation") or {}).get("tasks") or {}).get(by, {}).get("score")
    return None if found is None else float(found)


def plan_ending(
    run: Path, observers: Sequence[Observer], spec: StageSpec, feed: Feed
) -> Ending | None:
    """What a stage ends with; RecipeError or RunError where nothing would be looked at."""
    ending = spec.ending
    if ending is None:
        return None
    where, higher = f"stages.{spec.name}.ending", False
    if ending.looks and ending.by == "loss" and feed.held_out is None:
        raise RecipeError(
            "a stage that ends by its validation loss has no records for it",
            origin=where,
            remedy=f"name some: stages.{spec.name}.validation",
        )
    if ending.looks and ending.by != "loss":
        scores = [each for each in observers if not each.between_stages]
        if not scores:
            raise RunError(
                f"the stage ends by the score of {ending.by}, and nobody measures it here",
                origin=where,
                remedy="train with `lucida train`, or give "
                "`observers=lucida.eval.during_training.observers(recipe)`",
            )
        higher = scores[0].is_higher_better(ending.by)
    return Ending(ending, run / FOLDER / spec.name, higher)
