"""What the arms of a study cost, as `plan` counts it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lucida.core.files import atomic_write
from lucida.core.runs import read_json

if TYPE_CHECKING:
    from lucida.study.design import Design
    from lucida.study.execute import StudyFolder

COSTS = "costs.json"


def plan_arms(design: Design) -> dict[str, dict[str, float]]:
    """Arm → floating-point operations and seconds of its training on one core of this machine, and
    the share of them that are its first stages where an arm before it trains these; ModelError or
    RecipeError where an arm cannot be planned. Stages without a number of steps that
    is known beforehand (a budget of minutes) count their minutes, and no operations."""
    from lucida.apps.plan.devices import find_device
    from lucida.apps.plan.estimate import plan_recipe

    device, found = find_device("cpu"), {}
    for arm, recipe in design.recipes.items():
        stages = plan_recipe(recipe, device)["stages"]
        flops = [(stage["steps"] or 0) * stage["flops_per_step"] for stage in stages]
        seconds = sum(3600 * (stage["hours"] or 0) for stage in stages)
        shared = sum(flops[: design.shared_stages[arm]]) / sum(flops) if any(flops) else 0.0
        found[arm] = {"flops": float(sum(flops)), "seconds": float(seconds), "shared": shared}
    return found


def keep_costs(design: Design, folder: StudyFolder) -> dict[str, dict[str, float]]:
    """The same, counted once and kept beside the study, where its report finds them."""
    file = folder.path / COSTS
    if file.is_file() and (kept := read_json(file)).keys() == design.arms.keys():
        return kept
    found = plan_arms(design)
    atomic_write(file, json.dumps(found, indent=2) + "\n")
    return found
