"""OpenAI's addresses over engines.

    GET  /                      the page
    GET  /v1/models             what is served
    POST /v1/chat/completions   questions about pictures; streams when asked to
    POST /v1/completions        texts as they are, with `echo` and `logprobs` for likelihoods
    GET  /health, /metrics      is it alive; counts in Prometheus' form

What a client did wrong is a 4xx with OpenAI's error object, as its library asks again after a 5xx.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from lucida.core.errors import LucidaError
from lucida.data.boxes import parse_box
from lucida.data.images import image_size
from lucida.data.sample import Tokens
from lucida.model.evaluating import evaluating
from lucida.model.messages import sample_of
from lucida.serve.batching import Engine, Event, Token
from lucida.serve.forms import add_token, head, ignored_headers, write_metrics, write_token
from lucida.serve.limits import BodyLimit
from lucida.serve.requests import (
    ChatRequest,
    Options,
    Refused,
    TextRequest,
    read_messages,
    read_options,
)

MOST_TEXTS = 64
"""Texts of one request."""

PAGE = Path(__file__).with_name("page.html")


@dataclass
class Server:
    """What the addresses share."""

    engines: Mapping[str, Engine]
    key: str | None = None
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)

    def find(self, name: str) -> Engine:
        """The engine of a model; Refused with 404 for a name that is not served."""
        if name not in self.engines:
            known = ", ".join(self.engines)
            raise Refused(
                f"there is no model `{name}` here; served are: {known}",
                "model",
                404,
                "model_not_found",
            )
        return self.engines[name]

    def check_key(self, request: Request) -> None:
        """Refused with 401 without the key, compared in constant time."""
        if self.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.key.encode()):
            raise Refused(
                "a key is needed: `Authorization: Bearer KEY`", status=401, code="invalid_api_key"
            )


def make_app(
    engines: Mapping[str, Engine], key: str | None = None, most_bytes: int = 32 * 2**20
) -> FastAPI:
    """The application. key: what clients must send; most_bytes: of a request's body."""
    server = Server(engines, key)
    app = FastAPI(title="Lucida", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, most=most_bytes)
    add_refusals(app)
    add_looks(app, server)

    @app.middleware("http")
    async def count(request: Request, proceed: Any) -> Response:
        try:
            if request.url.path.startswith("/v1/"):  # before a stranger's body is read
                server.check_key(request)
            response = await proceed(request)
        except Refused as problem:
            response = tell(problem)
        route = request.scope.get("route")
        server.answered[getattr(route, "path", "unknown"), response.status_code] += 1
        return response

    @app.post("/v1/chat/completions")
    async def chat(request: Request, asked: ChatRequest) -> Response:
        return await answer_chat(server.find(asked.model), asked, request)

    @app.post("/v1/completions")
    async def complete(request: Request, asked: TextRequest) -> Response:
        return await complete_texts(server.find(asked.model), asked, request)

    return app


def tell(problem: Refused) -> JSONResponse:
    """The answer to a request that is refused."""
    headers = {"Retry-After": "1"} if problem.status == 429 else {}
    return JSONResponse(problem.body, problem.status, headers=headers)


def add_refusals(app: FastAPI) -> None:
    """Every error as OpenAI's object."""

    @app.exception_handler(Refused)
    async def refuse(request: Request, problem: Refused) -> Response:
        return tell(problem)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        place = ".".join(str(each) for each in first["loc"][1:])
        return tell(Refused(f"{place or 'body'}: {first['msg']}", place or None))

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, problem: HTTPException) -> Response:
        return tell(Refused(str(problem.detail), status=problem.status_code))


def add_looks(app: FastAPI, server: Server) -> None:
    """Addresses that ask no model."""

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = all(engine.thread.is_alive() for engine in server.engines.values())
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(write_metrics(server.answered, server.engines))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        data = [
            {"id": name, "object": "model", "created": engine.created, "owned_by": "lucida"}
            for name, engine in server.engines.items()
        ]
        return {"object": "list", "data": data}


async def answer_chat(engine: Engine, asked: ChatRequest, request: Request) -> Response:
    """One answer, whole or as a stream."""
    options = read_options(asked)
    prompt, boxes = await run_in_threadpool(make_prompt, engine, asked)
    answer, headers = Answer(engine, prompt, options, request), ignored_headers(asked)
    answer.submit()
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        pieces = stream_chat(answer, asked.model, usage, boxes)
        return StreamingResponse(pieces, media_type="text/event-stream", headers=headers)
    text, tokens, finish = await answer.whole()
    message = {"role": "assistant", "content": text, "refusal": None}
    if found := boxes(text):
        message["lucida_boxes"] = found
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    if options.top is not None:
        choice["logprobs"] = {"content": [write_token(each) for each in tokens]}
    more = {"choices": [choice], "usage": answer.usage()}
    return JSONResponse(head("chat.completion", asked.model) | more, headers=headers)


async def complete_texts(engine: Engine, asked: TextRequest, request: Request) -> Response:
    """What follows each text, one after the other."""
    options = read_options(asked)
    if asked.stream:
        raise Refused("`stream` is for /v1/chat/completions here", "stream")
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not 0 < len(prompts) <= MOST_TEXTS or not all(prompts):
        raise Refused(f"`prompt` takes 1 to {MOST_TEXTS} texts that are not empty", "prompt")
    choices, used = [], Counter()
    for index, text in enumerate(prompts):
        choice, usage = await complete_text(engine, text, asked, options, request)
        choices.append({"index": index} | choice)
        used.update(usage)
    body = head("text_completion", asked.model) | {"choices": choices, "usage": dict(used)}
    return JSONResponse(body, headers=ignored_headers(asked))


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Answer:
    """One answer on its way from the model's thread to a client."""

    def __init__(self, engine: Engine, prompt: Tokens, options: Options, request: Request) -> None:
        self.engine, self.prompt, self.options, self.request = engine, prompt, options, request
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def submit(self) -> None:
        """Queue the prompt."""
        self.job = self.engine.submit(self.prompt, self.options, self.hear)

    def hear(self, event: Event) -> None:
        """Called from the model's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[Event]:
        """Events to the last; the job ends at its next token when the client has gone."""
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self.events.get(), 0.5)
                except TimeoutError:
                    event = Event()
                if event.finish is None and await self.request.is_disconnected():
                    return
                if event.failure is not None:
                    raise Refused(
                        f"the model failed: {event.failure}",
                        status=400 if isinstance(event.failure, LucidaError) else 500,
                    )
                yield event
                if event.finish is not None:
                    return
        finally:
            self.job.left.set()

    async def whole(self) -> tuple[str, list[Token], str]:
        """Text, tokens and why it ended."""
        text, tokens, finish = "", [], "stop"
        async for event in self.pieces():
            text += event.text
            tokens += event.tokens
            finish = event.finish or finish
        return text.strip(), tokens, finish

    def usage(self) -> dict[str, int]:
        """Tokens of prompt and answer."""
        own, asked = len(self.job.ids), len(self.prompt)
        return {"prompt_tokens": asked, "completion_tokens": own, "total_tokens": asked + own}


def make_prompt(engine: Engine, asked: ChatRequest) -> tuple[Tokens, Any]:
    """The prompt of a conversation, and a function that finds the boxes in its answer: corners in
    pixels of the first picture. Refused where the model's template cannot hold it."""
    messages = read_messages(asked.messages)
    if messages[-1]["role"] != "user":
        raise Refused("the last message must be the user's", "messages")
    processor = engine.processor
    try:
        sample = sample_of(messages)
        prompt = processor.prompt(sample)
    except LucidaError as problem:
        raise Refused(str(problem), "messages") from problem

    def boxes(text: str) -> list[list[float]]:
        box = parse_box(text, processor.coordinate_bins) if processor.coordinate_bins else None
        if box is None or not sample.images:
            return []
        width, height = image_size(sample.images[0])
        corners = processor.image_policy.from_frame(box, width, height)
        most = (width, height, width, height)
        inside = [min(max(value, 0.0), end) for value, end in zip(corners, most, strict=True)]
        return [[round(value, 1) for value in inside]]

    return prompt, boxes


async def stream_chat(answer: Answer, model: str, usage: bool, boxes: Any) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's library reads them."""
    common = head("chat.completion.chunk", model)
    whole = ""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None} | more
        body = common | {"choices": [choice]} | ({"usage": None} if usage else {})
        return f"data: {json.dumps(body)}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for event in answer.pieces():
            text = event.text if whole else event.text.lstrip()
            whole += text
            more = {}
            if event.tokens:
                more["logprobs"] = {"content": [write_token(each) for each in event.tokens]}
            if text or more:
                yield chunk({"content": text}, **more)
            if event.finish is not None:
                found = boxes(whole)
                yield chunk({"lucida_boxes": found} if found else {}, event.finish)
    except Refused as problem:
        yield f"data: {json.dumps(problem.body)}\n\n"
        return
    if usage:
        yield f"data: {json.dumps(common | {'choices': [], 'usage': answer.usage()})}\n\n"
    yield "data: [DONE]\n\n"


async def complete_text(
    engine: Engine, text: str, asked: TextRequest, options: Options, request: Request
) -> tuple[dict[str, Any], dict[str, int]]:
    """One choice of `/v1/completions`, and its tokens: the text and what follows, or (`max_tokens`
    0 with `echo`) the text alone with the log-probability of each of its tokens."""
    prompt = engine.processor.raw(text, ())
    shown = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    written, finish, own = "", "length", 0
    if asked.echo and options.top is not None:
        for token in await run_in_threadpool(score_prompt, engine, prompt, options.top):
            add_token(shown, token)
    if asked.max_tokens != 0:
        answer = Answer(engine, prompt, options, request)
        answer.submit()
        async for event in answer.pieces():
            written += event.text
            finish = event.finish or finish
            for token in event.tokens:
                add_token(shown, token)
        own = len(answer.job.ids)
    choice = {
        "text": (text if asked.echo else "") + written,
        "finish_reason": finish,
        "logprobs": shown if options.top is not None else None,
    }
    used = {"prompt_tokens": len(prompt), "completion_tokens": own}
    return choice, used | {"total_tokens": len(prompt) + own}


def score_prompt(engine: Engine, prompt: Tokens, top: int) -> list[Token]:
    """Every token of a prompt with its log-probability behind those before it; the first has none
    (nan)."""
    ids = torch.from_numpy(prompt.input_ids)[None].to(engine.model.device)
    if ids.shape[1] > engine.context:
        raise Refused(
            f"the prompt has {ids.shape[1]} tokens, the context {engine.context}",
            "prompt",
            code="context_length_exceeded",
        )
    with engine.lock, evaluating(engine.model), torch.no_grad():
        logs = engine.model(input_ids=ids).logits[0].float().log_softmax(-1)
    decode = engine.processor.tokenizer.decode
    found = [Token(decode([int(ids[0, 0])]), float("nan"))]
    for place, word in enumerate(ids[0, 1:].tolist()):
        best = logs[place].topk(top) if top else None
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
        alternatives = tuple((decode([each]), value) for each, value in pairs)
        found.append(Token(decode([word]), float(logs[place, word]), alternatives))
    return found
