"""Putting many questions to a model: who answers, in what order, and what comes back.

    jobs (task, variant, examples) ──by pictures──▶ chunks
                                                     └─Answerer.stream──▶ (job, example, Response)

Whatever answers (a Lucida run, a transformers model, an endpoint) is an `Answerer`. Answers are
handed on as they come, so that each can be written down before the next is awaited.
"""

from __future__ import annotations

import typing
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lucida.core.errors import DataError
from lucida.core.files import make_writable
from lucida.core.progress import Progress
from lucida.eval.benchmark import Benchmark, Example, Protocol, ReadBox
from lucida.eval.ranks import share

CHUNK = 512
"""Questions that are handed over at once; more when they share their pictures."""


LIKELIHOODS = ("whole", "first", "normalised")
"""What candidates can be compared by; the first decides."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one example. `details` is stored beside it (likelihoods of candidates).

    `failed` says why nothing came back: then `output` is empty, it is scored as it stands, counted
    apart, and asked again the next time.
    """

    output: str
    details: Mapping[str, object] = field(default_factory=dict)
    failed: str | None = None


class Answerer(typing.Protocol):
    """Whatever answers examples.

    identity    JSON values that name the model; stored answers of another identity are not used
    protocols   how it can be asked
    read_box    reads the boxes that it writes
    """

    identity: Mapping[str, object]
    protocols: tuple[Protocol, ...]
    read_box: ReadBox

    def stream(
        self, examples: Sequence[Example], protocol: Protocol, max_new_tokens: int
    ) -> Iterator[tuple[int, Response]]:
        """(index of the example, what it said), each exactly once, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """Examples of one task to be asked in one way, and where the answers go (`key`).

    `new_tokens` is how long an answer can be, in place of what the task says.
    """

    key: str
    task: Benchmark
    protocol: Protocol
    examples: Sequence[Example]
    new_tokens: int | None = None


def answers(
    jobs: Sequence[Job], answerer: Answerer, max_new_tokens: int, label: str
) -> Iterator[tuple[Job, Example, Response]]:
    """What is said to every example of every job, as it comes.

    The order is that of the pictures: tasks that ask about the same pictures share the work of
    looking at them. It does not change an answer, because no question sees another. Of several
    processes (torchrun) each asks its share.
    """
    # One stream for each length: an answer may not be longer because its neighbour may.
    groups: dict[tuple[Protocol, int], list[tuple[Job, Example]]] = defaultdict(list)
    for job in jobs:
        limit = job.new_tokens or job.task.max_new_tokens or max_new_tokens
        groups[job.protocol, limit] += [(job, example) for example in job.examples]
    chosen = {
        setting: share(sorted(pairs, key=pictures), pictures) for setting, pairs in groups.items()
    }
    with Progress(label, sum(map(len, chosen.values())), "question") as progress:
        for (protocol, limit), pairs in chosen.items():
            for chunk in chunks(pairs):
                asked = [example for _, example in chunk]
                for index, said in explain_errors(answerer.stream(asked, protocol, limit), chunk):
                    job, example = chunk[index]
                    if protocol == "generate":
                        output = cut_at_stop(make_writable(said.output), job.task.stop)
                        said = Response(output, said.details, said.failed)
                    yield job, example, said
                    progress.advance()


def explain_errors(
    stream: Iterator[tuple[int, Response]], asked: Sequence[tuple[Job, Example]]
) -> Iterator[tuple[int, Response]]:
    """The same answers; a DataError as the tasks that are asked explain it."""
    try:
        yield from stream
    except DataError as reason:
        error = reason
        for task in dict.fromkeys(job.task for job, _ in asked):
            error = task.explain(error)
        raise error from reason.__cause__


def cut_at_stop(output: str, stop: Sequence[str]) -> str:
    """The output up to the first of the texts at which it ends.

    Worked example: `cut_at_stop("red\\nQuestion: and", ["\\nQuestion:"])` is "red".
    """
    ends = [output.find(text) for text in stop if text in output]
    return output[: min(ends)] if ends else output


def pictures(pair: tuple[Job, Example]) -> tuple[str, ...]:
    """What identifies the pictures of a question."""
    return tuple(source.key for source in pair[1].sample.images)


def chunks(pairs: Sequence[tuple[Job, Example]]) -> Iterator[Sequence[tuple[Job, Example]]]:
    """Runs of at least `CHUNK` questions; those about the same pictures stay together."""
    start = 0
    for end in range(1, len(pairs) + 1):
        last = end == len(pairs)
        if last or (end - start >= CHUNK and pictures(pairs[end]) != pictures(pairs[end - 1])):
            yield pairs[start:end]
            start = end
