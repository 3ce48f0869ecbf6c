"""Perplexity of text files: how well a model still predicts plain text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.data.sample import Sample, Turn
from lucida.eval.benchmark import Example, File, Guesses, Parsed, ReadBox
from lucida.eval.benchmarks.annotations import Record, read_text
from lucida.eval.benchmarks.published import PublishedBenchmark, Split

PIECE = 2000
"""Characters of a text file that are read as one document, about."""


class Perplexity(PublishedBenchmark):
    """How well a text is predicted: any perplexity/*.txt, in pieces of about 2,000 characters.

    A score is the bits per byte of a piece (lower is better), which models with different
    tokenizers can be compared by; the summary has the perplexity per token, per word and the bits
    per byte of the whole. Pieces end at line ends and are documents of their own, so the start of
    each is predicted from nothing.
    """

    name, folder, family, metric = "perplexity", "perplexity", "text", "bits per byte"
    licence = "that of your text"
    source = "your own text files"
    higher_is_better = False
    protocols = ("loss",)
    headline = "perplexity per token"
    files = (File("perplexity/", source, "any"),)

    def records(self, split: Split) -> list[Record]:
        """Every piece of every file."""
        folder = self.path(self.files[0])
        records = []
        for path in sorted(folder.glob("*.txt")):
            for number, piece in enumerate(pieces(read_text(path), PIECE)):
                origin = f"{path}: piece {number + 1}"
                records.append(Record(f"{path.stem}/{number}", {"text": piece}, origin))
        return records

    def example(self, record: Record) -> Example:
        """A piece as a document; the kind is its file."""
        text = record.text("text")
        document = Sample(record.origin, branches=((Turn("text", (text,)),),))
        name = record.id.rpartition("/")[0]
        return Example(
            id=f"{self.prefix}/{record.id}",
            sample=document,
            question="",
            answers=(),
            candidates=(text,),
            kind=name,
            cluster=record.id,
        )

    def parse(self, example: Example, output: str, read_box: ReadBox) -> Parsed:
        """The loss as it came, when it is one; else None."""
        return None if _loss(output) is None else output

    def score(self, example: Example, parsed: Parsed) -> float:
        """Bits per byte of a piece; a loss that is missing is an error."""
        nats, _ = _find_likelihood(example, parsed)
        return nats / math.log(2) / len(example.candidates[0].encode())

    def guesses(self, examples: Sequence[Example]) -> Guesses:
        """A byte out of 256 by chance; there is no majority of texts, so the same."""
        # log2(256) bits.
        return Guesses([8.0] * len(examples), [8.0] * len(examples))

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """Perplexity per token and per word, and the bits per byte, of everything together."""
        losses = [
            _find_likelihood(example, text) for example, text in zip(examples, parsed, strict=True)
        ]
        nats, tokens = sum(n for n, _ in losses), sum(t for _, t in losses)
        words = sum(len(example.candidates[0].split()) for example in examples)
        size = sum(len(example.candidates[0].encode()) for example in examples)
        return {
            "perplexity per token": _exp(nats / tokens),
            "perplexity per word": _exp(nats / words) if words else math.inf,
            "bits per byte": nats / math.log(2) / size,
        }


def pieces(text: str, size: int) -> list[str]:
    """A text in pieces of about `size` characters that end at line ends.

    Worked example: "ab\\ncd\\nef\\n" in pieces of 5 is "ab\\ncd\\n", "ef\\n". Blank pieces go.
    """
    found, lines, length = [], [], 0
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), size):  # a line may be longer than a piece
            part = line[start : start + size]
            lines.append(part)
            length += len(part)
            if length >= size:
                found.append("".join(lines))
                lines, length = [], 0
    found.append("".join(lines))
    return [piece for piece in found if piece.strip()]


def _loss(output: str) -> tuple[float, int] | None:
    try:
        value = json.loads(output)
        nats, tokens = float(value["nats"]), int(value["tokens"])
    except (ValueError, TypeError, KeyError):
        return None
    return (nats, tokens) if tokens > 0 and math.isfinite(nats) else None


def _find_likelihood(example: Example, text: Parsed) -> tuple[float, int]:
    loss = _loss(text) if isinstance(text, str) else None
    if loss is None:
        message = "a piece of text has no loss"
        raise DataError(message, expected='{"nats": …, "tokens": …}', given=text, origin=example.id)
    return loss


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
