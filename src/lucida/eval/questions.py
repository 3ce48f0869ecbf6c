"""Many questions to one model: `lucida.ask`, `lucida.stream_answers` and `lucida.likelihoods`.

    (images, text) ──sample_of──▶ prompt ──model.decode──▶ Answer: text and log-probabilities

Questions about the same images share the work of looking at them, wherever they stand in the list;
no question sees another. `lucida ask` (apps/ask.py) asks the questions of a file by the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import DataError

if TYPE_CHECKING:
    from lucida.data.sample import Sample
    from lucida.eval.likelihood import Likelihood
    from lucida.model.messages import Picture
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

    Model = str | Path | tuple[LucidaModel, LucidaProcessor]
    Question = str | tuple[Picture | Sequence[Picture] | None, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    tokens            the text piece by piece
    log_probabilities of each token in nats, and of the end token where `ended`
    ended             False: the answer stopped because it was `max_new_tokens` long
    """

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    ended: bool

    @property
    def log_probability(self) -> float:
        """Of the whole answer, nats."""
        return sum(self.log_probabilities)


def ask(model: Model, questions: Sequence[Question], max_new_tokens: int = 64) -> list[Answer]:
    """The likeliest answer to each question, in the order of the questions.

    `model` is a run folder, or what `lucida.load` gives. A question is a text, or a pair of images
    and text: one image or a list, each a path, a Pillow image, an array or the bytes of a file.
    DataError: a question that is none, or that does not fit the context; an image that cannot be
    read.
    """
    from lucida.model.trees import in_order

    return in_order(stream_answers(model, questions, max_new_tokens), len(questions))


def stream_answers(
    model: Model, questions: Sequence[Question], max_new_tokens: int = 64
) -> Iterator[tuple[int, Answer]]:
    """The same as answers are written: (number of the question from 0, its answer), each once."""
    from lucida.model.decode import write

    network, processor = load_model(model)
    prompts = [processor.prompt(sample) for sample in samples_of(questions)]
    tokenizer = processor.tokenizer
    for number, written in write(network, processor, prompts, max_new_tokens):
        yield (
            number,
            Answer(
                tokenizer.decode(written.ids, skip_special_tokens=True).strip(),
                tuple(tokenizer.decode([token]) for token in written.ids),
                tuple(written.log_probabilities),
                written.ended,
            ),
        )


def likelihoods(
    model: Model, questions: Sequence[Question], candidates: Sequence[Sequence[str]]
) -> list[list[Likelihood]]:
    """How likely the model finds each of a question's candidates as its whole answer:
    `Likelihood(first, whole, tokens)`, nats of the first token and of all, and how many those are.

    `candidates` is one list for each question. DataError as in `ask`, and for a candidate that is
    empty or does not fit.
    """
    from lucida.eval.likelihood import likelihoods as score

    if len(candidates) != len(questions):
        raise DataError(
            "candidates are one list for each question",
            expected=f"{len(questions)} lists",
            given=len(candidates),
        )
    network, processor = load_model(model)
    return score(network, processor, samples_of(questions), candidates)


def samples_of(questions: Sequence[Question]) -> list[Sample]:
    """Questions as samples of one branch; DataError names a question by its number from 1."""
    from lucida.data.sample import ImageSource
    from lucida.model.messages import sample_of

    samples = []
    for number, question in enumerate(questions, start=1):
        images, text = question if isinstance(question, tuple) else (None, question)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                "a question is a text, or a pair of images and text",
                given=repr(question)[:80],
                origin=f"question {number}",
                remedy='write "what is it?" or (image, "what is it?")',
            )
        # What is a sequence by itself (a path as text, bytes) is one picture all the same.
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes | ImageSource)
        shown = list(images) if several else [] if images is None else [images]
        content = [{"type": "image"} for _ in shown] + [{"type": "text", "text": text}]
        message = {"role": "user", "content": content}
        samples.append(sample_of([message], shown, f"question {number}"))
    return samples


def load_model(model: Model) -> tuple[LucidaModel, LucidaProcessor]:
    """A run folder loaded onto the usual device; a loaded model as it is."""
    if isinstance(model, tuple):
        return model
    from lucida.model.checkpoint import load
    from lucida.training.precision import choose_device

    return load(model, choose_device())
