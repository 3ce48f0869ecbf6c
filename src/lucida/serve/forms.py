"""Answers and counts in the forms that clients read."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from lucida.serve.batching import Engine, Token
from lucida.serve.requests import ChatRequest, TextRequest, list_ignored


def add_token(shown: dict[str, list], token: Token) -> None:
    """A token in the form of `/v1/completions`."""
    known = token.log_probability == token.log_probability  # not nan
    offset = sum(map(len, shown["tokens"]))
    shown["tokens"].append(token.text)
    shown["token_logprobs"].append(token.log_probability if known else None)
    shown["top_logprobs"].append(dict(token.top) if known else None)
    shown["text_offset"].append(offset)


def write_token(token: Token) -> dict[str, Any]:
    """A token in the form of `/v1/chat/completions`."""

    def entry(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    tops = [entry(text, value) for text, value in token.top]
    return entry(token.text, token.log_probability) | {"top_logprobs": tops}


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer begins with."""
    name = "chatcmpl" if kind.startswith("chat") else "cmpl"
    ident = f"{name}-{uuid.uuid4().hex}"
    return {"id": ident, "object": kind, "created": int(time.time()), "model": model}


def ignored_headers(asked: ChatRequest | TextRequest) -> dict[str, str]:
    """Names of the fields that were ignored, as far as a header can hold them."""
    names = [name for name in list_ignored(asked) if name.isascii() and name.isprintable()]
    return {"x-lucida-ignored": ", ".join(names)[:500]} if names else {}


def write_metrics(answered: Mapping[tuple[str, int], int], engines: Mapping[str, Engine]) -> str:
    """Counts in Prometheus' text form. answered: path and status → requests."""
    lines = ["# TYPE lucida_requests_total counter"]
    for (path, code), number in sorted(answered.items()):
        lines.append(f'lucida_requests_total{{path="{path}",code="{code}"}} {number}')
    for name in ("prompt_tokens", "answer_tokens", "batches"):
        lines.append(f"# TYPE lucida_{name}_total counter")
        for model, engine in engines.items():
            lines.append(f'lucida_{name}_total{{model="{model}"}} {engine.counts[name]}')
    lines.append("# TYPE lucida_waiting gauge")
    for model, engine in engines.items():
        lines.append(f'lucida_waiting{{model="{model}"}} {engine.waiting.qsize()}')
    return "\n".join(lines) + "\n"
