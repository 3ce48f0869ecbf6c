"""Who may ask, how much, and how often it was answered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lucida.serve.refused import Refused


class BodyLimit:
    """Refuses a body of more than `most` bytes with 413, before it is in memory whole, whatever its
    `Content-Length` says."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size, over = 0, False

        async def count() -> Message:
            nonlocal size, over
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                over = True
                # Whoever reads the body sees a client that left; its own answer is swallowed, and
                # 413 is sent.
                return {"type": "http.disconnect"}  # nobody reads on
            return message

        async def answer(message: Message) -> None:
            if not over:
                await send(message)

        await self.app(scope, count, answer)
        if over:
            problem = Refused(f"the request has more than {self.most:,} bytes", status=413)
            await send_refusal(problem, send)


class Gate:
    """Asks for the key before a stranger's body is read, and counts what was answered, by path and
    status.

    check: raises `Refused`, given the path and the header `Authorization`.
    """

    def __init__(
        self,
        app: ASGIApp,
        check: Callable[[str, bytes], None],
        answered: Counter[tuple[str, int]],
    ) -> None:
        self.app, self.check, self.answered = app, check, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "unknown")
                self.answered[path, message["status"]] += 1
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        try:
            self.check(scope["path"], given)
        except Refused as problem:
            await send_refusal(problem, count)
        else:
            await self.app(scope, receive, count)


async def send_refusal(problem: Refused, send: Send) -> None:
    """OpenAI's error object, for a request that is not read on."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    start = {"type": "http.response.start", "status": problem.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(problem.body).encode()})
