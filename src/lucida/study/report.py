"""A study to read: report.html (one file), report.md, results.csv, results.json."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np

from lucida.core.files import atomic_write
from lucida.core.pages import render_page
from lucida.core.runs import plain, read_json
from lucida.study import charts
from lucida.study.analysis import Analysis, Finding, common, is_decided, normalise
from lucida.study.design import BASELINE, MEAN
from lucida.study.pictures import disagreements

WORDS = {
    "better": "is better than {against}",
    "worse": "is worse than {against}",
    "equivalent": "does as well as {against}, within ±{margin:g} points",
    "cannot tell": "cannot be told from {against}",
}


def sentence(found: Finding, margin: float) -> str:
    """One finding in plain words."""
    against = "the baseline" if found.against == BASELINE else found.against
    said = WORDS[found.verdict].format(margin=margin, against=against)
    outcome = "on the mean over tasks" if found.outcome == MEAN else f"on {found.outcome}"
    if not math.isfinite(found.low):
        seeds = "one seed, which says nothing about chance"
        if found.seeds > 1:
            seeds = f"{found.seeds} seeds, before the first look"
        return f"{found.arm} {said} {outcome}: {found.mean:+z.1f} points from {seeds}"
    return (
        f"{found.arm} {said} {outcome}: {found.mean:+z.1f} points "
        f"({found.low:+z.1f} to {found.high:+z.1f}; {found.seeds} seeds, {found.pictures} pictures)"
    )


def write_report(analysis: Analysis, folder: Path) -> Path:
    """Writes all four files into `folder`; gives the page's path."""
    data = content(analysis, folder)
    atomic_write(folder / "results.json", json.dumps(plain(data), indent=2) + "\n")
    atomic_write(folder / "results.csv", table_text(analysis))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lucida.study", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = data | {"points": show_points}
    atomic_write(folder / "report.md", environment.get_template("report.md.j2").render(shown))
    page = folder / "report.html"
    galleries = {
        arm: disagreements(analysis, arm)
        for arm in analysis.design.contrasts or [each.arm for each in analysis.findings]
        if common(analysis.runs, arm)
    }
    text = render_page(
        "study/report.html", charts=_charts(analysis, data), galleries=galleries, **shown
    )
    atomic_write(page, text)
    return page


def content(analysis: Analysis, folder: Path) -> dict:
    """What the files say, as plain data."""
    design = analysis.design
    study, primary = design.study, design.study.primary
    declared = folder / "declared.json"
    arms = list(analysis.runs)
    counted = folder / "costs.json"
    flops = (
        {arm: {"flops": of["flops"]} for arm, of in read_json(counted).items()}
        if counted.is_file()
        else {}
    )
    scores = {
        arm: {task: _over_seeds(analysis, arm, task) for task in study.evaluation.tasks}
        for arm in arms
    }
    return {
        "name": study.name,
        "claim": study.claim,
        "question": study.question,
        "baseline": study.baseline,
        "primary": primary.model_dump() | {"contrast": design.contrasts},
        "tasks": study.evaluation.tasks,
        "hash": design.hash,
        "level": analysis.look.level if analysis.look else 1 - primary.confidence,
        "declared": read_json(declared) if declared.is_file() else None,
        "seeds": study.seeds,
        "sentences": [sentence(each, primary.margin) for each in analysis.findings],
        "findings": [asdict(each) for each in analysis.findings],
        "exploratory": [asdict(each) for each in analysis.tasks],
        "pairs": [asdict(each) for each in analysis.pairs],
        "scores": scores,
        "flagged": analysis.flagged,
        "aggregates": analysis.aggregates,
        "effects": [asdict(each) for each in analysis.effects],
        "sooner": [asdict(each) for each in analysis.sooner],
        "soon": {arm: {n: float(np.mean(v)) for n, v in s.items()}
                 for arm, s in analysis.soon.items()},
        "cost": {arm: _cost(analysis, arm) | flops.get(arm, {}) for arm in arms},
        "ends": analysis.ends,
        "lost": analysis.lost,
        "waiting": sum(each["state"] in ("waiting", "begun") for each in analysis.ends),
        "notes": [*design.notes, *_tell_look(analysis)],
        "differences": {arm: design.differences(arm) for arm in design.arms if arm != BASELINE},
        "machine": _machine(analysis),
    }  # fmt: skip


def _tell_look(analysis: Analysis) -> list[str]:
    """Which look this is, where the study has several."""
    look = analysis.look
    if look is None:
        return []
    if not look.number:
        return [
            f"before the first of {look.of} looks ({look.seeds} seeds are whole): no verdict yet"
        ]
    said = (
        f"look {look.number} of {look.of}, after {look.seeds} seeds, at the level {look.level:.2g}"
    )
    return [said + ("; decided, so the study may stop" if is_decided(analysis) else "")]


def table_text(analysis: Analysis) -> str:
    """A row for each run and task: what somebody else's statistics start from."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["arm", "seed", "task", "metric", "points", "examples", "floor"])
    for arm, of in analysis.runs.items():
        for seed, run in of.items():
            for name, task in run.tasks.items():
                row = [arm, seed, name, task.metric, f"{task.score:.6g}", len(task.rows)]
                writer.writerow([*row, f"{task.floor:.6g}"])
    return stream.getvalue()


def _over_seeds(analysis: Analysis, arm: str, task: str) -> dict:
    values = [run.tasks[task].score for run in analysis.runs[arm].values()]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": spread, "values": values}


def _cost(analysis: Analysis, arm: str) -> dict[str, float]:
    runs = list(analysis.runs[arm].values())
    names = [name for name in runs[0].cost if all(name in run.cost for run in runs)]
    return {name: float(np.mean([run.cost[name] for run in runs])) for name in names}


def _charts(analysis: Analysis, data: dict) -> dict:
    tasks = analysis.design.study.evaluation.tasks
    shares = [t for t in tasks if next(iter(analysis.runs[BASELINE].values())).tasks[t].higher]
    by_arm = {arm: [data["scores"][arm][task]["mean"] for task in shares] for arm in analysis.runs}
    rows = [(f.arm, f.mean, f.low, f.high, f.verdict) for f in analysis.findings]
    learning = {
        arm: [
            [(seen, float(np.mean(list(t.values())))) for seen, t in run.curve if t]
            for run in of.values()
        ]
        for arm, of in analysis.runs.items()
    }
    unit, words = "seconds", "seconds of training"
    if all("flops" in data["cost"][arm] for arm in analysis.runs):
        unit, words = "flops", "floating-point operations of training"
    cost = {
        arm: (data["cost"][arm][unit], float(np.mean(by_arm[arm])))
        for arm in analysis.runs
        if by_arm[arm]
    }
    open_tasks = [task for task in shares if task not in analysis.flagged]
    spread = {arm: normalise(of.values(), open_tasks) for arm, of in analysis.runs.items()}
    margin = analysis.design.study.primary.margin
    return {
        "differences": charts.draw_both(charts.differences, rows, margin),
        "radar": charts.draw_both(charts.radar, shares, by_arm),
        "curves": charts.draw_both(charts.curves, learning),
        "profile": charts.draw_both(charts.profile, spread),
        "costs": charts.draw_both(charts.costs, cost, words) if cost else "",
        "legend": [(arm, number % charts.COLOURS) for number, arm in enumerate(by_arm)],
    }


def _machine(analysis: Analysis) -> dict:
    """Command and environment of the first run, without the folders above the study."""
    run = next(iter(analysis.runs[BASELINE].values()))
    file = run.folder / "environment.json"
    found = read_json(file) if file.is_file() else {}
    # Reports are published: they name no folder of the machine that wrote them.
    for above in (run.folder.resolve().parent.parent.parent, run.folder.parent.parent.parent):
        if above != Path():
            found["command"] = found.get("command", "").replace(f"{above}/", "")
    return found


def show_points(value: float | None, signed: bool = False) -> str:
    """Points with one digit; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–" if value is None else "−∞" if value < 0 else "∞"
    return f"{value:+z.1f}" if signed else f"{value:z.1f}"  # z: a zero has no sign of its own
