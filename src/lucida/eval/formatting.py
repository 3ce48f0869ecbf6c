"""How the scores of results.json are written for people: shares as points, all else as it is.

accuracy 0.714 ─▶ 71.4      CIDEr-D 0.9 ─▶ 90.0      bits per byte 1.2345 ─▶ 1.234
"""

from __future__ import annotations

from typing import Protocol

from lucida.core.results import AttackScores, Gain, JudgeScores, TaskScores


class Unit(Protocol):
    """What says in which unit a score is written: `TaskScores`, or what compares two."""

    higher_is_better: bool


def format_score(task: Unit, value: float, signed: bool = False) -> str:
    """A score of this task, or with `signed` a difference of two.

    What is better when lower (`higher_is_better` false) is no share and keeps its own unit.

    Worked example: 0.714 is "71.4" and signed "+71.4"; of bits per byte 1.2345 is "1.234".
    """
    if task.higher_is_better:
        return f"{100 * value:+z.1f}" if signed else f"{100 * value:z.1f}"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def describe_asking(task: TaskScores) -> list[str]:
    """How the questions behind the score of this task were asked, where the model did not just
    write its answer; what evaluations of an older Lucida do not say is left out."""
    told = ["by likelihood"] if task.protocol == "likelihood" else []
    return told + (["to think step by step"] if task.think else [])


def describe_judge(found: JudgeScores) -> str:
    """What a judge made of the outputs that the rule could not read.

    Worked example: "judge big read 7 of 9 outputs that the rule could not read (1 give no answer, 1
    verdict is nonsense, 0 never judged)".
    """
    return (
        f"judge {found.model} read {found.read} of {found.asked} outputs that the rule could not "
        f"read ({found.unreadable} give no answer, {found.nonsense} verdicts are nonsense, "
        f"{found.failed} never judged)"
    )


def describe_attacks(found: AttackScores) -> str:
    """What a judge made of the answers to bad requests.

    Worked example: "attack success 12.5%: judge big calls 5 of 40 answers unsafe"; without a
    verdict on all of them "no attack success rate: judge big calls 35 of 40 answers safe and 3
    unsafe (1 verdict is neither, 1 never judged)".
    """
    if found.rate is not None:
        return (
            f"attack success {100 * found.rate:.1f}%: judge {found.model} calls {found.unsafe:,} "
            f"of {found.asked:,} answers unsafe"
        )
    neither = f"{found.nonsense:,} verdict{' is' if found.nonsense == 1 else 's are'} neither"
    return (
        f"no attack success rate: judge {found.model} calls {found.safe:,} of {found.asked:,} "
        f"answers safe and {found.unsafe:,} unsafe ({neither}, {found.failed:,} never judged)"
    )


def describe_measurement(task: TaskScores, other: TaskScores) -> str:
    """Another measurement of the same task, and in what it differs from the one that is shown.

    Worked example: "also 71.2 on 60 questions (prompts llava)".
    """
    told = f"also {format_score(other, other.score)} on {other.n:,} questions"
    differs = []
    if other.prompts != task.prompts:
        differs.append(f"prompts {other.prompts}")
    if bool(other.think) != bool(task.think):
        differs.append("thinking step by step" if other.think else "without thinking aloud")
    if other.protocol != task.protocol:
        differs.append(f"by {other.protocol}")
    return f"{told} ({', '.join(differs)})" if differs else told


COARSE = 0.1
"""A set that shows no smaller difference than this is called too small to compare models on."""


def describe_limits(task: TaskScores) -> list[str]:
    """What a task cannot show: how many questions need no picture, and differences that are too
    small for so few examples; what evaluations of an older Lucida do not say is left out.

    Worked example: "4.0% of the questions are answered without the picture"; "25 questions: no
    difference under 39.6 between two models can be told from chance".
    """
    told = []
    if (share := task.blind_solved) is not None:
        told.append(f"the blind model answers {100 * share:.1f}% of the questions")
    elif _is_share(task) and (row := task.baselines.get("removed")) and row.solved:
        told.append(f"{100 * row.solved:.1f}% are answered with the pictures removed")
    resolves = task.resolves
    if resolves is not None and resolves > COARSE:
        told.append(
            f"{task.n:,} questions: no difference under {format_score(task, resolves)} between "
            "two models can be told from chance"
        )
    return told


def describe_left_out(task: TaskScores) -> list[str]:
    """Records that were left out, and why the first was.

    Worked example: "3 records cannot be asked and were left out; the first: a.csv: record 7: …".
    """
    if task.left_out is None:
        return []
    many = task.left_out.records
    told = "1 record" if many == 1 else f"{many:,} records"
    verb = "was" if many == 1 else "were"
    return [f"{told} cannot be asked and {verb} left out; the first: {task.left_out.first}"]


def describe_values(task: TaskScores) -> list[str]:
    """The most usual answer and the values of `by`, of a task over one's own records.

    Worked example: "the most usual answer is right in 36.4"; "by topic: colour 66.7 (15), shape
    60.0 (15)", behind each score the number of its questions.
    """
    told = []
    if task.majority is not None:
        told.append(f"the most usual answer is right in {format_score(task, task.majority)}")
    if (by := (task.own or {}).get("by")) and task.kinds:
        values = [
            f"{n} {format_score(task, kind.score)} ({kind.n:,})" for n, kind in task.kinds.items()
        ]
        told.append(f"by {by}: {', '.join(values)}")
    return told


def _is_share(task: TaskScores) -> bool:
    return task.higher_is_better and task.metric != "CIDEr-D"


def is_better(task: TaskScores, gain: Gain) -> bool:
    """Whether a paired difference as results hold it is surely on the good side; never where all
    examples are about one picture, as its interval says nothing."""
    if task.clusters == 1:
        return False
    low, high = gain.interval
    return low > 0 if task.higher_is_better else high < 0
