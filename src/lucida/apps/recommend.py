"""Advice from evidence: the published recipe with the best scores on the wanted tasks, among those
that fit a device and a time, with where each of its choices comes from.

evidence.yaml ──best first──▶ plan (memory, hours) ──first that fits──▶ Advice ──▶ recipe with notes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.document import dump_document, read_document
from lucida.core.errors import RecipeError, RunError, suggestion
from lucida.core.recipe import load_recipe
from lucida.core.runs import read_json
from lucida.study.design import STUDIES
from lucida.study.summary import judge, load_claims

if TYPE_CHECKING:
    from lucida.apps.plan.devices import Device

MINIATURE = ("mini-hard", "mini", "mini-short")
"""Recipes of the miniature world, the longest first."""
ASKED_AS = {"pope": ["pope-random", "pope-popular", "pope-adversarial"]}
"""Tasks that are several benchmarks here."""
NEAR = 1.0
"""Points of a mean over tasks below which two published rows of one seed are no different: between
seeds, PaliGemma (section 6.1) found standard deviations below half a point a task at 3B."""


Row = tuple[float, str, int]
"""Published mean over the wanted tasks, recipe, records of its last stage."""


@dataclass
class Advice:
    """A recipe and why. `score`: published mean over the tasks, None in the miniature world."""

    recipe: str
    tasks: list[str]
    score: float | None
    hours: float
    engine: str
    memory: float
    changes: dict[str, object]
    notes: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    """Recipes with better scores, each with why it was not taken."""


def recommend(
    hours: float, tasks: Sequence[str], device: Device, count: int, results: Path
) -> Advice:
    """The best that fits. `tasks`: benchmarks or groups of evidence.yaml, none takes all; on a CPU
    tasks of the miniature world. RecipeError: an unknown task; RunError: nothing fits."""
    if not device.gpu:
        return _recommend_miniature(hours, tasks, device, results)
    evidence = read_document(STUDIES / "evidence.yaml").data
    wanted = _tasks(tasks, evidence)
    rows = []
    for name, row in evidence["rows"].items():
        scores = dict(zip(evidence["tasks"], row["scores"], strict=True))
        rows.append((sum(scores[task] for task in wanted) / len(wanted), name, row["records"]))
    rows.sort(key=lambda row: -row[0])
    room = Room(hours, device, count, evidence["alignment"])
    if (advice := room.find(rows, wanted)) is not None:
        near = [name for score, name, _ in rows if abs(score - advice.score) < NEAR]
        near.remove(advice.recipe)
        advice.notes += explain(evidence, wanted, advice.recipe, results)
        if near:
            advice.notes.append(
                f"within {NEAR:g} point of it, so no worse as far as one seed tells: "
                + ", ".join(near[:6])
            )
        return advice
    others = []
    for name, row in evidence["others"].items():
        if all(task in row["scores"] for task in wanted):
            score = sum(row["scores"][task] for task in wanted) / len(wanted)
            others.append((score, name, row["records"]))
    others.sort(key=lambda row: -row[0])
    if (advice := room.find(others, wanted)) is None:
        raise RunError(
            f"no recipe with published scores on {', '.join(wanted)} fits",
            given=f"{hours:g} hours on {count} x {device.name}",
            remedy="more hours or devices, or `lucida plan nanovlm-222m`: "
            + "; ".join(room.passed[-3:]),
        )
    advice.notes.append(
        "no recipe of Prismatic's table fits; this one's scores are its authors' own, and are not "
        "comparable with that table's"
    )
    return advice


def _tasks(tasks: Sequence[str], evidence: dict) -> list[str]:
    wanted: list[str] = []
    for name in tasks or evidence["tasks"]:
        if name not in evidence["groups"] and name not in evidence["tasks"]:
            raise RecipeError(
                f"no published table here has the task `{name}`",
                remedy=suggestion(name, [*evidence["groups"], *evidence["tasks"]]),
            )
        found = evidence["groups"].get(name, [name])
        wanted += [task for task in found if task not in wanted]
    return wanted


@dataclass
class Room:
    """Devices and a time, and which published recipes fit. alignment: records of the stages before
    the last one; passed: recipes that do not fit, with why."""

    hours: float
    device: Device
    count: int
    alignment: int
    passed: list[str] = field(default_factory=list)
    planned: dict[str, list[dict]] = field(default_factory=dict)

    def find(self, rows: Sequence[Row], wanted: list[str]) -> Advice | None:
        """The first row that fits; they come best first."""
        for score, name, records in rows:
            advice = Advice(name, wanted, score, 0.0, "", 0.0, {}, passed_over=self.passed)
            problem = self.try_stages(advice, self.plan(name), records)
            if not problem and advice.hours > self.hours:
                problem = f"takes {advice.hours:.1f} hours"
            if not problem:
                return advice
            self.passed.append(f"{name} ({score:.1f}) {problem}")
        return None

    def plan(self, name: str) -> list[dict]:
        """The stages of a recipe; those that differ in data and passes alone are planned once."""
        from lucida.apps.plan.estimate import plan_recipe

        recipe = load_recipe(name)
        shape = dump_document(recipe.model.model_dump(mode="json")) + dump_document(
            [[stage.train, stage.batch.model_dump(mode="json")] for stage in recipe.stages]
        )
        if shape not in self.planned:
            self.planned[shape] = plan_recipe(recipe, self.device, self.count)["stages"]
        return self.planned[shape]

    def try_stages(self, advice: Advice, stages: Sequence[dict], records: int) -> str:
        """Fills in hours, memory, engine and changes; why a stage does not fit, else nothing."""
        problem = ""
        for stage in stages:
            # `records` are those of the row's last stage; the stages before it align on the same
            # ones in every row.
            many = records if stage is stages[-1] else self.alignment
            steps = many / stage["samples_per_step"]
            advice.hours += steps * stage["seconds_per_step"] / 3600
            for each, parts in stage["memory"].items():
                # 0 where it fits as it is, None where no number of passes is enough.
                passes = stage["fits_with"].get(each, 0)
                if passes is not None:
                    advice.engine, advice.memory = each, max(advice.memory, parts["peak"])
                    if passes:
                        advice.changes[f"stages.{stage['name']}.batch.accumulate"] = passes
                    break
            else:
                least = min(parts["peak"] for parts in stage["memory"].values())
                problem = f"needs {least / 2**30:.0f} GiB a device"
        return problem


def explain(evidence: dict, wanted: Sequence[str], name: str, results: Path) -> list[str]:
    """A line for every choice whose effect is published: what it brought on these tasks, how sure
    that is, who found otherwise, and what the miniature world says."""
    places = [evidence["tasks"].index(task) for task in wanted]
    claims = {claim["id"]: claim for claim in load_claims()}
    lines = []
    for choice in evidence["choices"]:
        scores = [evidence["rows"][row]["scores"] for row in choice["rows"]]
        gains = [scores[0][place] - scores[1][place] for place in places]
        mean, up = sum(gains) / len(gains), sum(gain > 0 for gain in gains)
        sure = "one seed each, no interval"
        if "p" in choice:
            sure = f"p = {choice['p']:g} over all twelve tasks, one seed each"
        taken = re.search(choice["taken"], name) is not None
        rows = f"{choice['rows'][0]} against {choice['rows'][1]}"
        line = (
            f"{choice['key']}: {choice['name']}{'' if taken else ', not taken'}: {mean:+z.1f} "
            f"points on these tasks ({up} of {len(gains)} up; {rows}; {sure})"
        )
        if (mean > 0) is not taken:
            line += ". On these tasks the table speaks for the other: try both, if it fits"
        if choice.get("against"):
            line += f". But: {choice['against']}"
        if (found := _tell_finding(claims.get(choice.get("claim", "")), results)) is not None:
            line += f". Miniature: {found}"
        lines.append(line)
    return lines


def _tell_finding(claim: dict | None, results: Path) -> str | None:
    """What the study of a claim found here, None where it has no report."""
    if claim is None or not claim["study"]:
        return None
    file = results / claim["study"] / "results.json"
    if not file.is_file():
        return None
    found = read_json(file)
    return f"{judge(claim, found['findings'])} ({'; '.join(found['sentences'])})"


def _recommend_miniature(
    hours: float, tasks: Sequence[str], device: Device, results: Path
) -> Advice:
    from lucida.apps.plan.estimate import plan_recipe

    known = {task for name in MINIATURE for task in load_recipe(name).evaluation.tasks}
    if unknown := [task for task in tasks if task not in known]:
        raise RecipeError(
            f"the recipes of the miniature world are not asked `{unknown[0]}`",
            remedy=suggestion(unknown[0], sorted(known)) + "; full-scale tasks need --device",
        )
    passed: list[str] = []
    for name in MINIATURE:
        recipe = load_recipe(name)
        if missing := [task for task in tasks if task not in recipe.evaluation.tasks]:
            passed.append(f"{name} is not trained for {', '.join(missing)}")
            continue
        planned = plan_recipe(recipe, device)["stages"]
        time = sum(stage["hours"] for stage in planned)
        memory = max(parts["peak"] for stage in planned for parts in stage["memory"].values())
        if time > hours:
            passed.append(f"{name} takes {60 * time:.0f} minutes")
            continue
        advice = Advice(name, list(tasks) or recipe.evaluation.tasks, None, time, "single", memory,
                        {}, passed_over=passed)  # fmt: skip
        advice.notes.append("measured, see LOG.md: mini answers every task 42 points above blind")
        for claim in load_claims():
            if (found := _tell_finding(claim, results)) is not None:
                advice.notes.append(f"{claim['id']}: {found}")
        return advice
    raise RunError(
        "no recipe of the miniature world fits",
        given=f"{60 * hours:.0f} minutes on {device.name}",
        remedy="more minutes: " + "; ".join(passed),
    )


def write_recipe(advice: Advice, file: Path) -> None:
    """The advice as a recipe to edit: a difference to the published one, with the reasons."""
    asked = [each for task in advice.tasks for each in ASKED_AS.get(task, [task])]
    data = {
        "base": advice.recipe,
        "name": "recommended",
        "changes": advice.changes | {"evaluation.tasks": asked},
    }
    notes = describe(advice)
    text = "".join(f"# {line}\n" for line in notes) + dump_document(data)
    if file.exists():
        raise RunError("this file exists already", origin=file, remedy="name another with --out")
    file.write_text(text, encoding="utf-8")


def describe(advice: Advice) -> list[str]:
    """The advice in lines of plain text."""
    took = f"{advice.hours:.1f} hours" if advice.hours >= 1 else f"{60 * advice.hours:.0f} minutes"
    lines = [
        f"{advice.recipe}: about {took}, {advice.memory / 2**30:.1f} GiB a device at once under "
        f"{advice.engine} (`lucida plan`)"
    ]
    if advice.score is not None:
        lines.append(f"published mean over {', '.join(advice.tasks)}: {advice.score:.1f}")
    lines += advice.notes
    lines += [f"passed over: {each}" for each in advice.passed_over]
    return lines
