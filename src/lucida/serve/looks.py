"""`POST /look`: which parts of the pictures an answer rests on, by covering them one after another;
with `page` everything that `lucida look` shows, as its page.

It costs some two hundred answers' worth of reading, so one is done at a time, each forward in its
turn between the tokens of those who are answered; whoever asks meanwhile gets 429.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.from_thread
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from lucida.core.errors import LucidaError
from lucida.data.images import image_size
from lucida.interpretability.covering import SPANS, Cover, grid_of
from lucida.interpretability.inside import CELLS, KINDS, look_at
from lucida.interpretability.page import write_page
from lucida.model.cross_attention import decoder_layers
from lucida.model.messages import sample_of
from lucida.serve.batching import Engine
from lucida.serve.foreign import ForeignProcessor
from lucida.serve.forms import ignored_headers
from lucida.serve.job import LEAST
from lucida.serve.refused import Refused
from lucida.serve.requests import check_text, read_messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucida.data.sample import Sample
    from lucida.interpretability.inside import Look, Seen

T = TypeVar("T")

MOST_POSITIONS = 400_000
"""Tokens that one look may read: each window that is covered costs a prompt."""
MOST_CELLS = 16
"""Cells of the grid along a picture's longer side."""
LONGEST = 64
"""Tokens of an answer that is not given."""


class LookRequest(BaseModel):
    """`POST /look`. messages: as of `/v1/chat/completions`, the last of them the question. answer:
    the one to explain; by default what the model says. cells, cover: as of `lucida look`. page: the
    answer is its page, with attention, words and heads."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    answer: str | None = None
    cells: int = Field(default=CELLS, ge=1, le=MOST_CELLS)
    cover: Cover = "mean"
    page: bool = False


class OneAtATime:
    """Lets one in; the next are Refused with 429 until it has left."""

    def __init__(self) -> None:
        self.lock = Lock()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be the one."""
        if not self.lock.acquire(blocking=False):
            raise Refused("somebody else looks inside: try again", status=429, code="busy")
        try:
            yield
        finally:
            self.lock.release()


async def answer_look(
    engine: Engine,
    asked: LookRequest,
    request: Request,
    door: OneAtATime,
    hosts: Collection[str] = (),
) -> Response:
    """The map of each picture, or the page. hosts: from which pictures may come."""

    def use(work: Callable[[], T]) -> T:
        # Asked before each forward: two hundred of them for somebody who left would keep others
        # waiting.
        if anyio.from_thread.run(request.is_disconnected):
            raise Refused("the client has gone")
        return engine.use(work)

    with door.enter():
        found = await run_in_threadpool(look_once, engine, asked, hosts, use)
    headers = ignored_headers(asked)
    if asked.page:
        return HTMLResponse(await run_in_threadpool(write_page, found), headers=headers)
    body = {"object": "lucida.look", "model": asked.model} | write_look(found)
    return JSONResponse(body, headers=headers)


def look_once(
    engine: Engine,
    asked: LookRequest,
    hosts: Collection[str],
    use: Callable[[Callable[[], T]], T],
) -> Look:
    """What is found; Refused where nothing can be looked at, or at too great a cost."""
    if isinstance(engine.processor, ForeignProcessor):
        raise Refused("only models of Lucida's own can be looked into", "model")
    messages = read_messages(asked.messages, hosts)
    if messages[-1]["role"] != "user":
        raise Refused("the last message must be the user's question", "messages")
    if asked.answer is not None:
        check_text(asked.answer, "answer")
    content = messages[-1]["content"]
    parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    try:
        sample = sample_of(messages)
        heads = check_cost(engine, sample, asked)
        show = [kind for kind in KINDS if kind != "heads" or heads] if asked.page else ["occlusion"]
        found = look_at(
            engine.model,
            engine.processor,
            sample,
            " ".join(filter(None, parts)),
            asked.answer,
            show,
            asked.cells,
            asked.cover,
            LONGEST,
            use,
        )
    except LucidaError as problem:
        raise Refused(str(problem), "messages") from problem
    if asked.page and not heads:
        found = replace(
            found, notes=(*found.notes, "a server leaves out so many heads: `lucida look` has them")
        )
    return found


def check_cost(engine: Engine, sample: Sample, asked: LookRequest) -> bool:
    """Refused where prompt and answer do not fit, or too many windows would have to be read. Gives
    whether every head can be left out once as well."""
    answer = LONGEST
    if asked.answer is not None:
        answer = len(engine.processor.tokenizer(asked.answer).input_ids) + 1
    length = len(engine.processor.prompt(sample)) + answer
    if length > engine.context:
        raise Refused(
            f"this model's context is {engine.context} tokens; prompt and answer have {length}",
            "messages",
            code="context_length_exceeded",
        )
    positions = 0
    for image in sample.images:
        rows, columns = grid_of(*image_size(image), asked.cells)
        windows = sum((rows + span - 1) * (columns + span - 1) for span in SPANS)
        positions += windows * length
    if positions > MOST_POSITIONS:
        raise Refused(
            f"{positions:,} tokens would have to be read, at most {MOST_POSITIONS:,} are: ask with "
            f"fewer `cells` than {asked.cells} or fewer pictures",
            "cells",
        )
    layers = len(decoder_layers(engine.model.language)[1]) if engine.model.vision else 0
    heads = engine.model.config.get_text_config().num_attention_heads
    return positions + layers * heads * length <= MOST_POSITIONS


def write_look(found: Look) -> dict[str, Any]:
    """The maps as JSON; log-probabilities and drops in nats."""
    tokens = [
        {"token": token, "logprob": max(float(own), LEAST), "covered": max(float(bare), LEAST)}
        for token, own, bare in zip(
            found.tokens, found.log_probabilities, found.covered, strict=True
        )
    ]
    pictures = [write_picture(seen) for seen in found.pictures]
    return {"answer": found.answer, "tokens": tokens, "pictures": pictures}


def write_picture(seen: Seen) -> dict[str, Any]:
    """One picture: its size, the part that the model is shown [x0, y0, x1, y1], and by how much the
    answer's log-probability drops where each cell is covered [rows][columns]."""
    drops = seen.occlusion.sum(-1).round(4)
    return {
        "width": seen.image.width,
        "height": seen.image.height,
        "seen": [round(float(value), 2) for value in seen.places.seen],
        "drops": drops.tolist(),
    }
