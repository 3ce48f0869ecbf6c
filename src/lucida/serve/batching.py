"""Prompts that wait are answered together, token by token.

    submit ─▶ waiting ─▶ all that wait, grouped by the pictures they begin with ─▶ one batch
                         a step: scores of every prompt ─▶ each job's own next token ─▶ its listener

One thread has the model. A batch is the prompts that wait when the last one is done; prompts about
the same pictures share them (model/decode.py). A job that nobody listens to ends at its next token.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lucida.core.errors import LucidaError
from lucida.data.sample import Tokens
from lucida.model.decode import BATCH_TOKENS, answer, request, row_batches
from lucida.model.evaluating import evaluating
from lucida.model.masks import ASK_WHOLE
from lucida.serve.requests import Options, Refused

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

TOGETHER = 32
"""Prompts of one batch."""

UNASKED = 512
"""Longest answer in tokens where the request names none."""

HALF = "\ufffd"
"""What stands in a text for a character whose last bytes are not written yet."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its text, natural log-probability, and the likeliest alternatives."""

    text: str
    log_probability: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Event:
    """What a listener hears: new text with its tokens, and at the end why it ended (`stop`,
    `length`, or a failure)."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None
    failure: Exception | None = None


class Job:
    """One prompt on its way. `hear` is called from the model's thread, for every piece of text."""

    def __init__(self, prompt: Tokens, options: Options, most: int, hear: Callable[[Event], None]):
        self.prompt, self.options, self.most, self.hear = prompt, options, most, hear
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
        """The next token from scores [words], as the options say."""
        if self.options.temperature == 0:
            return int(scores.argmax())
        shares = (scores.double() / self.options.temperature).softmax(-1)
        if self.options.top_p < 1:
            ordered, words = shares.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # the likeliest always stays
            shares[words[before >= self.options.top_p]] = 0
        return int(torch.multinomial(shares.cpu(), 1, generator=self.dice))


class Engine:
    """A model that answers jobs in a thread of its own."""

    def __init__(
        self,
        name: str,
        model: LucidaModel,
        processor: LucidaProcessor,
        most_waiting: int = 256,
        folder: Path | None = None,
    ) -> None:
        self.name, self.model, self.processor, self.folder = name, model, processor, folder
        self.most_waiting = most_waiting
        self.created = int(time.time())
        self.waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.counts = {"batches": 0, "prompt_tokens": 0, "answer_tokens": 0}
        self.lock = threading.Lock()
        """Held by whoever uses the model."""
        self.ends = set(model.generation_config.eos_token_id)
        self.context = model.config.text_config.max_position_embeddings
        self.thread = threading.Thread(target=self.run, name=f"lucida {name}", daemon=True)
        self.thread.start()

    def submit(self, prompt: Tokens, options: Options, hear: Callable[[Event], None]) -> Job:
        """Queue a prompt. Refused with 429 when too many wait, with 400 when the prompt and the
        answer do not fit into the context."""
        if self.waiting.qsize() >= self.most_waiting:
            raise Refused(
                f"{self.most_waiting} requests wait already: try again", status=429, code="queue"
            )
        room = self.context - len(prompt)
        if room < (options.most or 1):
            raise Refused(
                f"this model's context is {self.context} tokens; the prompt has {len(prompt)} and "
                f"the answer may have {options.most or 1}",
                "messages",
                code="context_length_exceeded",
            )
        job = Job(prompt, options, options.most or min(room, UNASKED), hear)
        self.waiting.put(job)
        return job

    def close(self, seconds: float = 30.0) -> None:
        """Answer what waits, then end."""
        self.waiting.put(None)
        self.thread.join(seconds)

    def run(self) -> None:
        """Batches until `close`."""
        closing = False
        while not closing:
            jobs = [self.waiting.get()]
            while len(jobs) < TOGETHER:
                try:
                    jobs.append(self.waiting.get_nowait())
                except queue.Empty:
                    break
            closing = None in jobs
            wanted = [job for job in jobs if job is not None and not job.left.is_set()]
            if wanted:
                self.answer(wanted)

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer these together; whatever fails, every listener hears of it."""
        whole = self.model.mask_for(self.processor) in ASK_WHOLE
        try:
            requests = [request(k, job.prompt, whole) for k, job in enumerate(jobs)]
            longest = max(job.most for job in jobs)
            for batch in row_batches(requests, longest, BATCH_TOKENS):
                members = [[jobs[each.index] for each in row] for row in batch]
                most = max(job.most for row in members for job in row)
                with self.lock, evaluating(self.model), torch.no_grad():
                    answer(self.model, self.processor, batch, most, self.chooser(members))
                self.counts["batches"] += 1
        except Exception as problem:  # noqa: BLE001 - the thread must go on; clients hear of it
            if len(jobs) > 1:  # whose fault it was shows when each is asked by itself
                for job in jobs:
                    if not job.done and not job.ids:
                        self.answer([job])
            for job in jobs:
                job.end(None, failure=problem)
            return
        for job in jobs:
            job.end("length")
            self.counts["prompt_tokens"] += len(job.prompt)
            self.counts["answer_tokens"] += len(job.ids)

    def chooser(self, members: list[list[Job]]) -> Callable[..., Tensor]:
        """What `decode.answer` asks for the next tokens of these jobs."""

        def choose(
            scores: Tensor, total: Tensor, rows: Tensor, columns: Tensor, going: Tensor
        ) -> Tensor:
            chosen = torch.full(going.shape, -1, device=going.device)
            logs = scores.float() - total[..., None]
            for row, column in going.nonzero().tolist():
                job = members[int(rows[row, column])][int(columns[row, column])]
                token = job.draw(scores[row, column])
                if self.take(job, token, logs[row, column]):
                    chosen[row, column] = token
            return chosen

        return choose

    def take(self, job: Job, token: int, logs: Tensor) -> bool:
        """Add a token to a job and tell its listener; whether the answer goes on. logs: natural
        log-probabilities [words], of the model itself, whatever was drawn."""
        if job.left.is_set():
            job.end("stop")
            return False
        decode = self.processor.tokenizer.decode
        if token in self.ends:
            job.end("stop", decode(job.ids, skip_special_tokens=True)[job.told :].rstrip(HALF))
            return False
        job.ids.append(token)
        if job.options.top is not None:
            best = logs.topk(min(job.options.top, len(logs)))
            top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            alternatives = tuple((decode([word]), value) for word, value in top)
            job.tokens.append(Token(decode([token]), float(logs[token]), alternatives))
        text = decode(job.ids, skip_special_tokens=True)
        ends = [place for stop in job.options.stop if (place := text.find(stop)) >= 0]
        if ends:
            job.end("stop", text[job.told : max(job.told, min(ends))])
            return False
        last = len(job.ids) >= job.most
        # Kept back: half a character, and what may be the beginning of a text to stop at.
        safe = len(text) if last else count_safe(text, job.options.stop)
        if safe > job.told or last:
            piece, job.told = text[job.told : safe], max(safe, job.told)
            if last:
                job.end("length", piece.rstrip(HALF))
                return False
            job.hear(Event(piece, job.tokens))
            job.tokens = []
        return True


def count_safe(text: str, stops: Sequence[str]) -> int:
    """How many characters can be told: no half one at the end, nothing that may begin a stop.

    Worked example: of `the red st` with the stop `star`, `the red ` can be told.
    """
    whole = text.rstrip(HALF)
    begun = [size for stop in stops for size in range(1, len(stop)) if whole.endswith(stop[:size])]
    return len(whole) - max(begun, default=0)


def load_engines(
    runs: Sequence[Path], most_waiting: int, dtype: torch.dtype | None = None
) -> OrderedDict[str, Engine]:
    """An engine for each run folder, by the folder's name, and for its blind model as NAME/blind.
    LucidaError when two have one name."""
    from lucida.model.checkpoint import load
    from lucida.train.precision import choose_device

    device = choose_device()
    engines: OrderedDict[str, Engine] = OrderedDict()
    for run in runs:
        name = run.resolve().name
        if name in engines:
            raise LucidaError(
                "two models have one name",
                given=f"{run} and {engines[name].folder}",
                remedy="rename one of the folders",
            )
        for suffix, folder in (("", run), ("/blind", run / "blind")):
            if suffix and not (folder / "model.safetensors").exists():
                continue
            model, processor = load(folder, device, dtype or torch.float32)
            engines[name + suffix] = Engine(name + suffix, model, processor, most_waiting, folder)
    return engines
