"""Sources read as a recipe's stages would read them, or for their text alone.

sources ─a Reader for each─▶ survey ─▶ Surveyed
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lucida.apps.data.figures import Surveyed
from lucida.apps.data.guess import Opened
from lucida.apps.data.survey import PLAIN, Findings, TakeFigures, chosen, survey
from lucida.apps.weightless import tokenizer_of, weightless_processor
from lucida.core.errors import LucidaError, ModelError
from lucida.data.order import capacity
from lucida.data.reader import Reader


def surveyed(
    sources: Sequence[Opened],
    samples: int | None,
    tokenizer: str | None,
    processes: int,
    every: bool = False,
) -> list[Surveyed]:
    """What is found in up to `samples` records of each source (None: all), drawn at random.

    Tokens are counted by `tokenizer` (its path; text alone), or by the recipe that a source is of.
    A source that two stages read in the same way is read once. With `every` a recipe's records have
    to be encoded as in training: LucidaError when that cannot be done here.
    """
    done: dict[str, Findings] = {}
    readers: dict[str, tuple[Reader, str]] = {}
    found = []
    for each in sources:
        way = _way(each)
        if way not in readers:
            readers[way] = reader_of(each, tokenizer, every)
        reader, counted = readers[way]
        key = f"{way} {each.spec!r}"
        if key not in done:
            numbers = chosen(len(each.source), samples)
            done[key] = survey(each.source, numbers, reader, processes)
        found.append(Surveyed(each, done[key], counted))
    return found


def _way(each: Opened) -> str:
    """What of a stage changes the tokens of a sample."""
    if each.stage is None:
        return ""
    return f"{each.stage.template} {each.stage.loss} {capacity(each.stage.batch)}"


def reader_of(each: Opened, tokenizer: str | None, needed: bool = False) -> tuple[Reader, str]:
    """What reads the records of a source, and in words how their tokens are counted, or why they
    are not (ModelError when they are `needed`)."""
    if tokenizer is not None:
        words = TakeFigures(tokenizer_of(tokenizer))
        return Reader(None, look=words), f"tokens of text alone, by {tokenizer}"
    if each.recipe is None or each.stage is None:
        return PLAIN, ""
    try:
        processor = weightless_processor(each.recipe, each.stage)
    except (LucidaError, OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0][:160]
        if needed:
            raise ModelError(
                f"the records cannot be encoded as training would: {reason}",
                origin=f"stage {each.stage.name} of recipe {each.recipe.name}",
                remedy="get the tokenizer and the parts, or check each source by its path",
            ) from problem
        return PLAIN, f"words, because tokens cannot be counted: {reason}"
    told = (
        f"tokens as in training: template {processor.template}, loss {each.stage.loss}, "
        f"at most {processor.max_length:,}"
    )
    if (row := capacity(each.stage.batch)) is not None:
        told += f", rows of {row:,}"
    return Reader(partial(processor.encode, loss=each.stage.loss), row, TakeFigures()), told


def consequence(each: Surveyed) -> str:
    """What training makes of the records that cannot be used; empty where there are none, or where
    the source is of no recipe."""
    lost, records = len(each.found.errors), each.found.read
    if each.each.stage is None or not lost:
        return ""
    mixture, stage = each.each.stage.mixture, each.each.stage.name
    if mixture.on_error == "error":
        return f"stage {stage} stops at the first of {lost:,} records that it meets"
    share = f"{lost:,} of {records:,} records ({lost / records:.1%}) by others"
    if lost > mixture.max_dropped * records:
        limit = f"max_dropped allows {mixture.max_dropped:.1%}"
        return f"stage {stage} would replace {share}, and stops on the way: {limit}"
    return f"stage {stage} replaces {share}"
