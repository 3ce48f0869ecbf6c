"""All that a recipe needs, loaded where that can be done and told where it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.apps.fetch.needs import Need, needs_of
from lucida.core.errors import LucidaError
from lucida.core.progress import say
from lucida.core.spec import Recipe


def fetch(recipe: Recipe, only_tell: bool = False) -> list[Need]:
    """Load what the Hub has of a recipe's needs; what is left for a person to get is told and
    given. With `only_tell` nothing is loaded.

    LucidaError, after everything else was tried, when something could not be loaded.
    """
    from lucida.apps.fetch.hub import load

    needs = needs_of(recipe)
    if not needs:
        say(f"{recipe.name} needs nothing from elsewhere")
        return []
    there = [need for need in needs if need.here]
    loaded = [need for need in needs if need.repo and not need.here]
    for need in there:
        say(f"there: {need.what}: {need.place}")
    problems: list[LucidaError] = []
    for need in loaded:
        size = "" if need.gigabytes is None else f", {need.gigabytes:g} GB"
        say(f"{'of the Hub' if only_tell else 'loading'}: {need.what} ({need.licence}{size})")
        if only_tell:
            continue
        try:
            say(f"here now: {load(need)}")
        except LucidaError as problem:
            say(f"not loaded: {problem}")
            problems.append(problem)
    left = [need for need in needs if not need.repo and not need.here]
    tell_left(left)
    say(f"{len(there)} of {len(needs)} were there, {len(loaded) - len(problems)} "
        f"{'would be' if only_tell else 'were'} loaded, {len(left)} are left for you")  # fmt: skip
    if problems:
        message = f"{len(problems)} of {len(loaded)} could not be loaded; the first: {problems[0]}"
        raise LucidaError(message)
    return left


def tell_left(needs: Sequence[Need]) -> None:
    """What has to be fetched by hand: its place, licence and address."""
    for need in needs:
        size = "" if need.gigabytes is None else f", about {need.gigabytes:g} GB"
        say(
            f"by hand: {need.what} ({need.licence}{size})\n  from {need.address}\n  to {need.place}"
        )
