"""Answers and counts in the forms that clients read."""

from __future__ import annotations

import codecs
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lucida.serve.batching import Engine
from lucida.serve.job import Token
from lucida.serve.requests import list_ignored

DONE = "data: [DONE]\n\n"
"""The last event of a stream."""


def write_event(body: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def show_token(raw: bytes) -> str:
    """A token as text; the bytes of a part of a character as OpenAI writes them, `bytes:\\xe2`,
    since half a character is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class TextTokens:
    """Tokens in the form of `/v1/completions`. text_offset: where in the text each begins, in
    characters; those that no text shows have no length."""

    def __init__(self) -> None:
        self.offset = 0
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown = self.make_empty()

    @staticmethod
    def make_empty() -> dict[str, list]:
        """No token yet."""
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def add(self, tokens: Sequence[Token]) -> None:
        """Tokens that come next."""
        for token in tokens:
            known = token.log_probability == token.log_probability  # not nan
            top = {show_token(raw): value for raw, value in token.top} if known else None
            self.shown["tokens"].append(show_token(token.raw))
            self.shown["token_logprobs"].append(token.log_probability if known else None)
            self.shown["top_logprobs"].append(top)
            self.shown["text_offset"].append(self.offset)
            if not token.special:
                self.offset += len(self.characters.decode(token.raw))

    def take(self) -> dict[str, list]:
        """What was added since the last time."""
        shown, self.shown = self.shown, self.make_empty()
        return shown


def write_token(token: Token) -> dict[str, Any]:
    """A token in the form of `/v1/chat/completions`."""

    def entry(raw: bytes, value: float) -> dict[str, Any]:
        return {"token": show_token(raw), "logprob": value, "bytes": list(raw)}

    tops = [entry(raw, value) for raw, value in token.top]
    return entry(token.raw, token.log_probability) | {"top_logprobs": tops}


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer begins with."""
    name = "chatcmpl" if kind.startswith("chat") else "cmpl"
    ident = f"{name}-{uuid.uuid4().hex}"
    return {"id": ident, "object": kind, "created": int(time.time()), "model": model}


def ignored_headers(asked: BaseModel) -> dict[str, str]:
    """Names of the fields that were ignored, as far as a header can hold them."""
    names = [name for name in list_ignored(asked) if name.isascii() and name.isprintable()]
    return {"x-lucida-ignored": ", ".join(names)[:500]} if names else {}


def write_metrics(answered: Mapping[tuple[str, int], int], engines: Mapping[str, Engine]) -> str:
    """Counts in Prometheus' text form. answered: path and status → requests."""
    lines = ["# TYPE lucida_requests_total counter"]
    for (path, code), number in sorted(answered.items()):
        lines.append(f'lucida_requests_total{{path="{path}",code="{code}"}} {number}')
    for name in ("prompt_tokens", "answer_tokens", "steps"):
        lines.append(f"# TYPE lucida_{name}_total counter")
        for model, engine in engines.items():
            lines.append(f"lucida_{name}_total{{model={quote(model)}}} {engine.counts[name]}")
    gauges = {
        "waiting": lambda engine: len(engine.waiting),
        "answering": lambda engine: len(engine.rows),
        "prefix_bytes": lambda engine: engine.prefixes.bytes,
    }
    for name, count in gauges.items():
        lines.append(f"# TYPE lucida_{name} gauge")
        for model, engine in engines.items():
            lines.append(f"lucida_{name}{{model={quote(model)}}} {count(engine)}")
    lines.append("# TYPE lucida_prefixes_found_total counter")
    for model, engine in engines.items():
        taken = engine.prefixes.taken
        lines.append(f"lucida_prefixes_found_total{{model={quote(model)}}} {taken}")
    if (resident := resident_bytes()) is not None:
        lines.append("# TYPE process_resident_memory_bytes gauge")
        lines.append(f"process_resident_memory_bytes {resident}")
    return "\n".join(lines) + "\n"


def quote(name: str) -> str:
    """A label's value as Prometheus reads it, whatever a folder is called."""
    return json.dumps(name, ensure_ascii=False)


def resident_bytes() -> int | None:
    """The memory that this process has now; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
