"""HTTP(S), the same way for everything that asks: files elsewhere, models behind an address.

    with open_answer(address, headers) as answer:  ─▶ status, headers, bytes as they come

One client in each process keeps connections open, follows redirects and takes the proxies of the
environment. What goes wrong is sorted into what is worth another try (`UnavailableError`) and what
is not (`RefusedError`); a status is the caller's to judge.
"""

from __future__ import annotations

import email.utils
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from httpx2 import Client, Response

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
REDIRECTS = 8
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""States of a server that pass."""


class UnavailableError(Exception):
    """It may go better soon. wait: the seconds that the server asked for, None where it did not;
    kind: what went wrong, in two words."""

    def __init__(
        self, why: str, wait: float | None = None, kind: str = "broken connection"
    ) -> None:
        super().__init__(why)
        self.wait, self.kind = wait, kind


class RefusedError(Exception):
    """It will not go better by asking again."""


@contextmanager
def open_answer(
    address: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[Response]:
    """The answer behind all redirects, to a GET, or to a POST where there is a `body`. Its bytes
    come as `answer.iter_raw()`, never packed; one that is not read to its end costs a connection.

    UnavailableError: no connection, no byte for `timeout` seconds, an answer that is cut short.
    RefusedError: no address of the web, redirects without end.
    """
    import httpx2

    headers = {"Accept-Encoding": "identity", "User-Agent": "lucida", **(headers or {})}
    method, begun = "GET" if body is None else "POST", False
    try:
        with _client().stream(
            method, address, headers=headers, content=body, timeout=timeout
        ) as answer:
            begun = True
            yield answer
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise RefusedError(f"no address of the web: {hide_secrets(address)}") from error
    except httpx2.TooManyRedirects as error:
        raise RefusedError("the server redirects without end") from error
    except httpx2.TimeoutException as error:
        raise UnavailableError("no answer in time", kind="timeout") from error
    except httpx2.TransportError as error:
        kind, why = "broken connection", str(error) or type(error).__name__
        # The headers came, the body ended before its Content-Length or last chunk.
        if begun and isinstance(error, httpx2.RemoteProtocolError):
            kind = "cut answer"
        raise UnavailableError(f"{kind}: {why}", kind=kind) from error


def _client() -> Client:
    """The client of this process and of the proxies that the environment names now."""
    return _make_client(os.getpid(), tuple(sorted(urllib.request.getproxies().items())))


@lru_cache(maxsize=4)
# By process, because two that share a connection after a fork would read each other's answers.
def _make_client(process: int, proxies: tuple[Any, ...]) -> Client:
    import httpx2

    return httpx2.Client(
        follow_redirects=True,
        max_redirects=REDIRECTS,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
    )


def read_wait(value: str | None) -> float | None:
    """Seconds that a server asks to wait in `Retry-After`, given as such or as a date; None when
    it does not."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def hide_secrets(address: str) -> str:
    """An address for messages, without what may be a password or a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="…" if parts.query else "", fragment="").geturl()
