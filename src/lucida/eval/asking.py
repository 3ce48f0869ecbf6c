"""Putting many questions to a model, those about the same pictures together whatever their task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.progress import Progress
from lucida.eval.benchmark import Example, ReadBox
from lucida.eval.metrics.boxes import Box

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

CHUNK = 512
"""Questions between two writes of the predictions; more when they share their pictures."""

Ask = Callable[[Sequence[Example]], list[str]]
Asked = tuple[str, Example]
"""A task's name and one of its examples."""


def asker(model: LucidaModel, processor: LucidaProcessor, max_new_tokens: int) -> Ask:
    """Greedy answers to examples; questions of one picture share its prefix, each alone with it."""
    from lucida.model.decode import greedy

    def ask(examples: Sequence[Example]) -> list[str]:
        return greedy(model, processor, [e.sample for e in examples], max_new_tokens)

    return ask


def box_reader(processor: LucidaProcessor) -> ReadBox:
    """Reads the boxes that this model writes: bins of its square back to pixels of the picture."""
    from lucida.data.boxes import parse_box

    def read(text: str, width: int, height: int) -> Box | None:
        framed = parse_box(text.strip(), processor.coordinate_bins)
        return framed and processor.image_policy.from_frame(framed, width, height)

    return read


def load_asker(folder: Path, max_new_tokens: int) -> tuple[Ask, ReadBox]:
    """The two, of the trained model in a run folder, on the best device there is."""
    from lucida.model.checkpoint import load
    from lucida.train.precision import choose_device

    model, processor = load(folder, choose_device())
    return asker(model, processor, max_new_tokens), box_reader(processor)


def answers(
    wanted: Mapping[str, Sequence[Example]], ask: Ask, label: str
) -> Iterator[tuple[str, Example, str]]:
    """Task, example and output of everything wanted, as the outputs come.

    The order is that of the pictures: tasks that ask about the same pictures share the work of
    looking at them. It does not change an answer, because no question sees another.
    """
    pairs = [(name, example) for name, examples in wanted.items() for example in examples]
    pairs.sort(key=pictures)
    with Progress(label, len(pairs), "question") as progress:
        for chunk in chunks(pairs):
            outputs = ask([example for _, example in chunk])
            for (name, example), output in zip(chunk, outputs, strict=True):
                yield name, example, output
            progress.advance(len(chunk))


def pictures(asked: Asked) -> tuple[str, ...]:
    """What identifies the pictures of a question."""
    return tuple(source.key for source in asked[1].sample.images)


def chunks(pairs: Sequence[Asked]) -> Iterable[Sequence[Asked]]:
    """Runs of at least `CHUNK` questions; those about the same pictures stay together."""
    start = 0
    for end in range(1, len(pairs) + 1):
        last = end == len(pairs)
        if last or (end - start >= CHUNK and pictures(pairs[end]) != pictures(pairs[end - 1])):
            yield pairs[start:end]
            start = end
