"""OpenAI's addresses over engines.

    GET  /                      the page
    GET  /v1/models[/NAME]      what is served
    POST /v1/chat/completions   questions about pictures; streams when asked to (chat.py)
    POST /v1/completions        texts as they are; with `echo` and `logprobs` likelihoods (texts.py)
    POST /look                  what an answer rests on (looks.py)
    GET  /health, /metrics      is it alive; counts in Prometheus' form

What a client did wrong is a 4xx with OpenAI's error object, as its library asks again after a 5xx.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from lucida.serve.batching import Engine
from lucida.serve.chat import answer_chat
from lucida.serve.forms import write_metrics
from lucida.serve.limits import BodyLimit, Gate
from lucida.serve.looks import LookRequest, OneAtATime, answer_look
from lucida.serve.refused import Problem, Refused
from lucida.serve.requests import ChatRequest, TextRequest
from lucida.serve.texts import complete_texts

PAGE = Path(__file__).with_name("page.html")


@dataclass
class Server:
    """What the addresses share."""

    engines: Mapping[str, Engine]
    key: str | None = None
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    door: OneAtATime = field(default_factory=OneAtATime)

    def find(self, name: str) -> Engine:
        """The engine of a model; Refused with 404 for a name that is not served."""
        if name not in self.engines:
            known = ", ".join(self.engines)
            raise Refused(
                f"there is no model `{name[:100]}` here; served are: {known}",
                "model",
                404,
                "model_not_found",
            )
        return self.engines[name]

    def check_key(self, path: str, given: bytes) -> None:
        """Refused with 401 without the key, compared in constant time. given: the header
        `Authorization`."""
        if self.key is None or not path.startswith(("/v1/", "/look")):
            return
        if not hmac.compare_digest(given.removeprefix(b"Bearer "), self.key.encode()):
            raise Refused(
                "a key is needed: `Authorization: Bearer KEY`", status=401, code="invalid_api_key"
            )


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request cannot be answered as it is."},
    401: {"model": Problem, "description": "The key is missing or another."},
    404: {"model": Problem, "description": "No such model."},
    413: {"model": Problem, "description": "The request is too large."},
    429: {"model": Problem, "description": "Too many requests wait: see Retry-After."},
    503: {"model": Problem, "description": "The server is about to end."},
}
"""What the document at `/openapi.json` says about errors."""


def make_app(
    engines: Mapping[str, Engine],
    key: str | None = None,
    most_bytes: int = 32 * 2**20,
    hosts: Collection[str] = (),
) -> FastAPI:
    """The application. key: what clients must send; most_bytes: of a request's body; hosts: from
    which pictures may come."""
    server = Server(engines, key)
    app = FastAPI(title="Lucida", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, most=most_bytes)
    app.add_middleware(Gate, check=server.check_key, answered=server.answered)
    add_refusals(app)
    add_looks(app, server)

    @app.post("/v1/chat/completions", responses=ERRORS)
    async def chat(request: Request, asked: ChatRequest) -> Response:
        return await answer_chat(server.find(asked.model), asked, request, hosts)

    @app.post("/v1/completions", responses=ERRORS)
    async def complete(request: Request, asked: TextRequest) -> Response:
        return await complete_texts(server.find(asked.model), asked, request)

    @app.post("/look", responses=ERRORS)
    async def look(request: Request, asked: LookRequest) -> Response:
        return await answer_look(server.find(asked.model), asked, request, server.door, hosts)

    return app


def tell(problem: Refused) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(problem.body, problem.status, headers=problem.headers)


def add_refusals(app: FastAPI) -> None:
    """Every error as OpenAI's object."""

    @app.exception_handler(Refused)
    async def refuse(request: Request, problem: Refused) -> Response:
        return tell(problem)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            return tell(
                Refused(f"the body is no JSON: {first['ctx']['error']}, at {first['loc'][-1]}")
            )
        place = name_place(first["loc"][1:], problem.body)
        if not place:
            return tell(Refused("a JSON object is needed, with `Content-Type: application/json`"))
        return tell(Refused(f"{place}: {first['msg']}", place))

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, problem: HTTPException) -> Response:
        refused = Refused(str(problem.detail), status=problem.status_code)
        refused.headers.update(problem.headers or {})  # a 405 says which methods there are
        return tell(refused)

    @app.exception_handler(Exception)
    async def tell_failure(request: Request, problem: Exception) -> Response:
        return tell(Refused(f"the server failed: {type(problem).__name__}", status=500))


def name_place(steps: Sequence[str | int], body: object) -> str:
    """Where in a body a mistake is: `messages.0`. Other steps are names of types that the value
    there might have had."""
    found = []
    for step in steps:
        if isinstance(body, dict):
            found.append(step)
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            found.append(step)
            body = body[step]
    return ".".join(str(step) for step in found)


def add_looks(app: FastAPI, server: Server) -> None:
    """Addresses that ask no model."""

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @app.get("/health", responses={503: {"description": "A model has failed."}})
    async def health() -> JSONResponse:
        alive = all(engine.thread.is_alive() for engine in server.engines.values())
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(write_metrics(server.answered, server.engines))

    def show(name: str) -> dict[str, Any]:
        engine = server.find(name)
        return {"id": name, "object": "model", "created": engine.created, "owned_by": "lucida"}

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [show(name) for name in server.engines]}

    @app.get("/v1/models/{name:path}", responses={code: ERRORS[code] for code in (400, 401, 404)})
    async def model(name: str) -> dict[str, Any]:
        return show(name)


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
