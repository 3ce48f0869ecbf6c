"""All measurements of a task that results.json keeps: none is replaced by a smaller or other one.

    tasks    task → the measurement of most questions, of equally many the latest: its score
    others   task → the rest, those of most questions first

Two are the same measurement, of which the later one stays, when they are of equally many questions
in the same words (prompts, aloud or not). What was measured beside a score (other ways to ask,
demonstrations) is taken over by a later measurement in the same words of at least as many
questions.
"""

from __future__ import annotations

from collections.abc import Mapping

Summary = dict[str, object]
BESIDE = ("ways", "shots")


def words_of(summary: Mapping[str, object]) -> tuple[object, bool]:
    """In what words a task was asked."""
    return summary.get("prompts"), bool(summary.get("think"))


def add(results: dict, name: str, summary: Summary) -> None:
    """Put a new measurement of a task into `results`.

    Worked example: 1,000 questions, then 60: `tasks` keeps the 1,000, `others` has the 60. Then
    1,000 again: `tasks` has the new ones, `others` still the 60.
    """
    tasks, others = results.setdefault("tasks", {}), results.setdefault("others", {})
    earlier = [tasks[name]] if name in tasks else []
    known = [*earlier, *others.pop(name, [])]
    for before in known:
        if words_of(before) == words_of(summary) and before.get("n", 0) <= summary["n"]:
            for part in BESIDE:
                if both := {**before.get(part, {}), **summary.get(part, {})}:
                    summary[part] = both
            break  # the largest of them has what the smaller ones had
    rest = [each for each in known if _identity(each) != _identity(summary)]
    largest, *rest = sorted([summary, *rest], key=lambda each: -each.get("n", 0))
    tasks[name] = largest
    for each in rest:  # answers in other words in the same file are replaced
        same_file = each.get("predictions") == largest.get("predictions")
        if same_file and words_of(each) != words_of(largest):
            each.pop("predictions", None)
    if rest:
        others[name] = rest
    if not others:
        del results["others"]


def is_largest(results: Mapping[str, object], name: str, count: int) -> bool:
    """Whether a measurement of so many questions would be the score of the task."""
    return count >= results.get("tasks", {}).get(name, {}).get("n", 0)


def _identity(summary: Mapping[str, object]) -> tuple[object, ...]:
    return (summary.get("n"), *words_of(summary))
