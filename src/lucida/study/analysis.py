"""From runs to verdicts: every arm against the baseline, with the noise that it takes into account.

runs ──measure──▶ paired differences by seed and picture ──▶ Finding for each arm
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lucida.core.errors import RunError
from lucida.study import statistics as s
from lucida.study.design import BASELINE, MEAN, Design
from lucida.study.effects import Effect, factor_effects, sooner
from lucida.study.execute import StudyFolder
from lucida.study.measure import Measured, how_soon, measure, paired

CEILING, FLOOR = 98.0, 3.0
"""Points above which, and points over chance below which, a task tells designs apart no more."""


@dataclass(frozen=True)
class Finding:
    """One arm against another, mostly the baseline, on one outcome; points, positive is better."""

    arm: str
    outcome: str
    mean: float
    low: float
    high: float
    p: float
    p_equivalent: float
    verdict: str
    primary: bool
    seeds: int
    pictures: int
    own_interval: tuple[float, float]
    """t interval with this arm's own seed noise."""
    bootstrap: tuple[float, float]
    stabilised: tuple[float, float] | None
    """On the arcsine scale, seeds only, where a mean lies beyond 5 or 95 points."""
    noise: list[s.Components]
    differences: list[float]
    """By seed."""
    against: str = BASELINE


@dataclass(frozen=True)
class Look:
    """The latest look that a study with several has reached: its number from 1 (0: none yet), of
    how many, after so many seeds, at which level."""

    number: int
    of: int
    seeds: int
    level: float


@dataclass
class Analysis:
    """A whole study."""

    design: Design
    runs: dict[str, dict[int, Measured]]
    """Arm → seed → what was measured."""
    ends: list[dict]
    """How every run ended: arm, seed, state, why."""
    findings: list[Finding]
    tasks: list[Finding]
    """Exploratory: every arm on every task, not corrected."""
    flagged: dict[str, str]
    """Task → why it is left out of aggregates."""
    aggregates: dict[str, dict[str, float]] = field(default_factory=dict)
    soon: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    look: Look | None = None
    """Where the study may stop early: which look this is."""
    effects: list[Effect] = field(default_factory=list)
    """Of factors, where the study has some."""
    sooner: list[Effect] = field(default_factory=list)
    pairs: list[Finding] = field(default_factory=list)
    """Exploratory: the study's pairs of arms on the primary outcome and on every task."""

    @property
    def lost(self) -> list[dict]:
        """Runs that failed or diverged."""
        return [each for each in self.ends if each["state"] in ("failed", "diverged")]


def analyse(design: Design, folder: StudyFolder) -> Analysis:
    """Everything that the runs so far tell; RunError when no arm can be compared."""
    folder.check(design)
    asked, runs, ends = design.study.evaluation.tasks, {}, []
    for arm, seed in design.runs:
        outcome = folder.outcome(arm, seed)
        ends.append({"arm": arm, "seed": seed} | outcome)
        # What diverged but was asked counts with its scores: leaving it out would flatter its arm.
        if outcome["state"] == "done" or (
            outcome["state"] == "diverged" and folder.run(arm, seed).results.tasks
        ):
            runs.setdefault(arm, {})[seed] = measure(folder.run(arm, seed).path, asked)
    if BASELINE not in runs or len(runs) < 2:
        raise RunError(
            "there is nothing to compare yet: the baseline and an arm need a finished run",
            given=", ".join(f"{each['arm']}-seed{each['seed']} {each['state']}" for each in ends),
            origin=folder.path,
            remedy="`lucida study run` goes on",
        )
    look = reach_look(design, ends)
    if look is not None and look.number:
        counted = design.study.seeds[: look.seeds]
        # Seeds of a later look may have ended already; until that look they do not count.
        runs = {arm: {k: of[k] for k in counted if k in of} for arm, of in runs.items()}
    found = compare(design, runs, look)
    found.ends = ends
    return found


def reach_look(design: Design, ends: Sequence[Mapping]) -> Look | None:
    """The latest look whose seeds have all ended in every declared arm; None where the study looks
    once."""
    primary = design.study.primary
    if not primary.looks:
        return None
    counted = {BASELINE, *design.contrasts}
    missing = [
        design.study.seeds.index(each["seed"])
        for each in ends
        if each["arm"] in counted and each["state"] in ("waiting", "begun")
    ]
    # Seeds that ended in every declared arm before the first that has not.
    whole = min(missing, default=len(design.study.seeds))
    number = sum(look <= whole for look in primary.looks)
    if not number:
        return Look(0, len(primary.looks), whole, 0.0)
    shares = [look / primary.looks[-1] for look in primary.looks]
    level = s.spend_alpha(shares, 1 - primary.confidence)[number - 1]
    return Look(number, len(primary.looks), primary.looks[number - 1], level)


def is_decided(analysis: Analysis) -> bool:
    """Whether every declared arm has a verdict, so that a study with looks may stop."""
    primary = [each for each in analysis.findings if each.primary]
    return bool(primary) and all(each.verdict != "cannot tell" for each in primary)


def compare(
    design: Design, runs: dict[str, dict[int, Measured]], look: Look | None = None
) -> Analysis:
    """Findings of runs that are there; an arm without a seed of the baseline's has none. At a look
    the level and the intervals are that look's."""
    primary = design.study.primary
    tasks = design.study.evaluation.tasks
    arms = [arm for arm in design.arms if arm != BASELINE and common(runs, arm)]
    alpha = 1 - primary.confidence if look is None else look.level
    raw = {arm: estimate(runs, arm, primary.outcome, tasks, design.study.pooled) for arm in arms}
    counted = [arm for arm in arms if arm in design.contrasts]
    # An arm without runs still counts as a comparison that was declared.
    missing = [1.0] * (len(design.contrasts) - len(counted))
    # Two families of hypotheses to refuse, each held to alpha: that an arm is as good as the
    # baseline, and that it differs by the margin or more.
    different = s.holm([raw[arm][0].p for arm in counted] + missing)
    equal = s.holm([raw[arm][0].p_equivalent(primary.margin) for arm in counted] + missing)
    findings = []
    for arm in arms:
        own = raw[arm][0].p, raw[arm][0].p_equivalent(primary.margin)
        if arm in counted:
            own = different[counted.index(arm)], equal[counted.index(arm)]
        findings.append(finding(design, runs, arm, primary.outcome, raw[arm], own, alpha))
    each_task = tasks if len(tasks) > 1 else []  # else the mean says it
    by_task = [
        explore(design, runs, (arm, BASELINE), name, alpha) for name in each_task for arm in arms
    ]
    flagged = saturated(runs, tasks)
    analysis = Analysis(design, runs, [], findings, by_task, flagged, look=look)
    analysis.pairs = [
        explore(design, runs, pair, name, alpha)
        for name in dict.fromkeys([primary.outcome, *each_task])
        for pair in design.study.pairs
        if common(runs, *pair)
    ]
    analysis.aggregates = aggregates(runs, [task for task in tasks if task not in flagged])
    analysis.soon = {arm: _soon(list(of.values())) for arm, of in runs.items()}
    analysis.effects, analysis.sooner = factor_effects(design, runs), sooner(design, runs)
    return analysis


def common(
    runs: Mapping[str, Mapping[int, Measured]], arm: str, against: str = BASELINE
) -> list[int]:
    """Seeds that two arms have."""
    return [seed for seed in runs.get(against, {}) if seed in runs.get(arm, {})]


Raw = tuple[s.Estimate, s.Estimate, list[s.Components], list[np.ndarray]]


def estimate(
    runs: Mapping[str, Mapping[int, Measured]],
    arm: str,
    outcome: str,
    tasks: Sequence[str],
    pooled: bool,
    against: str = BASELINE,
) -> Raw:
    """(with pooled seed noise where wanted and possible, with the arm's own, noise, differences)"""
    seeds = common(runs, arm, against)
    names = tasks if outcome == MEAN else [outcome]
    tables = [
        paired(
            [runs[against][seed].tasks[name] for seed in seeds],
            [runs[arm][seed].tasks[name] for seed in seeds],
            f"{arm} and {against}, {name}",
        )
        for name in names
    ]
    own, noise = s.contrast(tables)
    # A seed that one arm lacks would leave a hole in the two-way layout.
    shared = [seed for seed in runs[BASELINE] if all(seed in of for of in runs.values())]
    # With two arms the pooled and the own variance are one number.
    if not pooled or len(runs) < 3 or len(shared) < 2:
        return own, own, noise, tables
    values = [[of[seed].outcome(outcome, tasks) for seed in shared] for of in runs.values()]
    together, _ = s.contrast(tables, s.pooled_variance(np.array(values)))
    return together, own, noise, tables


def explore(
    design: Design,
    runs: Mapping[str, Mapping[int, Measured]],
    pair: tuple[str, str],
    outcome: str,
    alpha: float,
) -> Finding:
    """An arm against another, not corrected for how many there are."""
    (arm, against), study = pair, design.study
    raw = estimate(runs, arm, outcome, study.evaluation.tasks, study.pooled, against)
    own = raw[0].p, raw[0].p_equivalent(study.primary.margin)
    return replace(finding(design, runs, arm, outcome, raw, own, alpha, against), primary=False)


def finding(
    design: Design,
    runs: Mapping[str, Mapping[int, Measured]],
    arm: str,
    outcome: str,
    raw: Raw,
    p: tuple[float, float],
    alpha: float,
    against: str = BASELINE,
) -> Finding:
    """What can be said about an arm; `p` are both adjusted p values."""
    found, own, noise, tables = raw
    primary = design.study.primary
    counted = outcome == primary.outcome and arm in design.contrasts
    seeds, tasks = common(runs, arm, against), design.study.evaluation.tasks
    shares = [
        [runs[each][seed].outcome(outcome, tasks) / 100 for seed in seeds]
        for each in (against, arm)
    ]
    # There a t interval in points may reach beyond the scale.
    extreme = any(not 0.05 <= np.mean(each) <= 0.95 for each in shares)
    bounded = all(0 <= share <= 1 for each in shares for share in each)
    steady = None
    if extreme and bounded:
        steady = tuple(100 * end for end in s.stabilised(*shares, 1 - alpha))
    low, high = found.interval(1 - alpha)
    return Finding(
        arm=arm,
        outcome=outcome,
        mean=found.mean,
        low=low,
        high=high,
        p=p[0],
        p_equivalent=p[1],
        verdict=s.verdict(found, primary.margin, alpha, *p),
        primary=counted,
        seeds=found.seeds,
        pictures=found.pictures,
        own_interval=own.interval(1 - alpha),
        bootstrap=s.hierarchical_bootstrap(tables, confidence=1 - alpha),
        stabilised=steady,
        noise=noise,
        differences=np.mean([each.mean(axis=1) for each in tables], axis=0).tolist(),
        against=against,
    )


def saturated(runs: Mapping[str, Mapping[int, Measured]], tasks: Sequence[str]) -> dict[str, str]:
    """Tasks on which all arms are at the floor, or all at the ceiling."""
    found = {}
    for name in tasks:
        each = [run.tasks[name] for of in runs.values() for run in of.values()]
        # Bits per byte have no ceiling and no chance.
        if not each[0].higher:
            continue
        if all(one.score > CEILING for one in each):
            found[name] = f"ceiling: every run is above {CEILING:g}"
        elif all(one.score < one.floor + FLOOR for one in each):
            found[name] = f"floor: no run is {FLOOR:g} points above its blind baseline or chance"
    return found


def aggregates(
    runs: Mapping[str, Mapping[int, Measured]], tasks: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Arm → mean and interquartile mean of normalised scores ((score − floor) / (100 − floor), in
    points), probability that a run beats one of the baseline (mean over tasks), and Prismatic's
    mean z over arms. Tasks where less is better are left out."""
    first = next(iter(runs[BASELINE].values()))
    tasks = [name for name in tasks if first.tasks[name].higher and first.tasks[name].floor < 100]
    if not tasks:
        return {}
    means = {
        arm: [np.mean([run.tasks[name].score for run in of.values()]) for name in tasks]
        for arm, of in runs.items()
    }
    table = np.array(list(means.values()))
    # Where all arms score alike nobody stands out: z is 0.
    spread = table.std(axis=0)
    z = np.divide(table - table.mean(axis=0), spread, np.zeros_like(table), where=spread > 0)
    found = {}
    for place, (arm, of) in enumerate(runs.items()):
        normal = normalise(of.values(), tasks)
        better = [
            s.probability_of_improvement(
                [run.tasks[name].score for run in runs[BASELINE].values()],
                [run.tasks[name].score for run in of.values()],
            )
            for name in tasks
        ]
        found[arm] = {
            "normalised": float(np.mean(normal)),
            "iqm": s.interquartile_mean(normal),
            "improvement": float(np.mean(better)),
            "z": float(z[place].mean()),
        }
    return found


def normalise(runs: Iterable[Measured], tasks: Sequence[str]) -> list[float]:
    """Shares of the way from the floor to 100, in points, of every run and task."""
    return [
        100 * (run.tasks[n].score - run.tasks[n].floor) / (100 - run.tasks[n].floor)
        for run in runs
        for n in tasks
    ]


def _soon(runs: Sequence[Measured]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, value in how_soon(run.curve).items():
            found.setdefault(name, []).append(value)
    return found
