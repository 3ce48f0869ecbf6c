"""A judge that reads what a task's rule cannot, beside the official score and never mixed into it.

    outputs that the rule reads as nothing ─▶ "which of these does the reply give?" ─▶ one of them
                                                      │                                  │ the rule
                                   FOLDER/judge/predictions/TASK.jsonl                scored again

The judge is a model behind an OpenAI-compatible address. It is shown the question in words, the
answers that can be chosen, and the reply; neither pictures nor the truth. What it says the reply
gives is read and scored by the task's own rule, so it never decides what is right. Only outputs
that the rule could not read reach it: everything else keeps its official score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.results import JudgeScores
from lucida.data.sample import Sample, Turn
from lucida.eval.asking import Job, Response
from lucida.eval.benchmark import Benchmark, Example, Parsed, ReadBox
from lucida.eval.formatting import describe_judge
from lucida.eval.plan import drop_thoughts
from lucida.eval.statistics import bootstrap
from lucida.eval.store import ScoredResponses, Store

if TYPE_CHECKING:
    from pathlib import Path

    from lucida.eval.answerers.endpoint import EndpointAnswerer

NOTHING = "NONE"
"""What the judge says where a reply gives no answer."""

PROMPT = """Below are a question and a reply to it. Say which answer the reply gives. Do not answer
the question yourself, and do not say whether the reply is right.

Question:
{question}

Reply:
{reply}

Write {choices}, or {nothing} if the reply gives no answer or several. Write nothing else."""

CHOICES, FREE = "exactly one of these: {}", "the answer alone, in the words of the reply"

MARKS = "*`'\"()[]"
"""What judges write around an answer."""

WORDS = 64
"""Tokens of a verdict at most."""


def read_by_judge(
    folder: Path,
    job: Job,
    answered: ScoredResponses,
    answerer: EndpointAnswerer,
    read_box: ReadBox,
    samples: int = 2000,
    seed: int = 0,
) -> JudgeScores:
    """What the judge made of a task's unreadable outputs, and the score of all examples with them.

    Verdicts are kept in `folder`/judge and asked once: of this judge, these words and this reply.
    RunError when the judge answered none of what it was asked.
    """
    unread = list_unread(job, answered)
    asked = {
        place: question_for(job.examples[place], reply)
        for place in unread
        if (reply := drop_thoughts(answered.outputs[place]).strip())
    }
    said = ask_judge(folder / "judge", job, list(asked.values()), answerer, {"prompt": PROMPT})
    parsed, counts = list(answered.parsed), {"read": 0, "unreadable": 0, "nonsense": 0, "failed": 0}
    counts["unreadable"] += len(unread) - len(asked)  # empty: there is nothing to read
    for place, example in asked.items():
        state, found = read_verdict(
            job.task, job.examples[place], said[example.id, example.question], read_box
        )
        counts[state] += 1
        if state == "read":
            parsed[place] = found
    reasons = [response.failed for response in said.values() if response.failed is not None]
    if asked and counts["failed"] == len(asked):
        raise RunError(
            f"the judge answered none of {len(asked)} replies to {job.task.name}",
            given=reasons[0],
            origin=answerer.address,
            remedy="the official scores are written; run the same command again when it answers",
        )
    total = bootstrap(
        job.task.scores(job.examples, parsed),
        [example.cluster for example in job.examples],
        samples,
        seed,
    )
    found = JudgeScores(
        endpoint=answerer.identity["endpoint"],
        model=answerer.model,
        prompt=PROMPT,
        asked=len(unread),
        score=total.mean,
        interval=[total.low, total.high],
        **counts,
    )
    say(f"{job.task.name}: {describe_judge(found)}")
    return found


def list_unread(job: Job, answered: ScoredResponses) -> list[int]:
    """The places of outputs in which the task's rule finds no answer; boxes are not among them."""
    return [
        place
        for place, (example, parsed) in enumerate(zip(job.examples, answered.parsed, strict=True))
        if not job.task.is_read(example, parsed)
        and answered.reasons[place] is None
        and example.box is None
    ]


def ask_judge(
    folder: Path,
    job: Job,
    examples: list[Example],
    answerer: EndpointAnswerer,
    words: Mapping[str, str],
) -> dict[tuple[str, str], Response]:
    """Verdicts on replies to a task, asked now or read back from `folder`; those of another judge
    or in other `words` are not used."""
    store, asked = Store(folder), replace(job, examples=examples, new_tokens=WORDS)
    with store.writing():
        store.settle({**answerer.identity, **words})
        said, _ = store.ask([asked], answerer, WORDS, f"judge {job.task.name}")
    return said[job.key]


def question_for(example: Example, reply: str) -> Example:
    """What the judge is asked about a reply: words alone."""
    names = choices_of(example)
    text = PROMPT.format(
        question=example.question,
        reply=reply,
        choices=CHOICES.format(", ".join(names)) if names else FREE,
        nothing=NOTHING,
    )
    return reword(example, text)


def reword(example: Example, text: str) -> Example:
    """The example with this question in place of its own, and no picture."""
    sample = Sample(example.sample.origin, (), (), ((Turn("user", (text,)),),))
    return replace(example, sample=sample, question=text, candidates=())


def strip_marks(verdict: str) -> str:
    """A verdict without thoughts, and without what judges write around an answer.

    Worked example: " **Unsafe**.\n" -> "Unsafe".
    """
    return drop_thoughts(verdict).strip().strip(MARKS).rstrip(f"{MARKS}. \n")


def choices_of(example: Example) -> Sequence[str]:
    """What the judge may choose from: what the rule reads as an answer. Empty where it is free."""
    return example.candidates or example.options


def read_verdict(
    task: Benchmark, example: Example, said: Response, read_box: ReadBox
) -> tuple[str, Parsed]:
    """`read` and what the rule makes of it; `unreadable`: the reply gives no answer; `nonsense`:
    the verdict is none of the choices, or nothing that the rule can read; `failed`: none came."""
    if said.failed is not None:
        return "failed", None
    written = drop_thoughts(said.output).strip()
    inside, bare = written.strip(MARKS), strip_marks(said.output)
    if bare.casefold() == NOTHING.casefold():
        return "unreadable", None
    verdict, names = bare, choices_of(example)
    if names:
        # A choice may itself end in a period or stand in brackets; else "**B**." and "(B)" are B.
        known = {name.casefold(): name for name in names}
        forms = (known.get(form.casefold()) for form in (written, inside, bare))
        verdict = next((name for name in forms if name is not None), None)
        if verdict is None:
            return "nonsense", None
    found = task.parse(example, verdict, read_box) if verdict else None
    return ("read", found) if task.is_read(example, found) else ("nonsense", None)
