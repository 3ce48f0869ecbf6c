"""Sources read as a recipe's stages would read them, or for their text alone.

sources ─a counter for each─▶ survey ─▶ Surveyed
"""

from __future__ import annotations

from collections.abc import Sequence

from lucida.apps.data.counting import Count, Encoding, Words, processor_of
from lucida.apps.data.figures import Surveyed
from lucida.apps.data.guess import Opened
from lucida.apps.data.survey import Findings, chosen, survey
from lucida.core.errors import LucidaError


def surveyed(
    sources: Sequence[Opened], samples: int, tokenizer: str | None, processes: int
) -> list[Surveyed]:
    """What is found in up to `samples` records of each source, drawn at random.

    Tokens are counted by `tokenizer` (its path; text alone), or by the recipe that a source is of.
    A source that two stages read in the same way is read once.
    """
    done: dict[str, Findings] = {}
    counters: dict[str, tuple[Count | None, str]] = {}
    found = []
    for each in sources:
        way = _way(each)
        if way not in counters:
            counters[way] = counter_of(each, tokenizer)
        count, counted = counters[way]
        key = f"{way} {each.spec!r}"
        if key not in done:
            numbers = chosen(len(each.source), samples)
            done[key] = survey(each.source, numbers, count, processes)
        found.append(Surveyed(each, done[key], counted))
    return found


def _way(each: Opened) -> str:
    """What of a stage changes the tokens of a sample."""
    return "" if each.stage is None else f"{each.stage.template} {each.stage.loss}"


def counter_of(each: Opened, tokenizer: str | None) -> tuple[Count | None, str]:
    """What counts the tokens of a source, and in words how, or why nothing does."""
    if tokenizer is not None:
        from lucida.apps.plan.lengths import tokenizer_of

        return Words(tokenizer_of(tokenizer)), f"tokens of text alone, by {tokenizer}"
    if each.recipe is None or each.stage is None:
        return None, ""
    try:
        processor = processor_of(each.recipe, each.stage)
    except (LucidaError, OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0][:160]
        return None, f"words, because tokens cannot be counted: {reason}"
    told = (
        f"tokens as in training: template {processor.template}, loss {each.stage.loss}, "
        f"at most {processor.max_length:,}"
    )
    return Encoding(processor, each.stage.loss), told
