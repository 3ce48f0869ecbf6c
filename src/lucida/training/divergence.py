"""Whether a stage learned or fell apart, by its losses.

    first   mean loss over the first tenth of the steps
    last    mean loss over the last tenth

A stage has diverged when `last` is surely above `first`: by more than a tenth of it and by more
than three standard errors (of fewer than 20 steps, which say little: by more than half of it); or
when it is above what uniform guessing over the vocabulary has, log(words), by more than a tenth,
and not below where the stage began (losses of pairs have no such bound: IPO's begins at
1 / (2 beta)², 25 with a beta of 0.1). A number that is not finite ends a run at once.

The model of a run whose last stage diverged is saved and can be evaluated, but the run does not end
as trained: it is an error, and `lucida runs` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance

from lucida.core.errors import RunError

KEY = "diverged"
"""Under what name metrics.jsonl holds it."""
TENTH = 10
FEW = 20
"""Steps below which only a rise by half counts."""
SURELY = 3.0
"""Standard errors of a rise."""
REMEDY = (
    "lower the learning rates, lengthen optim.warmup, or set optim.clip; begin again in another "
    "folder with --run DIR"
)


class Diverged(RunError):
    """Training went on until its end, or stopped at a number that is not finite, and did not
    learn."""


def verdict(losses: Sequence[float], words: int | None) -> str | None:
    """Why a stage of these losses, one for each step, has diverged; None when it has not. words: of
    the vocabulary; None where the losses are none of tokens (preference), which no guess bounds.

    Worked example: 100 losses of about 3, the last ten about 9,000, 512 words: it has, twice over.
    """
    if len(losses) < 2:
        return None
    part = max(1, len(losses) // TENTH)
    begin, end = losses[:part], losses[-part:]
    first, last = fmean(begin), fmean(end)
    guess = math.inf if words is None else math.log(words)
    told = f"its loss is {last:,.4g} over the last tenth of its steps, {first:,.4g} over the first"
    if not math.isfinite(last):
        return told
    if len(losses) < FEW:
        return told if last > 1.5 * first else None
    # The standard error of a difference of two means, the steps taken as independent.
    error = math.sqrt((pvariance(begin) + pvariance(end)) / part)
    if last - first > max(first / TENTH, SURELY * error):
        return told
    if last > guess * (1 + 1 / TENTH) and last >= first:
        return f"{told}; guessing every token alike would have {guess:.4g}"
    return None


def stage_verdict(rows: Sequence[Mapping], stage: str, words: int | None) -> str | None:
    """`verdict` of a stage from the lines of metrics.jsonl."""
    steps = [row for row in rows if row.get("stage") == stage and "grad_norm" in row]
    losses = [math.inf if row.get("loss") is None else float(row["loss"]) for row in steps]
    return verdict(losses, words)
