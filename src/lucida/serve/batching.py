"""Prompts that wait are answered together, token by token; who comes later joins.

    reserve ─▶ submit ─▶ waiting ─▶ read, beside those under way (rows.py) ─▶ a token for each
                                    ▲                                         │
                                    └────────────── as soon as there is room ─┘

One thread has the model; whoever needs it otherwise (`use`) has a turn between two tokens. A job
that nobody listens to ends at its next token.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lucida.core.errors import LucidaError
from lucida.eval.answerers.lucida_model import LucidaAnswerer
from lucida.eval.answerers.transformers_model import load_answerer
from lucida.model.checkpoint import load
from lucida.model.decode import BATCH_TOKENS
from lucida.model.evaluating import evaluating
from lucida.serve.foreign import ForeignProcessor, OneByOne
from lucida.serve.grammar import Grammars, Guide
from lucida.serve.job import Event, Job, Prompt
from lucida.serve.prefixes import Prefixes
from lucida.serve.refused import Refused
from lucida.serve.requests import Options
from lucida.serve.rows import Rows
from lucida.serve.spelling import Spelling
from lucida.training.precision import choose_device

if TYPE_CHECKING:
    from lucida.model.few_bits import Weights
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

T = TypeVar("T")

TOGETHER = 32
"""Prompts that are answered side by side."""

FOREIGN = "hf:"
"""How a model begins that is no run, but a folder that transformers loads."""

UNASKED = 512
"""Longest answer in tokens where the request names none."""


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
        self.counts = {"steps": 0, "prompt_tokens": 0, "answer_tokens": 0}
        self.lock = threading.Lock()
        """Held by whoever uses the model."""
        config = model.config.get_text_config()
        longest = config.max_position_embeddings
        window = getattr(config, "sliding_window", None) or longest
        self.context = min(longest, window)
        self.modules = list(model.modules())
        self.spelling = Spelling(processor.tokenizer)
        self.prefixes = Prefixes()
        if isinstance(processor, ForeignProcessor):
            self.rows: Rows | OneByOne = OneByOne(processor, self.spelling)
            self.context = longest
        else:
            self.rows = Rows(model, processor, self.spelling, self.prefixes)
        words = model.get_output_embeddings().weight.shape[0]
        self.grammars = Grammars(processor.tokenizer, words, sorted(self.rows.ends))
        self.ready = threading.Condition()
        """Guards what follows; notified when it changes."""
        self.waiting: deque[Job] = deque()
        self.held = 0
        """Requests that wait, or whose pictures are still being read."""
        self.errands: deque[tuple[Callable[[], Any], Future]] = deque()
        """Other work with the model, and who waits for what comes of it."""
        self.closing = False
        self.thread = threading.Thread(target=self.run, name=f"lucida {name}", daemon=True)
        self.thread.start()

    def reserve(self, count: int = 1) -> None:
        """Keep places for requests that are not read yet; Refused with 429 when too many wait."""
        with self.ready:
            if self.held + count > self.most_waiting:
                raise Refused(
                    f"{self.held} requests wait already: try again", status=429, code="queue"
                )
            self.held += count

    def release(self, count: int = 1) -> None:
        """Give back places that were reserved and not used."""
        with self.ready:
            self.held -= count

    def submit(
        self,
        prompt: Prompt,
        options: Options,
        hear: Callable[[Event], None],
        guide: Guide | None = None,
        reserved: bool = False,
    ) -> Job:
        """Queue a prompt, in a place that was `reserved` or in a new one. guide: the form that the
        answer has to have. Refused with 400 when both do not fit into the context."""
        room = self.context - len(prompt)
        least = 1 if options.most is None else options.most
        if room < least:
            raise Refused(
                f"this model's context is {self.context} tokens; the prompt has {len(prompt)} and "
                f"the answer may have {least}",
                "messages",
                code="context_length_exceeded",
            )
        most = min(room, UNASKED) if options.most is None else options.most
        job = Job(prompt, options, most, hear, guide)
        if not reserved:
            self.reserve()
        with self.ready:
            self.waiting.append(job)
            self.ready.notify()
        return job

    def use(self, work: Callable[[], T]) -> T:
        """Do something with the model in its own thread, between two tokens, and wait for it.
        Refused with 503 when the engine has been closed."""
        result: Future[T] = Future()
        with self.ready:
            if self.closing or not self.thread.is_alive():
                raise Refused("the server is about to end", status=503)
            self.errands.append((work, result))
            self.ready.notify()
        return result.result()

    def close(self, seconds: float = 30.0) -> None:
        """Answer what waits, then end."""
        with self.ready:
            self.closing = True
            self.ready.notify()
        self.thread.join(seconds)

    def run(self) -> None:
        """Read who comes, and write a token for everybody, until `close` and all are answered."""
        while True:
            with self.ready:
                self.ready.wait_for(lambda: self.busy or self.closing)
                if not self.busy:
                    return
                new = self.admit()
                errand = self.errands.popleft() if self.errands else None
            # One errand between two tokens at most, so that a look of two hundred forwards stops
            # nobody.
            with self.lock, evaluating(self.model, self.modules), torch.no_grad():
                if errand is not None:
                    run_errand(*errand)
                self.read([job for job in new if job.most])
                self.step(self.rows)
                for job in new:
                    if not job.most:
                        self.score(job)

    @property
    def busy(self) -> bool:
        """Is there something to do?"""
        return bool(self.waiting or len(self.rows) or self.errands)

    def admit(self) -> list[Job]:
        """Who begins now: in the order in which they came, as many as there is room for."""
        under_way = [job for job in self.rows.jobs if not job.done]
        new: list[Job] = []
        while self.waiting and self.rows.may_join:
            job = self.waiting[0]
            if not job.left.is_set():
                all_jobs = [*under_way, *new, job]
                # Rows are as wide as the longest, so what counts is rows times that, not the sum of
                # lengths. The first in the queue waits for room and nobody overtakes it: else a
                # long prompt might wait for ever.
                longest = max(len(each.prompt) + each.most for each in all_jobs)
                crowded = len(all_jobs) > TOGETHER or len(all_jobs) * longest > BATCH_TOKENS
                if crowded and len(all_jobs) > 1:
                    break
                new.append(job)
            self.waiting.popleft()
            self.held -= 1
        return new

    def read(self, jobs: Sequence[Job]) -> None:
        """Begin answers; whose fault it was that they cannot shows when each is read by itself."""
        if not jobs:
            return
        try:
            self.rows.join(jobs)
        except Exception as problem:  # noqa: BLE001 - the thread must go on; clients hear of it
            for job in jobs:
                if job.ids or len(jobs) == 1:
                    job.end(None, failure=problem)
                else:
                    self.read([job])
        else:
            self.counts["prompt_tokens"] += sum(len(job.prompt) for job in jobs)

    def step(self, rows: Rows) -> None:
        """A token for each row; where that fails, each is answered by itself to its end."""
        if not len(rows):
            return
        self.counts["steps"] += 1
        self.counts["answer_tokens"] += len(rows)
        try:
            rows.step()
        except Exception as problem:  # noqa: BLE001 - the thread must go on; clients hear of it
            parts = rows.split()
            if len(parts) == 1:
                parts[0].jobs[0].end(None, failure=problem)
                return
            for alone in parts:
                while len(alone):
                    self.step(alone)

    def score(self, job: Job) -> None:
        """Tell the log-probability of each token of a prompt."""
        try:
            self.rows.score(job)
        except Exception as problem:  # noqa: BLE001 - the thread must go on; clients hear of it
            job.end(None, failure=problem)
        self.counts["prompt_tokens"] += len(job.prompt)


def run_errand(work: Callable[[], Any], result: Future) -> None:
    """Do the work and tell who waits for it, also of a failure."""
    try:
        result.set_result(work())
    except Exception as problem:  # noqa: BLE001 - the thread must go on; who waits hears of it
        result.set_exception(problem)


def load_engines(
    targets: Sequence[str],
    most_waiting: int,
    weights: Weights | None = None,
) -> OrderedDict[str, Engine]:
    """An engine for each target, by the folder's name: a run, with its blind model as NAME/blind,
    or `hf:FOLDER`. LucidaError when two have one name. weights: as in `load`, of runs."""
    engines: OrderedDict[str, Engine] = OrderedDict()
    for target in targets:
        folder = Path(target.removeprefix(FOREIGN))
        name = folder.resolve().name
        if name in engines:
            raise LucidaError(
                "two models have one name",
                given=f"{folder} and {engines[name].folder}",
                remedy="rename one of the folders",
            )
        if target.startswith(FOREIGN):
            if weights is not None:
                raise LucidaError(
                    "only the weights of runs are held in fewer bits",
                    given=f"{target} with --weights {weights}",
                    remedy="leave --weights out, or import the folder (`lucida import`)",
                )
            model, processor = load_foreign(str(folder))
            engines[name] = Engine(name, model, processor, most_waiting, folder)
            continue
        for suffix, place in (("", folder), ("/blind", folder / "blind")):
            if suffix and not (place / "model.safetensors").exists():
                continue
            model, processor = load(place, choose_device(), torch.float32, weights)
            engines[name + suffix] = Engine(name + suffix, model, processor, most_waiting, place)
    return engines


def load_foreign(folder: str) -> tuple[Any, LucidaProcessor | ForeignProcessor]:
    """The model of any folder that transformers loads; one that Lucida wrote is its own again."""
    answerer = load_answerer(folder)
    if isinstance(answerer, LucidaAnswerer):
        return answerer.model, answerer.processor
    return answerer.model, ForeignProcessor(answerer)
