"""Files that stand elsewhere: over HTTP(S), or any store that fsspec knows (s3, gs, hf, ...).

    Remote(address).read(begin, size) ─▶ bytes      .open() ─▶ a file that can be sought in

Whatever breaks off is asked for again, from the byte where it broke, after 0.5, 1, 2, ... seconds
and for `PATIENCE` seconds at most since the last byte that came. Then, and when a server refuses,
`RunError` names the address: a network that is down is no reason to drop records.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lucida.core.errors import DataError, RunError
from lucida.core.http import (
    PASSING,
    RefusedError,
    UnavailableError,
    hide_secrets,
    open_answer,
    read_wait,
)

PATIENCE = 300.0
"""Seconds without a byte after which a file is given up."""
LONGEST_PAUSE = 30.0
JUMP = 1 << 20
"""Bytes that are read and thrown away sooner than the connection is given up for a jump."""
HELD = 64 << 20
"""Bytes of samples that a process remembers, so that a picture is not fetched twice."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_remote(path: object) -> bool:
    """Whether a path is an address rather than a local file."""
    return "://" in str(path)


def expand_braces(pattern: str) -> list[str]:
    """Every name that braces mean: `{00..11}` counts, `{a,b}` lists.

    Worked example: `s/{08..10}.{tar,idx}` means s/08.tar, s/08.idx, s/09.tar, ... s/10.idx.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    counted = _RANGE.fullmatch(found[1])
    if counted:
        first, last = counted.groups()
        step = 1 if int(first) <= int(last) else -1
        numbers = range(int(first), int(last) + step, step)
        names = [str(number).zfill(len(first)) for number in numbers]
    else:
        names = found[1].split(",")
    before, after = pattern[: found.start()], expand_braces(pattern[found.end() :])
    return [before + name + rest for name in names for rest in after]


class Remote:
    """A file elsewhere, as it was when it was first looked at.

    `size` is in bytes; `identity` names address and version. RunError: no such file, no access, no
    connection for `PATIENCE` seconds, a file that has changed since.
    """

    def __init__(self, address: str) -> None:
        self.address, self.name = address, hide_secrets(address)
        web = address.startswith(("http://", "https://"))
        self.store: Any = _HttpFile(address) if web else _FsspecFile(address)
        self.facts: Facts = self._patiently(self.store.facts)
        self._held: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def identity(self) -> str:
        # An address may carry a signature that is new each day; the version tells files apart then.
        address = self.name if self.facts.version else self.address
        return f"{address}|{self.facts.size}|{self.facts.version}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}

    def read(self, begin: int, size: int) -> bytes:
        """Some bytes. Those inside of what was read last cost nothing."""
        # A copy of the list: other threads of this process put in and take out meanwhile.
        for start, content in list(self._held.items()):
            if start[0] <= begin and begin + size <= start[1]:
                return content[begin - start[0] : begin - start[0] + size]
        self._needs_parts()
        content = b"".join(self.stream(begin, begin + size))
        self._held[begin, begin + size] = content
        while len(self._held) > 1 and sum(map(len, list(self._held.values()))) > HELD:
            with contextlib.suppress(KeyError):  # another thread was first
                self._held.popitem(last=False)
        return content

    def open(self) -> RemoteFile:
        """The file as one that can be read and sought in, forward cheaply."""
        return RemoteFile(self)

    def stream(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes in pieces; where the connection is cut they go on with the byte that is missing."""
        end = self.size if end is None else min(end, self.size)
        at, pauses = begin, _Pauses(self.name)
        while at < end:
            try:
                for piece in self.store.pieces(at, end, self.facts.version):
                    if piece:
                        at += len(piece)
                        yield piece
                        pauses = _Pauses(self.name)
                if at < end:
                    raise UnavailableError(f"the connection was cut at byte {at:,} of {end:,}")
            except UnavailableError as error:
                pauses.wait(error)
            except RefusedError as error:
                raise _make_refusal(error, self.name) from error

    def _needs_parts(self) -> None:
        if not self.facts.parts:
            raise RunError(
                "the server only gives whole files, so single samples cannot be read",
                origin=self.name,
                remedy="set `keep` of the source to a folder that the shards are copied into",
            )

    def _patiently(self, ask: Callable[[], Facts]) -> Facts:
        pauses = _Pauses(self.name)
        while True:
            try:
                return ask()
            except UnavailableError as error:
                pauses.wait(error)
            except RefusedError as error:
                raise _make_refusal(error, self.name) from error


def _make_refusal(error: RefusedError, name: str) -> RunError:
    remedy = "check the address and what you may read there"
    return RunError(f"cannot read the file: {error}", origin=name, remedy=remedy)


class _Pauses:
    """Growing pauses until patience is at its end. They differ by chance, so that a thousand
    processes do not come back at the same moment."""

    def __init__(self, name: str) -> None:
        self.name, self.begun = name, time.monotonic()
        self.next = (min(LONGEST_PAUSE, 0.5 * 2**n) for n in itertools.count())

    def wait(self, error: UnavailableError) -> None:
        """Sleeps, or raises RunError."""
        seconds = max(error.wait or 0.0, next(self.next) * random.uniform(0.5, 1.0))
        if time.monotonic() - self.begun + seconds > PATIENCE:
            raise RunError(
                f"cannot read the file, tried for {PATIENCE:g} seconds: {error}",
                origin=self.name,
                remedy="check the connection; the run goes on where it stopped",
            ) from error
        time.sleep(seconds)


class RemoteFile(io.RawIOBase):
    """A remote file as `tarfile` wants it. A jump forward of at most `JUMP` bytes reads on."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self.remote, self.at = remote, 0
        self._pieces: Iterator[bytes] = iter(())
        self._piece, self._come = b"", 0  # what came last, and where it ends

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.remote.size}[whence]
        self.at = max(0, start + offset)
        return self.at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer only at the end of the file."""
        rest = self.remote.size - self.at
        rest = max(0, rest if size < 0 else min(size, rest))
        found = []
        while rest:
            start = self._come - len(self._piece)
            if not start <= self.at < self._come:
                self._go_on(start)
                continue
            part = self._piece[self.at - start : self.at - start + rest]
            found.append(part)
            self.at += len(part)
            rest -= len(part)
        return b"".join(found)

    def _go_on(self, start: int) -> None:
        """The next piece, or the first one from here on after a jump."""
        # Reading 1 MB on and throwing it away is cheaper than a new request; going back needs one.
        near = start <= self.at <= self._come + JUMP
        piece = next(self._pieces, b"") if near else b""
        if not piece:
            self._pieces = self.remote.stream(self.at)
            self._come = self.at
            piece = next(self._pieces)
        self._piece, self._come = piece, self._come + len(piece)


@dataclass(frozen=True, slots=True)
class Facts:
    """Size in bytes, what names the version, and whether parts can be asked for."""

    size: int
    version: str
    parts: bool


class _HttpFile:
    """A file on a web server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def facts(self) -> Facts:
        """Asks for the first byte: unlike HEAD that works with signed addresses as well."""
        with self._part("bytes=0-0") as answer:
            if answer.status_code == 200:
                size = answer.headers.get("Content-Length", "")
            else:
                answer.read()  # a byte or a word: the connection serves on
                size = answer.headers.get("Content-Range", "*/0").rpartition("/")[2]
            if not size.isdigit():
                raise RefusedError("the server does not say how long the file is")
            return Facts(int(size), _version(answer), answer.status_code != 200)

    def pieces(self, begin: int, end: int, version: str) -> Iterator[bytes]:
        """Bytes `begin` to `end` in pieces, never more of them; fewer where the connection is cut.
        RefusedError when the file is another version by now."""
        with self._part(f"bytes={begin}-{end - 1}") as answer:
            if _version(answer) != version or answer.status_code == 416:
                raise RefusedError("the file has changed since it was looked through")
            # Of a 206 the range may still be another one (a cache's): its own words are compared.
            at = begin if answer.status_code == 206 else 0  # else the server only gives it whole
            if not answer.headers.get("Content-Range", f"bytes {at}-").startswith(f"bytes {at}-"):
                raise RefusedError("the server sends another part than was asked for")
            for piece in answer.iter_raw():
                yield piece[max(0, begin - at) : max(0, end - at)]
                at += len(piece)
                if at > end:
                    return

    @contextlib.contextmanager
    def _part(self, wanted: str) -> Iterator[Any]:
        with open_answer(self.address, {"Range": wanted}) as answer:
            if answer.status_code in (200, 206, 416):
                yield answer
                return
            said = f"the server answers {answer.status_code} {answer.reason_phrase}"
            if answer.history:
                said += f" (of {hide_secrets(str(answer.url))})"
            if answer.status_code in PASSING:
                raise UnavailableError(said, read_wait(answer.headers.get("Retry-After")))
            raise RefusedError(said)


def _version(answer: Any) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


class _FsspecFile:
    """A file of a store that fsspec knows."""

    BLOCK = 8 << 20

    def __init__(self, address: str) -> None:
        self.address = address

    def facts(self) -> Facts:
        found = self._tried(lambda system, path: system.info(path))
        size = found.get("size")
        if not isinstance(size, int):
            raise RefusedError("the store does not say how long the file is")
        names = ("ETag", "etag", "sha256", "LastModified", "last_modified", "mtime", "updated")
        version = next((str(found[name]) for name in names if found.get(name)), "")
        return Facts(size, version, True)

    def pieces(self, begin: int, end: int, version: str) -> Iterator[bytes]:
        """Bytes `begin` to `end` by blocks."""
        for start in range(begin, end, self.BLOCK):
            stop = min(end, start + self.BLOCK)
            content = self._tried(
                lambda system, path, start=start, stop=stop: system.cat_file(path, start, stop)
            )
            yield content
            if len(content) < stop - start:
                return

    def _tried(self, use: Callable[[Any, str], Any]) -> Any:
        try:
            import fsspec

            return use(*fsspec.url_to_fs(self.address))
        except ImportError as error:
            remedy = "pip install 'lucida[data]', and what it asks for"
            raise DataError(f"cannot read the address: {error}", origin=hide_secrets(self.address),
                            remedy=remedy) from error  # fmt: skip
        except (FileNotFoundError, PermissionError, IsADirectoryError, ValueError) as error:
            raise RefusedError(f"{type(error).__name__}: {error}") from error
        except OSError as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from error
