"""One prompt on its way: what is written behind it, and what its listener has heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lucida.serve.requests import Options

if TYPE_CHECKING:
    from lucida.serve.grammar import Guide
    from lucida.serve.spelling import Spelling

HALF = "\ufffd"
"""What stands in a text for a character whose last bytes are not written yet."""

LEAST = -9999.0
"""The log-probability that stands for any below it: JSON has no infinity (OpenAI's own number)."""


class Prompt(Protocol):
    """What is to be answered: `Tokens`, or what a model of others takes."""

    origin: str

    @property
    def input_ids(self) -> Any:
        """Its tokens [length], numpy int64."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its bytes, natural log-probability (nan where there is none), the likeliest
    alternatives, and whether it is a special one, which no text shows."""

    raw: bytes
    log_probability: float
    top: tuple[tuple[bytes, float], ...] = ()
    special: bool = False


@dataclass(slots=True)
class Event:
    """What a listener hears: new text with its tokens, and at the end why it ended (`stop`,
    `length`, or a failure)."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    failure: Exception | None = None


class Job:
    """One prompt on its way. `hear` is called from the model's thread, for every piece of text.

    most: tokens of the longest answer; 0 asks for the log-probabilities of the prompt's own tokens.
    guide: the form that the answer has to have.
    """

    def __init__(
        self,
        prompt: Prompt,
        options: Options,
        most: int,
        hear: Callable[[Event], None],
        guide: Guide | None = None,
    ) -> None:
        self.prompt, self.options, self.most, self.hear = prompt, options, most, hear
        self.guide = guide
        self.left = threading.Event()
        self.ids: list[int] = []
        self.told = 0
        """Characters that the listener has."""
        self.tokens: list[Token] = []
        self.done = False
        self.dice = torch.Generator()
        self.dice.manual_seed(options.seed) if options.seed is not None else self.dice.seed()

    def end(self, finish: str | None, text: str = "", failure: Exception | None = None) -> None:
        """The last event."""
        if not self.done:
            self.done = True
            self.hear(Event(text, self.tokens, finish, failure))

    def draw(self, scores: Tensor) -> int:
        """The next token from scores [words], as the options say; the temperature is not 0."""
        # The likeliest is 0 before the division, which therefore never overflows.
        scores = scores.double() - scores.max()
        shares = (scores / self.options.temperature).softmax(-1)
        if self.options.top_p < 1:
            ordered, words = shares.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # the likeliest always stays
            shares[words[before >= self.options.top_p]] = 0
        return int(torch.multinomial(shares.cpu(), 1, generator=self.dice))

    def take(self, token: int, spelling: Spelling, ends: set[int], told: Token | None) -> None:
        """Add a token and tell the listener what is certain now; `done` where it was the last.
        told: the token with its log-probability, where the listener asks for it."""
        if self.left.is_set():
            self.end("stop")
            return
        decode = spelling.tokenizer.decode
        if token in ends:
            text = decode(self.ids, skip_special_tokens=True)
            self.end("stop", text[self.told :].rstrip(HALF))
            return
        self.ids.append(token)
        if told is not None:
            self.tokens.append(told)
        # Decoded anew from the first token: a character may be spread over tokens, and
        # SentencePiece drops the space of a first token only.
        text = decode(self.ids, skip_special_tokens=True)
        found = [place for stop in self.options.stop if (place := text.find(stop)) >= 0]
        if found:
            self.end("stop", text[self.told : max(self.told, min(found))])
        elif self.guide is not None and not self.guide.accept(token):
            self.end("stop", text[self.told :].rstrip(HALF))
        elif len(self.ids) >= self.most:
            self.end("length", text[self.told :].rstrip(HALF))
        elif (safe := count_safe(text, self.options.stop)) > self.told:
            piece, self.told = text[self.told : safe], safe
            self.hear(Event(piece, self.tokens))
            self.tokens = []


def choose_tokens(
    scores: Tensor,
    jobs: Sequence[Job],
    ends: set[int],
    spelling: Spelling,
    never: Sequence[int] = (),
) -> list[int]:
    """The next token of each job that goes on, from scores [jobs, words], told to its listener;
    those that are over get one that means nothing. never: words that are not written."""
    telling = any(job.options.top is not None for job in jobs)
    # Of the model itself, before any word is suppressed.
    logs = scores.float().log_softmax(-1) if telling else None
    scores[..., list(never)] = -torch.inf
    chosen = scores.argmax(-1).tolist()
    for row, job in enumerate(jobs):
        if job.done:
            continue
        if job.guide is not None:
            job.guide.limit(scores[row])
            chosen[row] = int(scores[row].argmax())
        if job.options.temperature:
            chosen[row] = job.draw(scores[row])
        told: Token | None = None
        if logs is not None and job.options.top is not None:
            told = tell_token(chosen[row], logs[row], job.options.top, spelling)
        job.take(chosen[row], spelling, ends, told)
    return chosen


def tell_token(
    token: int, logs: Tensor, top: int, spelling: Spelling, special: bool = False
) -> Token:
    """A token with its log-probability and the likeliest alternatives. logs: natural
    log-probabilities [words]."""
    best = logs.topk(min(top, len(logs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    alternatives = tuple((spelling.bytes_of(word), max(value, LEAST)) for word, value in pairs)
    own = max(float(logs[token]), LEAST)
    return Token(spelling.bytes_of(token), own, alternatives, special)


def count_safe(text: str, stops: Sequence[str]) -> int:
    """How many characters can be told: no half one at the end, nothing that may begin a stop.

    Worked example: of `the red st` with the stop `star`, `the red ` can be told.
    """
    whole = text.rstrip(HALF)
    begun = [size for stop in stops for size in range(1, len(stop)) if whole.endswith(stop[:size])]
    return len(whole) - max(begun, default=0)
