"""Bytes of files over HTTP(S) from any place on, by the standard library alone.

    HttpFile(address).facts() ─▶ size, version      .pieces(begin, end) ─▶ bytes, as they come

Parts are asked for on connections that stay open, one for each thread and server. Redirects are
followed, proxies of the environment are used, and what a server says is sorted into what is worth
another try (`UnavailableError`) and what is not (`RefusedError`).
"""

from __future__ import annotations

import http.client
import os
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
PIECE = 1 << 16
REDIRECTS = 8
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""States of a server that pass."""


class UnavailableError(Exception):
    """It may go better soon; `wait` are the seconds that the server asked for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class RefusedError(Exception):
    """It will not go better by asking again."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Size in bytes, what names the version, and whether parts can be asked for."""

    size: int
    version: str
    parts: bool


class HttpFile:
    """One file by its address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def facts(self) -> Facts:
        """Asks for the first byte: unlike HEAD that works with signed addresses as well."""
        held, whole = _Held(), False
        try:
            answer = _answer(self.address, {"Range": "bytes=0-0"}, held)
            version = _version(answer)
            if answer.status in (206, 416):  # a byte or a word: read, the connection serves on
                answer.read()
                whole = True
            if answer.status == 416:
                return Facts(0, version, True)
            if answer.status == 206:
                total = (answer.getheader("Content-Range") or "").rpartition("/")[2]
                if not total.isdigit():
                    raise RefusedError("the server does not say how long the file is")
                return Facts(int(total), version, True)
            length = answer.getheader("Content-Length") or ""
            if not length.isdigit():
                raise RefusedError("the server does not say how long the file is")
            return Facts(int(length), version, False)
        except (OSError, http.client.HTTPException) as error:
            raise _passing(error) from error
        finally:
            if not whole:
                held.close()

    def pieces(self, begin: int, end: int, version: str, alone: bool = False) -> Iterator[bytes]:
        """Bytes `begin` to `end` in pieces, never more of them; fewer where the connection is cut.

        `alone` takes a connection of its own, for a long answer that is read between others.
        RefusedError when the file is another version by now.
        """
        held = _Held(alone)
        whole = False
        try:
            wanted = {"Range": f"bytes={begin}-{end - 1}"}
            answer = _answer(self.address, wanted, held)
            if _version(answer) != version or answer.status == 416:
                raise RefusedError("the file has changed since it was looked through")
            rest = end - begin
            if answer.status != 206:
                _skip(answer, begin)
            elif not (answer.getheader("Content-Range") or "").startswith(f"bytes {begin}-"):
                raise RefusedError("the server sends another part than was asked for")
            while rest and (piece := answer.read(min(PIECE, rest))):
                rest -= len(piece)
                yield piece
            whole = not rest and answer.status == 206
        except (OSError, http.client.HTTPException) as error:
            raise _passing(error) from error
        finally:
            if alone or not whole:  # a connection in the middle of an answer serves nobody else
                held.close()


def _skip(answer: http.client.HTTPResponse, count: int) -> None:
    """Passes over the start of a file that the server only gives whole."""
    while count and (piece := answer.read(min(PIECE, count))):
        count -= len(piece)


def _version(answer: http.client.HTTPResponse) -> str:
    return answer.getheader("ETag") or answer.getheader("Last-Modified") or ""


def _passing(error: Exception) -> UnavailableError:
    return UnavailableError(str(error) or type(error).__name__)


_threads = threading.local()


class _Held:
    """The connection that an answer came over."""

    def __init__(self, alone: bool = False) -> None:
        self.alone = alone
        self.place: tuple | None = None
        self.connection: http.client.HTTPConnection | None = None

    def take(self, parts: SplitResult) -> tuple[http.client.HTTPConnection, str, bool]:
        """A connection to a server, what to ask it for, and whether it served before."""
        proxy = _proxy(parts)
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        asked = parts._replace(fragment="").geturl() if proxy and parts.scheme == "http" else path
        self.place = (parts.scheme, parts.hostname, parts.port, proxy)
        pool = _pool()
        if not self.alone and self.place in pool:
            self.connection = pool[self.place]
            return self.connection, asked, True
        self.connection = _connect(parts, proxy)
        if not self.alone:
            pool[self.place] = self.connection
        return self.connection, asked, False

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            if not self.alone:
                _pool().pop(self.place, None)


def _pool() -> dict[tuple, http.client.HTTPConnection]:
    """Connections of this thread; none is shared with a process that was forked."""
    if getattr(_threads, "owner", None) != os.getpid():
        _threads.owner, _threads.pool = os.getpid(), {}
    return _threads.pool


def _proxy(parts: SplitResult) -> str | None:
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _connect(parts: SplitResult, proxy: str | None) -> http.client.HTTPConnection:
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    if proxy is None:
        return kind(parts.hostname, parts.port, timeout=TIMEOUT)
    by = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = kind(by.hostname, by.port or 80, timeout=TIMEOUT)
    if secure:
        connection.set_tunnel(parts.hostname, parts.port or 443)
    return connection


def _answer(address: str, headers: dict[str, str], held: _Held) -> http.client.HTTPResponse:
    """The answer behind all redirects. RefusedError and UnavailableError by its status."""
    headers = {**headers, "Accept-Encoding": "identity", "User-Agent": "lucida"}
    first = address
    for _ in range(REDIRECTS):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RefusedError(f"no address of the web: {hide_secrets(address)}")
        answer = _ask_server(parts, headers, held)
        location = answer.getheader("Location")
        if answer.status not in (301, 302, 303, 307, 308) or not location:
            _check(answer, "" if address == first else f" (of {hide_secrets(address)})", held)
            return answer
        answer.read()
        address = urljoin(address, location)
    raise RefusedError("the server redirects without end")


def _ask_server(
    parts: SplitResult, headers: dict[str, str], held: _Held
) -> http.client.HTTPResponse:
    """The answer of one server. A connection that it has closed meanwhile is made anew."""
    connection, path, served = held.take(parts)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException):
        held.close()
        if not served:
            raise
    connection, path, _ = held.take(parts)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def _check(answer: http.client.HTTPResponse, where: str, held: _Held) -> None:
    if answer.status in (200, 206, 416):
        return
    held.close()
    said = f"the server answers {answer.status} {answer.reason}{where}"
    if answer.status in PASSING:
        wait = answer.getheader("Retry-After") or ""
        raise UnavailableError(said, float(wait) if wait.isdigit() else 0.0)
    raise RefusedError(said)


def hide_secrets(address: str) -> str:
    """An address for messages, without what may be a password or a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="…" if parts.query else "", fragment="").geturl()
