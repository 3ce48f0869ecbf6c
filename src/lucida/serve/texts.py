"""`POST /v1/completions`: texts or token ids as they are, and what follows them.

`max_tokens: 0` with `echo` and `logprobs` gives the log-probability of each token of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lucida.eval.loss import plain
from lucida.serve.answers import Answer
from lucida.serve.batching import Engine
from lucida.serve.foreign import ForeignProcessor
from lucida.serve.forms import DONE, TextTokens, head, ignored_headers, write_event
from lucida.serve.job import Prompt
from lucida.serve.refused import Refused
from lucida.serve.requests import Options, TextRequest, list_prompts, read_options


@dataclass(slots=True)
class Part:
    """One text on its way: its own tokens where they are asked for, and what follows it."""

    text: str
    prompt: Prompt
    own: Answer | None
    next: Answer | None

    @property
    def answers(self) -> list[Answer]:
        """What the model is asked for."""
        return [each for each in (self.own, self.next) if each is not None]

    def usage(self) -> dict[str, int]:
        """Tokens of the text and of what follows."""
        asked, written = len(self.prompt), len(self.next.job.ids) if self.next else 0
        return {
            "prompt_tokens": asked,
            "completion_tokens": written,
            "total_tokens": asked + written,
        }


async def complete_texts(engine: Engine, asked: TextRequest, request: Request) -> Response:
    """What follows each text, whole or as a stream; all of them are under way together."""
    options = read_options(asked)
    prompts = list_prompts(asked.prompt)
    telling = bool(asked.echo) and options.top is not None
    places = len(prompts) * (telling + (asked.max_tokens != 0))
    parts: list[Part] = []
    engine.reserve(places)
    try:
        for prompt in prompts:
            text, tokens = await run_in_threadpool(read_prompt, engine, prompt)
            own = Answer(engine, tokens, replace(options, most=0), request) if telling else None
            then = Answer(engine, tokens, options, request) if asked.max_tokens != 0 else None
            parts.append(Part(text, tokens, own, then))
        for part in parts:
            for each in part.answers:
                each.submit()
                places -= 1
    except BaseException:
        engine.release(places)
        leave(parts)
        raise
    headers = ignored_headers(asked)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        pieces = stream_texts(parts, asked, options, usage)
        return StreamingResponse(pieces, media_type="text/event-stream", headers=headers)
    try:
        choices = [
            {"index": index} | await complete_text(part, asked, options)
            for index, part in enumerate(parts)
        ]
    finally:
        leave(parts)
    body = head("text_completion", asked.model) | {"choices": choices, "usage": add_usage(parts)}
    return JSONResponse(body, headers=headers)


def leave(parts: list[Part]) -> None:
    """Nobody listens to these any more."""
    for part in parts:
        for each in part.answers:
            if hasattr(each, "job"):
                each.job.left.set()


def add_usage(parts: list[Part]) -> dict[str, int]:
    """Tokens of all parts."""
    used: Counter[str] = Counter()
    for part in parts:
        used.update(part.usage())
    return dict(used)


def read_prompt(engine: Engine, prompt: str | list[int]) -> tuple[str, Prompt]:
    """A prompt as text and as tokens; Refused for ids that the model has no embedding of, and for
    places of pictures, which completions do not take."""
    if isinstance(prompt, str):
        mark = getattr(engine.processor, "image_token", None)
        if mark and mark in prompt:
            raise Refused(
                f"`prompt` has {mark}, a picture's place; /v1/chat/completions takes pictures",
                "prompt",
            )
        return prompt, engine.processor.raw(prompt, ())
    most = engine.model.get_input_embeddings().weight.shape[0]
    for token in prompt:
        if not 0 <= token < most or token == engine.processor.image_token_id:
            raise Refused(
                f"`prompt` has the token {token}; this model has 0 to {most - 1}", "prompt"
            )
    text = engine.processor.tokenizer.decode(prompt, skip_special_tokens=True)
    return text.replace("\ufffd", ""), plain_prompt(engine, np.array(prompt, dtype=np.int64))


def plain_prompt(engine: Engine, ids: np.ndarray) -> Prompt:
    """Ids as a prompt of text."""
    if isinstance(engine.processor, ForeignProcessor):
        return engine.processor.of_ids(ids)
    tokens = plain(ids, "token ids")
    return replace(tokens, target=np.full_like(tokens.target, -100))


async def complete_text(part: Part, asked: TextRequest, options: Options) -> dict[str, Any]:
    """One choice: the text and what follows it."""
    shown, written, finish = TextTokens(), "", "length"
    for each in part.answers:
        text, tokens, finish = await each.whole()
        written += text
        shown.add(tokens)
    return {
        "text": (part.text if asked.echo else "") + written,
        "finish_reason": finish,
        "logprobs": shown.take() if options.top is not None else None,
    }


async def stream_texts(
    parts: list[Part], asked: TextRequest, options: Options, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's library reads them, one text after the other."""
    common = head("text_completion", asked.model)

    def chunk(index: int, text: str, logs: Any, finish: str | None) -> str:
        choice = {"index": index, "text": text, "logprobs": logs, "finish_reason": finish}
        return write_event(common | {"choices": [choice]} | ({"usage": None} if usage else {}))

    try:
        for index, part in enumerate(parts):
            shown, before = TextTokens(), part.text if asked.echo else ""
            if not part.answers:
                yield chunk(index, before, None, "length")
            for each in part.answers:
                last = each is part.answers[-1]
                async for event in each.pieces():
                    shown.add(event.tokens)
                    finish = event.finish if last else None
                    if event.text or event.tokens or finish or before:
                        logs = shown.take() if options.top is not None else None
                        yield chunk(index, before + event.text, logs, finish)
                        before = ""
    except Refused as problem:
        yield write_event(problem.body)
        return
    finally:
        leave(parts)
    if usage:
        yield write_event(common | {"choices": [], "usage": add_usage(parts)})
    yield DONE
