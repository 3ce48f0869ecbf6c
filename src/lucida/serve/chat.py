"""`POST /v1/chat/completions`: questions about pictures, answered whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lucida.core.errors import LucidaError, TooLongError
from lucida.data.boxes import parse_box
from lucida.data.images import image_size
from lucida.model.messages import sample_of
from lucida.serve.answers import Answer
from lucida.serve.batching import Engine
from lucida.serve.foreign import ForeignProcessor
from lucida.serve.forms import DONE, head, ignored_headers, write_event, write_token
from lucida.serve.job import Prompt
from lucida.serve.refused import Refused
from lucida.serve.requests import ChatRequest, read_messages, read_options

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor

Boxes = Callable[[str], list[list[float]]]
"""The boxes in an answer: corners in pixels of the first picture."""


async def answer_chat(
    engine: Engine, asked: ChatRequest, request: Request, hosts: Collection[str] = ()
) -> Response:
    """One answer, whole or as a stream. A place is kept before any picture is decoded. hosts: from
    which pictures may come."""
    options = read_options(asked)
    engine.reserve()
    try:
        prompt, boxes = await run_in_threadpool(make_prompt, engine, asked, hosts)
        form = {"type": "text"} if asked.response_format is None else asked.response_format
        guide = await run_in_threadpool(engine.grammars.make_guide, form)
        answer = Answer(engine, prompt, options, request, guide)
        answer.submit()
    except BaseException:
        engine.release()
        raise
    headers = ignored_headers(asked)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        pieces = stream_chat(answer, asked.model, usage, boxes)
        return StreamingResponse(pieces, media_type="text/event-stream", headers=headers)
    text, tokens, finish = await answer.whole()
    text = text.strip()
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if found := boxes(text):
        message["lucida_boxes"] = found
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    if options.top is not None:
        choice["logprobs"] = {"content": [write_token(each) for each in tokens]}
    more = {"choices": [choice], "usage": answer.usage()}
    return JSONResponse(head("chat.completion", asked.model) | more, headers=headers)


def make_prompt(engine: Engine, asked: ChatRequest, hosts: Collection[str]) -> tuple[Prompt, Boxes]:
    """The prompt of a conversation, and what finds the boxes in its answer. Refused where the
    model's template cannot hold it."""
    messages = read_messages(asked.messages, hosts)
    if messages[-1]["role"] != "user":
        raise Refused("the last message must be the user's", "messages")
    processor = engine.processor
    try:
        sample = sample_of(messages)
        prompt = processor.prompt(sample)
    except TooLongError as problem:
        raise Refused(str(problem), "messages", code="context_length_exceeded") from problem
    except LucidaError as problem:
        raise Refused(str(problem), "messages") from problem

    def boxes(text: str) -> list[list[float]]:
        if not sample.images:
            return []
        width, height = image_size(sample.images[0])
        corners = find_box(processor, text, width, height)
        if corners is None:
            return []
        most = (width, height, width, height)
        inside = [min(max(value, 0.0), end) for value, end in zip(corners, most, strict=True)]
        return [[round(value, 3) for value in inside]]

    return prompt, boxes


def find_box(
    processor: LucidaProcessor | ForeignProcessor, text: str, width: int, height: int
) -> Sequence[float] | None:
    """The box that an answer is, in pixels of the picture; None when it is none."""
    if isinstance(processor, ForeignProcessor):
        return processor.answerer.read_box(text, width, height)
    box = parse_box(text, processor.coordinate_bins) if processor.coordinate_bins else None
    return box and processor.image_policy.from_frame(box, width, height)


async def stream_chat(answer: Answer, model: str, usage: bool, boxes: Boxes) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's library reads them. Space is told once something stands behind
    it: joined, the pieces are the answer that is given whole."""
    common = head("chat.completion.chunk", model)
    whole, space = "", ""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None} | more
        return write_event(common | {"choices": [choice]} | ({"usage": None} if usage else {}))

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for event in answer.pieces():
            text = space + event.text
            told = text.rstrip()
            space = text[len(told) :]
            if not whole:
                told = told.lstrip()
            whole += told
            more = {}
            if event.tokens:
                more["logprobs"] = {"content": [write_token(each) for each in event.tokens]}
            if told or more:
                yield chunk({"content": told}, **more)
            if event.finish is not None:
                found = boxes(whole)
                yield chunk({"lucida_boxes": found} if found else {}, event.finish)
    except Refused as problem:
        yield write_event(problem.body)
        return
    if usage:
        yield write_event(common | {"choices": [], "usage": answer.usage()})
    yield DONE
