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

from lucida.core.progress import say
from lucida.core.runs import RunFolder
from lucida.core.spec import StageSpec
from lucida.training.state import Position
from lucida.training.step import StepResult

TENTH = 10
"""The closing table compares the first and the last of so many parts of a stage."""


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
        # A mean over no token is no number.
        told = {name: share for name, share in sources.items() if share.supervised}
        values["source_loss"] = {name: share.loss for name, share in told.items()}
        values["source_supervised"] = {name: share.supervised for name, share in told.items()}
    if stage.objective.weighting != "token":
        values["token_loss"] = result.token_loss
    return values


def by_source(lost: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Source → reason → how many, in the order of their names."""
    found: dict[str, dict[str, int]] = {}
    for (source, reason), many in sorted(lost.items()):
        found.setdefault(source, {})[reason] = many
    return found


def sum_up(run: RunFolder, stage: str, rows: Sequence[Mapping]) -> dict[str, dict[str, int]]:
    """What the steps of a stage cut or left out (source → reason → how many); written down too."""
    lost: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.get("stage") == stage:
            for source, reasons in row.get("left_out", {}).items():
                lost.update({(source, reason): many for reason, many in reasons.items()})
    found = by_source(lost)
    run.dropped.count(stage, "training", found)
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


def tell_left_out(run: RunFolder, stages: Sequence[StageSpec]) -> None:
    """Say, once a run is over, what no step has seen whole."""
    rows = run.metrics.read()
    for stage in stages:  # one may have ended just before its process was killed
        sum_up(run, stage.name, rows)
    for source, reasons in run.dropped.totals().items():
        said = ", ".join(f"{many:,} × {reason}" for reason, many in reasons.items())
        say(f"left out of {source}: {said} ({run.dropped.path})")
