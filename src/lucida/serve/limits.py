"""How large a request may be."""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lucida.serve.requests import Refused


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
                return {"type": "http.disconnect"}  # nobody reads on
            return message

        async def answer(message: Message) -> None:
            if not over:
                await send(message)

        await self.app(scope, count, answer)
        if over:
            problem = Refused(f"the request has more than {self.most:,} bytes", status=413)
            body = json.dumps(problem.body).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": body})
