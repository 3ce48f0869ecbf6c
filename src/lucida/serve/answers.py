"""An answer on its way from the model's thread to the client that asked for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import Request

from lucida.core.errors import LucidaError
from lucida.serve.batching import Engine
from lucida.serve.grammar import Guide
from lucida.serve.job import Event, Prompt, Token
from lucida.serve.refused import Refused
from lucida.serve.requests import Options

LOOK = 0.5
"""Seconds between looks whether a client is still there: one a token would cost too much."""


class Answer:
    """One answer on its way. Made in the event loop that serves the request."""

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        options: Options,
        request: Request,
        guide: Guide | None = None,
    ) -> None:
        self.engine, self.prompt, self.options, self.request = engine, prompt, options, request
        self.guide = guide
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def submit(self) -> None:
        """Queue the prompt, in a place that was reserved."""
        self.job = self.engine.submit(
            self.prompt, self.options, self.hear, guide=self.guide, reserved=True
        )

    def hear(self, event: Event) -> None:
        """Called from the model's thread."""
        with suppress(RuntimeError):  # the server has ended: nobody waits any more
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[Event]:
        """Events to the last; the job ends at its next token when the client has gone."""
        looked = time.monotonic()
        try:
            while True:
                try:
                    # The time-out is for clients that leave before the first token: nothing else
                    # would look at them.
                    event = await asyncio.wait_for(self.events.get(), LOOK)
                except TimeoutError:
                    event = Event()
                if event.finish is None and time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    if await self.request.is_disconnected():
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
        return text, tokens, finish

    def usage(self) -> dict[str, int]:
        """Tokens of prompt and answer."""
        own, asked = len(self.job.ids), len(self.prompt)
        return {"prompt_tokens": asked, "completion_tokens": own, "total_tokens": asked + own}
