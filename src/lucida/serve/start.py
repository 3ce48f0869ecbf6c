"""From run folders to a server that listens."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lucida.core.errors import LucidaError
from lucida.core.progress import say

if TYPE_CHECKING:
    from lucida.model.few_bits import Weights

DRAIN = 30
"""Seconds that answers under way may take after SIGTERM."""

LOCAL = ("127.0.0.1", "localhost", "::1")


def start(
    runs: Sequence[str],
    host: str,
    port: int,
    key: str | None,
    most_waiting: int,
    browser: bool = False,
    hosts: Collection[str] = (),
    weights: Weights | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, which let what is under way come to its end. LucidaError when
    the port is taken or the extra is missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as problem:
        raise LucidaError(
            f"serving needs packages that are not installed ({problem.name})",
            remedy="pip install 'lucida[serve]'",
        ) from problem
    from lucida.model.few_bits import check_weights
    from lucida.serve.batching import load_engines
    from lucida.serve.server import make_app

    check_weights(weights)
    listener = listen(host, port)
    address = write_address(host, listener.getsockname()[1])
    engines = load_engines(runs, most_waiting, weights=weights)
    say(f"serving {', '.join(engines)} at {address} (programs: {address}/v1)")
    if host not in LOCAL and key is None:
        say("note: anybody who reaches this address may ask; --api-key KEY asks for a key")
    if browser:  # it may take as long as the browser is open; until all runs, its request waits
        threading.Thread(target=open_page, args=(address,), daemon=True).start()
    config = uvicorn.Config(
        make_app(engines, key, hosts=frozenset(hosts)),
        log_level="warning",
        timeout_graceful_shutdown=DRAIN,
        server_header=False,
    )
    begun = time.monotonic()
    # Uvicorn ends in order and then raises the signal again: as an exit, so that what follows runs.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        uvicorn.Server(config).run([listener])
    finally:
        for engine in engines.values():
            engine.close()
        asked = sum(engine.counts["answer_tokens"] for engine in engines.values())
        say(f"served for {time.monotonic() - begun:.0f} s, {asked:,} tokens written")


def write_address(host: str, port: int) -> str:
    """`http://127.0.0.1:8000`; an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_page(address: str) -> None:
    """Open the page in the browser that `BROWSER` names, or the system's; where there is none, say
    so."""
    if not webbrowser.open(address):
        say(f"no browser could be opened here: go to {address}")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before models are loaded: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as problem:
        listener.close()
        raise LucidaError(
            f"cannot listen at {host}, port {port}: {problem.strerror}",
            remedy="take another with --port, or --port 0 for any that is free",
        ) from problem
    return listener
