"""Runs that exist, grouped into arms: those whose recipes differ in seed and name alone are one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.recipe import recipe_hash
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.study.analysis import Analysis, compare
from lucida.study.design import BASELINE, Asked, Design, Primary, Study
from lucida.study.measure import Measured, measure


class _Existing(Design):
    """A design whose recipes are those of runs."""

    def recipe(self, arm: str, seed: int) -> Recipe:
        """The arm's recipe, whatever the seed."""
        return self.arms[arm]["recipe"].model_copy(update={"seed": seed})

    @property
    def contrasts(self) -> list[str]:
        """None: nothing was declared."""
        return []


def compare_runs(folders: Sequence[Path], margin: float) -> Analysis:
    """All runs against those of the first one's design, on the tasks that all were asked; nothing
    was declared before, so every finding is exploratory. RunError: one design alone, two runs of a
    design with one seed, no task or seed in common, other examples."""
    arms: dict[str, dict[int, Measured]] = {}
    recipes: dict[str, Recipe] = {}
    names: dict[str, str] = {}
    for folder in folders:
        recipe = RunFolder(folder).recipe
        # What runs of one design may differ in.
        shared = {"seed": 0, "name": "same", "evaluation": None, "threads": None}
        key = recipe_hash(recipe.model_copy(update=shared))
        name = names.setdefault(key, BASELINE if not names else _name(folder, names))
        recipes.setdefault(name, recipe)
        if recipe.seed in arms.setdefault(name, {}):
            raise RunError(
                "two runs are of one design and one seed",
                given=recipe.seed,
                origin=folder,
                remedy=f"leave out one of {arms[name][recipe.seed].folder} and {folder}",
            )
        arms[name][recipe.seed] = measure(folder)
    if len(arms) < 2:
        why = "these runs differ in their seeds alone" if folders[1:] else "one run was named"
        raise RunError(
            f"{why}, so there is nothing to compare",
            given=", ".join(map(str, folders)),
            remedy="name runs of at least two recipes",
        )
    everything = [run for of in arms.values() for run in of.values()]
    tasks = [name for name in everything[0].tasks if all(name in run.tasks for run in everything)]
    seeds = [seed for seed in arms[BASELINE] if any(seed in of for of in list(arms.values())[1:])]
    if not tasks or not seeds:
        raise RunError(
            f"the runs have no {'seed' if tasks else 'task'} in common",
            given=", ".join(map(str, folders)),
        )
    study = Study(
        name="comparison",
        question="Runs that existed: nothing was declared before, every finding is exploratory.",
        baseline=str(folders[0]),
        changes={name: {"compared": True} for name in arms if name != BASELINE},
        seeds=seeds,
        evaluation=Asked(tasks=tasks),
        primary=Primary(margin=margin),
    )
    design = _Existing(study, {name: {"recipe": recipes[name]} for name in arms}, str(folders[0]))
    return compare(design, arms)


def _name(folder: Path, names: dict[str, str]) -> str:
    name = "".join(c if c.isalnum() or c in "._+-" else "-" for c in folder.resolve().name.lower())
    name = name.lstrip("._+-") or "run"
    return name if name not in (BASELINE, *names.values()) else f"{name}-{len(names)}"
