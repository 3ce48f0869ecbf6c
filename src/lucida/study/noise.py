"""What finished studies measured of a baseline, kept for planning the next one of it.

STUDIES/noise.json: baseline → "OUTCOME: STUDY, ARM" → noise of that difference, seeds, pictures,
questions, steps and seconds
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lucida.core.files import atomic_write
from lucida.core.runs import plain, read_json
from lucida.study import statistics as s
from lucida.study.analysis import Analysis
from lucida.study.design import BASELINE, MEAN, Design


def learn_noise(analysis: Analysis, file: Path) -> None:
    """Keep the noise of a finished study, by its baseline and outcome, for planning."""
    known = read_json(file) if file.is_file() else {}
    first = analysis.design.recipes[BASELINE]
    entry = known.setdefault(analysis.design.study.baseline, {})
    for each in [*analysis.findings, *analysis.tasks]:
        # One seed tells nothing about seeds.
        if each.seeds < 2:
            continue
        # Differences within one trained model know nothing of the noise between two of them.
        if analysis.design.trained_by.get(each.arm) == BASELINE:
            continue
        total, baseline = combined(each.noise), next(iter(analysis.runs[BASELINE].values()))
        tasks = baseline.tasks if each.outcome == MEAN else [each.outcome]
        key = f"{each.outcome}: {analysis.design.study.name}, {each.arm}"
        entry[key] = asdict(total) | {
            "outcome": each.outcome,
            "seeds": each.seeds,
            "pictures": each.pictures,
            "questions": sum(len(baseline.tasks[task].rows) for task in tasks),
            "steps": [stage.budget.steps for stage in first.stages],
            "run_seconds": seconds_of_runs(analysis),
        }
    atomic_write(file, json.dumps(plain(known), indent=2) + "\n")


def seconds_of_runs(analysis: Analysis) -> float | None:
    """The mean over the baseline's runs, evaluation and all; None where nothing says so."""
    ends = [each for each in analysis.ends if each["arm"] == BASELINE and "seconds" in each]
    return float(np.mean([each["seconds"] for each in ends])) if ends else None


def recall_seconds(design: Design, file: Path) -> float | None:
    """Seconds that a run of this baseline took in studies that were finished."""
    known = read_json(file).get(design.study.baseline, {}) if file.is_file() else {}
    steps = [stage.budget.steps for stage in design.recipes[BASELINE].stages]
    rows = [row["run_seconds"] for row in known.values()
            if row["steps"] == steps and row.get("run_seconds")]  # fmt: skip
    return float(np.mean(rows)) if rows else None


def combined(noise: Sequence[s.Components]) -> s.Components:
    """Noise of the mean over tasks that are asked equally many pictures, per picture of all."""
    count = len(noise)
    # As if tasks erred each by itself; where one seed is good at all of them, it is too little.
    seed = sum(each.seed**2 for each in noise) ** 0.5 / count
    picture = (sum(each.picture**2 for each in noise) / count) ** 0.5
    return s.Components(seed, picture, (sum(each.rest**2 for each in noise) / count) ** 0.5)


def known_noise(design: Design, file: Path) -> tuple[s.Components, str, float] | None:
    """Noise for planning, where it comes from, and pictures for each question: measured studies of
    this baseline (root mean square over arms), else what the study file says, where every question
    has a picture of its own."""
    known = read_json(file).get(design.study.baseline, {}) if file.is_file() else {}
    rows = [row for row in known.values() if row["outcome"] == design.study.primary.outcome]
    if rows:
        # Variances are averaged, not deviations: that is what errors add up from.
        parts = [(np.mean([row[n] ** 2 for row in rows])) ** 0.5 for n in
                 ("seed", "picture", "rest")]  # fmt: skip
        # Older rows do not say; for them each question counts as a picture.
        share = np.mean([row["pictures"] / row["questions"] if "pictures" in row else 1.0
                         for row in rows])  # fmt: skip
        origin = f"{len(rows)} measured contrasts in {file}"
        return s.Components(*map(float, parts)), origin, float(share)
    if design.study.noise is not None:
        return s.Components(**design.study.noise.model_dump()), "the study file", 1.0
    return None
