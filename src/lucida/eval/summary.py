"""From outputs to the numbers of one task: score, interval, guesses, baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lucida.core.errors import RunError
from lucida.eval.asking import Response
from lucida.eval.benchmark import Benchmark, Example, Parsed, ReadBox
from lucida.eval.plan import drop_thoughts, read_conclusion
from lucida.eval.statistics import Interval, bootstrap, compare_paired, resolve_difference
from lucida.eval.store import ScoredResponses


def score_responses(
    task: Benchmark,
    examples: Sequence[Example],
    said: Mapping[tuple[str, str], Response],
    read_box: ReadBox,
    think: bool = False,
) -> ScoredResponses:
    """Outputs with what they say and their scores. RunError when an example has no output."""
    found = []
    for example in examples:
        one = said.get((example.id, example.question))
        if one is None:
            raise RunError(
                "an example has no output, so there is no score over all of them",
                expected=f"{len(examples)} outputs of {task.name}",
                given=f"none for {example.id}",
                remedy="run the same command again; only what is missing is asked",
            )
        found.append(one)
    outputs = [one.output for one in found]
    parsed = [
        _read(task, e, text, read_box, think) for e, text in zip(examples, outputs, strict=True)
    ]
    reasons = [one.failed for one in found]
    if task.judged:
        scores = []
    else:
        scores = task.scores(examples, parsed)
        if len(scores) != len(examples):
            raise RunError(
                f"{task.name} gave another number of scores than there are examples",
                expected=len(examples),
                given=len(scores),
            )
        wrong = [place for place, score in enumerate(scores) if not math.isfinite(score)]
        if wrong:
            raise RunError(
                f"{len(wrong)} of {len(scores)} scores of {task.name} are not finite numbers",
                given=f"{scores[wrong[0]]} for the answer {outputs[wrong[0]][:40]!r}",
                origin=examples[wrong[0]].id,
                remedy="`lucida doctor` looks at the model; other tasks can be measured with "
                "--task",
            )
    return ScoredResponses(outputs, parsed, scores, [one.details for one in found], reasons)


def _read(task: Benchmark, example: Example, output: str, read_box: ReadBox, think: bool) -> Parsed:
    """What an output says; of a reasoning one its conclusion."""
    if think and task.declares:
        found = task.parse(example, drop_thoughts(output), read_box)
        if found is not None:
            return found
    # A task that teaches its own reasoning ends in the bare answer, without "the answer is".
    if think and task.reasoning:
        return task.parse(example, output.strip().rpartition(" ")[2], read_box)
    return task.parse(example, read_conclusion(output) if think else output, read_box)


def summarise(
    task: Benchmark,
    examples: Sequence[Example],
    answered: ScoredResponses,
    blind: Sequence[float] | None,
    samples: int,
    seed: int,
) -> dict:
    """The numbers of one task, as results.json holds them; scores are shares (1 is everything
    right).

    score, interval, n, clusters, metric, higher_is_better (false: the score is no share, lower is
    better); chance and majority (guessing); blind, blind_interval and gain (score minus blind,
    paired), blind_solved (the share of questions that the blind model answers, so no picture is
    needed) when there is a blind model, else null; kinds (the same score per kind of question);
    malformed (outputs that could not be read, scored 0); failed (questions never answered, scored
    as empty outputs); left_out (records that are no examples, if any); floor (the score is not
    surely above what guessing gives; answers about one picture never are); resolves (the smallest
    difference of two models that so many examples show); of (how many examples the whole benchmark
    has); totals (the named totals that papers print).
    """
    clusters = [example.cluster for example in examples]
    total = bootstrap(answered.scores, clusters, samples, seed)
    shares = task.higher_is_better and not task.together
    guesses, left_out = task.guesses(examples), task.left_out
    other = bootstrap(blind, clusters, samples, seed) if blind is not None else None
    gain = None
    if blind is not None:
        gain = compare_paired(answered.scores, blind, clusters, samples, seed)
    # The better guesser as a whole, so that a score is not compared with the best guess of each
    # question.
    guess = max(guesses.chance, guesses.majority, key=mean)
    above = compare_paired(answered.scores, guess, clusters, samples, seed)
    return {
        "score": total.mean,
        "interval": [total.low, total.high],
        "n": total.n,
        "of": task.count,
        "clusters": total.clusters,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "prompts": task.prompts,
        "chance": mean(guesses.chance),
        "majority": mean(guesses.majority),
        "floor": above.clusters == 1
        or (above.low <= 0 if task.higher_is_better else above.high >= 0),
        "blind": other.mean if other else None,
        "blind_interval": [other.low, other.high] if other else None,
        "gain": write_gain(gain),
        "blind_solved": None if blind is None or not shares else share_solved(blind),
        "resolves": resolve_difference(answered.scores, clusters),
        "kinds": summarise_kinds(examples, answered.scores, blind, samples, seed),
        "malformed": sum(value is None for value in answered.parsed),
        "failed": answered.failed,
        **({"left_out": left_out} if left_out else {}),
        "totals": dict(task.summary(examples, answered.parsed, answered.scores))
        | rank_totals(task, examples, answered),
        "headline": task.headline,
    }


def rank_totals(
    task: Benchmark, examples: Sequence[Example], answered: ScoredResponses
) -> dict[str, float]:
    """The totals that need likelihoods; none where an example has no likelihoods (it was asked
    another way, or never answered): they are of all examples or not at all."""
    numbers = [details.get("likelihoods") for details in answered.details]
    if not numbers or not all(numbers):
        return {}
    return dict(task.ranked(examples, [each["whole"] for each in numbers]))


def score_by_likelihood(
    task: Benchmark, examples: Sequence[Example], answered: ScoredResponses, read_box: ReadBox
) -> dict[str, float]:
    """The score when candidates are compared by their first token, the whole answer, and per token.

    Where two candidates begin with the same token the first of them is taken for `first`.
    """
    from lucida.eval.answerers.lucida_model import best
    from lucida.eval.asking import LIKELIHOODS

    scores = {}
    for name in LIKELIHOODS:
        parsed = []
        for example, details in zip(examples, answered.details, strict=True):
            numbers = details.get("likelihoods")
            chosen = example.candidates[best(numbers[name])] if numbers else ""
            parsed.append(task.parse(example, chosen, read_box))
        scores[name] = mean(task.scores(examples, parsed))
    return scores


def summarise_shortly(
    answered: ScoredResponses, examples: Sequence[Example], samples: int, seed: int
) -> dict[str, object]:
    """Score, interval and number alone, for what stands beside a task's own score."""
    clusters = [example.cluster for example in examples]
    total = bootstrap(answered.scores, clusters, samples, seed)
    return {"score": total.mean, "interval": [total.low, total.high], "n": total.n}


def compare_baseline(
    own: Sequence[float],
    answered: ScoredResponses,
    examples: Sequence[Example],
    samples: int,
    seed: int,
) -> dict[str, object]:
    """A baseline on the first of a task's examples, and how much better `own` is, the task's own
    scores of the same examples."""
    clusters = [example.cluster for example in examples]
    gain = compare_paired(own, answered.scores, clusters, samples, seed)
    return summarise_shortly(answered, examples, samples, seed) | {
        "gain": write_gain(gain),
        "solved": share_solved(answered.scores),
    }


def summarise_kinds(
    examples: Sequence[Example],
    scores: Sequence[float],
    blind: Sequence[float] | None,
    samples: int,
    seed: int,
) -> dict[str, dict]:
    """Score, interval, number and blind score for each kind of question, in order of the name."""
    rows = {}
    for kind in sorted({example.kind for example in examples}):
        places = [i for i, example in enumerate(examples) if example.kind == kind]
        clusters = [examples[i].cluster for i in places]
        part = bootstrap([scores[i] for i in places], clusters, samples, seed)
        rows[kind] = {
            "score": part.mean,
            "interval": [part.low, part.high],
            "n": part.n,
            "blind": None if blind is None else mean([blind[i] for i in places]),
        }
    return rows


def share_solved(scores: Sequence[float]) -> float:
    """The share of questions that are answered at least half rightly.

    Worked example: of the scores 1, 0.6, 0.3, 0 two of four.
    """
    return mean([float(score >= 0.5) for score in scores])


def write_gain(gain: Interval | None) -> dict | None:
    """A paired difference as results hold it."""
    return gain and {"mean": gain.mean, "interval": [gain.low, gain.high]}


def mean(values: Sequence[float]) -> float:
    """The mean of at least one number."""
    return sum(values) / len(values)
