"""A model behind an OpenAI-compatible address, as an answerer.

    http://host/v1 --model NAME ──POST /chat/completions, several at a time──▶ answers as they come

Pictures go as base64 PNG in data URLs. Timeouts, 429, 5xx, broken connections, cut or damaged
answers are tried again with a growing pause (or the one that `Retry-After` names); what was done is
counted. A question that fails to the end is reported with its reason and does not stop the rest.
"""

from __future__ import annotations

import json
import os
import random
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lucida.core.errors import ModelError
from lucida.core.http import PASSING, RefusedError, UnavailableError, open_answer, read_wait
from lucida.core.progress import say
from lucida.data.encoded import make_data_address
from lucida.eval.answerers.transformers_model import list_images, messages
from lucida.eval.answerers.written_box import Unit, check_unit, read_written_box
from lucida.eval.asking import Response
from lucida.eval.benchmark import Example, Protocol
from lucida.eval.metrics.boxes import Box

if TYPE_CHECKING:
    from httpx2 import Response as HttpResponse

AGAIN = PASSING | {409, 529}
"""Answers of a server that are worth asking again."""
REFUSED = {"HTTP 401", "HTTP 403", "HTTP 404"}
"""Answers that every other question would get too."""
REASON = 200
"""Letters of a reason that are kept."""
KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key, where one is needed."""


class Unanswered(Exception):
    """One attempt came to nothing; `pause` is what the server asks to wait."""

    def __init__(self, reason: str, kind: str, again: bool = True, pause: float | None = None):
        super().__init__(reason)
        self.kind, self.again, self.pause = kind, again, pause


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often. An answer may take `timeout` seconds to begin, and to be whole after
    that. Pauses double from `pause` up to `longest` seconds, and vary by a half so that many
    clients do not come back at once."""

    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0
    longest: float = 60.0

    def before(self, attempt: int, wanted: float | None) -> float:
        """Seconds before attempt number `attempt` (1 is the first repetition)."""
        if wanted is not None:
            return min(wanted, self.longest)
        return min(self.longest, self.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


class EndpointAnswerer:
    """Answers of a server; generation only, as likelihoods of chosen texts are not offered."""

    protocols: tuple[Protocol, ...] = ("generate",)

    def __init__(
        self,
        address: str,
        model: str,
        at_once: int = 8,
        patience: Patience | None = None,
        boxes: str = "form",
    ) -> None:
        """boxes: the unit of the boxes that the model writes (`written_box.UNITS`); an address does
        not tell what kind of model answers."""
        self.boxes: Unit = check_unit(boxes)
        self.address = address.rstrip("/") + "/chat/completions"
        self.model = model
        self.at_once = at_once
        self.patience = patience or Patience()
        self.identity = {"endpoint": address.rstrip("/"), "model": model}
        self.troubles: Counter[str] = Counter()
        """What went wrong and was tried again, by kind."""
        self.used: Counter[str] = Counter()
        """Tokens that the server says it read (`prompt_tokens`) and wrote (`completion_tokens`)."""
        self._lock = threading.Lock()

    def stream(
        self, examples: Sequence[Example], protocol: Protocol, max_new_tokens: int
    ) -> Iterator[tuple[int, Response]]:
        """Answers in the order in which they arrive."""
        if protocol != "generate":
            raise ModelError(
                "an endpoint writes answers; it gives no likelihoods of chosen ones",
                given=protocol,
                origin=self.address,
                remedy="use --protocol generate",
            )
        before, refused = Counter(self.troubles), Counter()
        pool = ThreadPoolExecutor(self.at_once)
        try:
            waiting = {
                pool.submit(self.ask, example, max_new_tokens): index
                for index, example in enumerate(examples)
            }
            for done in as_completed(waiting):
                said = done.result()
                if said.failed is not None:
                    refused[said.failed] += 1
                yield waiting[done], said
        finally:
            # What is under way may take minutes to fail; whoever stopped the evaluation does not
            # wait for it.
            pool.shutdown(wait=False, cancel_futures=True)
        if new := self.troubles - before:
            listed = ", ".join(f"{kind} {count} times" for kind, count in sorted(new.items()))
            say(f"{self.address}: {listed}")
        for reason, count in refused.most_common(1):
            say(f"{refused.total()} questions were never answered, {count} of them for: {reason}")

    def ask(self, example: Example, max_new_tokens: int) -> Response:
        """One question, until it is answered or patience ends."""
        body = {
            "model": self.model,
            "messages": self.messages(example),
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "stream": False,
        }
        reason = ""
        for attempt in range(self.patience.attempts):
            try:
                return Response(self._once(json.dumps(body).encode()))
            except Unanswered as problem:
                reason = str(problem)
                with self._lock:
                    self.troubles[problem.kind] += 1
                if problem.kind in REFUSED:
                    raise ModelError(
                        f"the endpoint refuses: {reason}",
                        origin=self.address,
                        remedy=f"check the address, --model and the key in {KEY}",
                    ) from problem
                if not problem.again:
                    break
                if attempt + 1 < self.patience.attempts:
                    time.sleep(self.patience.before(attempt + 1, problem.pause))
        return Response("", failed=textwrap.shorten(reason, REASON, placeholder=" ..."))

    def messages(self, example: Example) -> list[dict[str, Any]]:
        """The sample as this interface wants it."""
        addresses = (make_data_address(each.load()) for each in list_images(example.sample))
        written = messages(example.sample, self.boxes)
        for message in written:
            message["content"] = [
                {"type": "image_url", "image_url": {"url": next(addresses)}}
                if part["type"] == "image"
                else part
                for part in message["content"]
            ]
            if message["role"] != "user":
                message["content"] = "".join(part["text"] for part in message["content"])
        return written

    def _once(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        timeout = self.patience.timeout
        try:
            with open_answer(self.address, headers, body, timeout) as response:
                deadline = time.monotonic() + timeout
                if response.status_code == 200:
                    answer = whole(response, deadline)
                    with self._lock:
                        self.used.update(count_tokens(answer))
                    return content(answer)
                kind = f"HTTP {response.status_code}"
                pause = read_wait(response.headers.get("Retry-After"))
                again = response.status_code in AGAIN
                raise Unanswered(f"{kind}: {read_error_page(response)}", kind, again, pause)
        except UnavailableError as problem:
            raise Unanswered(str(problem), problem.kind) from problem
        except RefusedError as problem:
            raise ModelError(
                f"the endpoint cannot be asked: {problem}", remedy="check the address"
            ) from problem

    def read_box(self, text: str, width: int, height: int) -> Box | None:
        """A box in the unit of this model (`written_box`)."""
        return read_written_box(text, width, height, self.boxes)


def read_error_page(response: HttpResponse) -> str:
    """The first words of an error's page, which may itself be cut or never come."""
    import httpx2

    read = b""
    try:
        for piece in response.iter_raw():
            read += piece
            if len(read) >= 300:
                break
    except httpx2.TransportError as cut:
        return f"(its reason was cut: {cut!r})"
    return read[:300].decode("utf-8", "replace").strip()


def whole(response: HttpResponse, deadline: float) -> bytes:
    """The body of an answer; UnavailableError when it still comes, bit by bit, at `deadline`."""
    pieces = []
    for piece in response.iter_raw():
        pieces.append(piece)
        if time.monotonic() > deadline:
            raise UnavailableError("no answer in time", kind="timeout")
    return b"".join(pieces)


def content(answer: bytes) -> str:
    """What the first choice of an answer says; Unanswered when there is none."""
    try:
        message = json.loads(answer)["choices"][0]["message"]
        said = message["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as problem:
        start = answer[:80].decode("utf-8", "replace")
        raise Unanswered(f"the answer is damaged: {start!r}", "damaged answer") from problem
    if isinstance(said, list):  # some servers answer in parts
        said = "".join(part.get("text", "") for part in said if isinstance(part, dict))
    if not isinstance(said, str):  # null: the model chose to say nothing
        return ""
    # Our own server writes boxes as tokens, which are no coordinates to anybody else.
    boxes = message.get("lucida_boxes")
    if isinstance(boxes, list) and len(boxes) == 1:  # the answer is a box in tokens: in pixels
        return str(boxes[0])
    # Half a character of a pair cannot be written to a file.
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_tokens(answer: bytes) -> dict[str, int]:
    """What an answer says of the tokens that it took; nothing where it says nothing."""
    try:
        usage = json.loads(answer)["usage"]
        found = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {name: many for name, many in found.items() if isinstance(many, int) and many >= 0}
