"""A study that may stop early: run to each declared look, and on only where something is open."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.progress import say
from lucida.study.analysis import analyse, is_decided
from lucida.study.design import Design
from lucida.study.execute import StudyFolder, run_study


def run_to_looks(
    design: Design,
    folder: StudyFolder,
    jobs: int = 1,
    again: bool = False,
    executor: str = "local",
    arms: Sequence[str] = (),
) -> None:
    """`run_study`, where the study has looks in parts: it stops at the first at which every
    declared arm has a verdict. RunError as there."""
    seeds = design.study.seeds
    for count in design.study.primary.looks or [len(seeds)]:
        run_study(design, folder, jobs, again, executor, arms, seeds[:count])
        # With some arms only, the others have no verdict that the study could stop on.
        if count < len(seeds) and not arms and is_decided(analyse(design, folder)):
            say(f"decided after {count} of {len(seeds)} seeds: the study stops here, as declared")
            return
