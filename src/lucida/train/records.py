"""What a run writes down while it trains, and what it tells of a stage that is over.

    metrics.jsonl    a line for each step, with the share of every source; before a checkpoint what
                     was cut or left out of the data since the one before
    dropped.jsonl    the same as sums over the stage, and the rows that filters keep out

Both are exact for a run that was stopped: lines behind the checkpoint it goes on from are removed,
and the sums are made from the lines that stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lucida.core.progress import say, table
from lucida.core.runs import RunFolder
from lucida.core.spec import StageSpec
from lucida.train.begin import Plan, Training
from lucida.train.divergence import KEY as DIVERGED
from lucida.train.divergence import REMEDY, stage_verdict
from lucida.train.state import Position
from lucida.train.step import StepResult

TENTH = 10
"""The closing table compares the first and the last of so many parts of a stage."""


def record(training: Training, stage: StageSpec, values: Mapping[str, object]) -> None:
    """Write a line of metrics.jsonl, with its place in the run; `step` counts within the stage."""
    if training.engine.main:
        position = training.position
        place = {"stage": stage.name, "step": position.step, "total_step": position.total}
        training.run.metrics.append(place | dict(values))


def step_record(
    position: Position, result: StepResult, lr: float, seconds: float, waited: float
) -> dict:
    """The values of one step; rates are of this step alone."""
    return {
        "loss": result.loss,
        "lr": lr,
        "grad_norm": result.grad_norm,
        "skipped": result.skipped,
        "samples": position.samples,
        "tokens": position.tokens,
        "supervised": result.supervised,
        "tokens_per_second": result.tokens / seconds,
        "samples_per_second": result.samples / seconds,
        "data_wait": waited / seconds,
        "seconds": position.seconds,
    }


def source_record(stage: StageSpec, result: StepResult) -> dict:
    """Samples of every source in a step; of several sources the loss on each as well, a mean over
    its supervised tokens. Sources without one are left out of it."""
    sources = result.sources
    values: dict = {"sources": {name: share.samples for name, share in sources.items()}}
    if len(sources) > 1:
        told = {name: share for name, share in sources.items() if share.supervised}
        values["source_loss"] = {name: share.loss for name, share in told.items()}
        values["source_supervised"] = {name: share.supervised for name, share in told.items()}
    if stage.objective.weighting != "token":
        values["token_loss"] = result.token_loss
    return values


def record_left_out(training: Training, current: Plan) -> None:
    """Record what was cut or left out of the data since the last call, all ranks together."""
    lost: Counter[tuple[str, str]] = Counter()
    for each in training.engine.gathered(current.feed.newly_lost()):
        lost.update(each)
    if lost:
        record(training, current.stage, {"left_out": by_source(lost)})


def by_source(lost: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Source → reason → how many, in the order of their names."""
    found: dict[str, dict[str, int]] = {}
    for (source, reason), many in sorted(lost.items()):
        found.setdefault(source, {})[reason] = many
    return found


def close(training: Training, current: Plan) -> None:
    """Tell what a stage used, cut and left out."""
    if not training.engine.main:
        return
    stage = current.stage
    rows = [row for row in training.run.metrics.read() if row.get("stage") == stage.name]
    if losses := source_rows(rows):
        columns = ["source", "samples", "supervised tokens", "loss, first tenth", "last tenth"]
        table(f"stage {stage.name}: loss by source", columns, losses)
    for source, reasons in sum_up(training.run, stage, rows).items():
        said = ", ".join(f"{many:,} {reason}" for reason, many in reasons.items())
        say(f"stage {stage.name}, {source}: {said}")
    for line in current.feed.uncomputed():
        say(f"stage {stage.name}, {line}")


def judge(training: Training, current: Plan) -> None:
    """Record that a stage has diverged, and say so loudly; what follows from it is the run's."""
    if not training.engine.main:
        return
    words = training.model.get_output_embeddings().weight.shape[0]
    name = current.stage.name
    if why := stage_verdict(training.run.metrics.read(), name, words):
        record(training, current.stage, {DIVERGED: f"stage {name}: {why}"})
        say(f"WARNING: stage {name} has diverged: {why}; {REMEDY}")


def sum_up(run: RunFolder, stage: StageSpec, rows: Sequence[Mapping]) -> dict[str, dict[str, int]]:
    """What the steps of a stage cut or left out (source → reason → how many); written down too."""
    lost: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.get("stage") == stage.name:
            for source, reasons in row.get("left_out", {}).items():
                lost.update({(source, reason): many for reason, many in reasons.items()})
    found = by_source(lost)
    run.dropped.count(stage.name, "training", found)
    return found


def source_rows(rows: Sequence[Mapping]) -> list[list]:
    """A line for each source of a stage's records: samples, supervised tokens, and the loss over
    the first and the last tenth of the steps, None where the source has no token in them."""
    steps = [row for row in rows if "source_loss" in row]
    part = max(1, len(steps) // TENTH)
    found = []
    for name in steps[0]["sources"] if steps else ():
        samples = sum(row["sources"][name] for row in steps)
        tokens = sum(row["source_supervised"].get(name, 0) for row in steps)
        ends = (mean_loss(name, steps[:part]), mean_loss(name, steps[-part:]))
        found.append([name, samples, tokens, *ends])
    return found


def mean_loss(name: str, steps: Sequence[Mapping]) -> float | None:
    """Mean loss of a source over all of its supervised tokens in these steps."""
    tokens = {at: row["source_supervised"].get(name, 0) for at, row in enumerate(steps)}
    if not (total := sum(tokens.values())):
        return None
    summed = sum(many * steps[at]["source_loss"][name] for at, many in tokens.items() if many)
    return summed / total


def tell_left_out(training: Training) -> None:
    """Say, once the run is over, what no step has seen whole."""
    if not training.engine.main:
        return
    rows = training.run.metrics.read()
    for stage in training.recipe.stages:  # one may have ended just before its process was killed
        sum_up(training.run, stage, rows)
    for source, reasons in training.run.dropped.totals().items():
        said = ", ".join(f"{many:,} × {reason}" for reason, many in reasons.items())
        say(f"left out of {source}: {said} ({training.run.dropped.path})")
