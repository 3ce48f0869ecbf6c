"""Does a server stand a crowd? Mixed clients and broken requests, for minutes.

python benchmarks/soak.py RUN [--minutes 5] [--broken 10000] [--clients 12] [--seed 0] [--inside]

Clients that stream, that hang up in the middle, that score texts, that look inside, and that send
what is none: bodies with places replaced, bytes cut and changed. It goes on until the minutes are
over and so many broken requests have been sent. Told are statuses by kind of client and the
server's memory over time; 5xx, and a last quarter that is larger than the second by more than 5%,
end with status 1. `--inside`: broken requests only, without a socket between, which is quicker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from serving import QUESTIONS, picture, serve

from lucida.serve.batching import load_engines
from lucida.serve.server import make_app

JUNK: list[Any] = [None, True, 0, -1, 10**30, "", "x" * 3000, [], {}, [None], "data:,", "<image>"]
GROWTH = 1.05
"""How much larger the server may be in the last quarter than in the second."""


def main() -> None:
    """Serve, send, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--broken", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", action="store_true")
    args = parser.parse_args()
    if args.inside:
        engines = load_engines([str(args.run)], most_waiting=256)
        soak = Soak("http://inside", args.run.name, args.seed, 0, args.broken)
        soak.way = httpx.ASGITransport(make_app(engines))
        asyncio.run(soak.run(args.clients))
    else:
        with serve([sys.executable, "-m", "lucida", "serve", str(args.run)]) as (address, _):
            soak = Soak(address, args.run.name, args.seed, args.minutes, args.broken)
            asyncio.run(soak.run(args.clients))
    for kind in sorted({kind for kind, _ in soak.heard}):
        told = {status: n for (each, status), n in sorted(soak.heard.items()) if each == kind}
        print(f"{kind}: {told}")
    sizes, quarter = soak.sizes, max(1, len(soak.sizes) // 4)
    early = statistics.median(sizes[quarter : 2 * quarter] or sizes)
    late = statistics.median(sizes[-quarter:])
    print(f"memory: {early / 1e6:.0f} MB in the second quarter, {late / 1e6:.0f} in the last")
    faults = sum(n for (_, status), n in soak.heard.items() if status >= 500)
    if faults or late > GROWTH * early:
        raise SystemExit(f"{faults} answers of 5xx; memory grew by {late / early - 1:.1%}")


class Soak:
    """What was sent and heard."""

    def __init__(self, address: str, model: str, seed: int, minutes: float, broken: int) -> None:
        self.address, self.model, self.broken = address, model, broken
        self.rng = random.Random(seed)
        self.begun = time.monotonic()
        self.until = self.begun + 60 * minutes
        self.heard: Counter[tuple[str, int]] = Counter()
        self.sizes: list[int] = []
        self.way: httpx.ASGITransport | None = None
        """How requests get to a server that is in this process."""

    @property
    def over(self) -> bool:
        """Is everything done?"""
        return time.monotonic() > self.until and self.broken <= 0

    async def run(self, clients: int) -> None:
        """All clients beside each other; every third sends broken requests only."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.address, timeout=600, limits=limits, transport=self.way
        ) as web:
            talkers = [
                self.talk(web, bool(self.way) or number % 3 == 0) for number in range(clients)
            ]
            await asyncio.gather(self.weigh(web), *talkers)

    async def weigh(self, web: httpx.AsyncClient) -> None:
        """The server's memory, every two seconds."""
        while not self.over:
            text = (await web.get("/metrics")).text
            line = next(x for x in text.splitlines() if x.startswith("process_resident"))
            self.sizes.append(int(float(line.split()[-1])))
            if not len(self.sizes) % 30:
                seconds, told = time.monotonic() - self.begun, sum(self.heard.values())
                print(
                    f"{seconds:.0f} s: {told} answered, {self.sizes[-1] / 1e6:.0f} MB", flush=True
                )
            await asyncio.sleep(2)

    async def talk(self, web: httpx.AsyncClient, breaks: bool) -> None:
        """One client after the other in this place."""
        whole = (self.stream, self.leave, self.score, self.look, self.ask)
        while not self.over:
            kind = self.spoil if breaks or self.rng.random() < 0.2 else self.rng.choice(whole)
            self.heard[kind.__name__, await kind(web)] += 1

    def body(self) -> dict[str, Any]:
        """A good request."""
        address = {"url": picture(self.rng.randrange(200))}
        text = {"type": "text", "text": self.rng.choice(QUESTIONS)}
        content = [{"type": "image_url", "image_url": address}, text]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.rng.choice([1, 8, 40]),
            "temperature": self.rng.choice([0, 0.8]),
            "seed": self.rng.randrange(5),
        }

    async def ask(self, web: httpx.AsyncClient) -> int:
        """A whole answer."""
        return (await web.post("/v1/chat/completions", json=self.body())).status_code

    async def stream(self, web: httpx.AsyncClient) -> int:
        """A stream, heard to its end; 599 for one that breaks off."""
        body = self.body() | {"stream": True}
        async with web.stream("POST", "/v1/chat/completions", json=body) as answer:
            text = (await answer.aread()).decode()
        ended = text.endswith("data: [DONE]\n\n") or answer.status_code != 200
        return answer.status_code if ended else 599

    async def leave(self, web: httpx.AsyncClient) -> int:
        """A stream that is left after its first piece."""
        body = self.body() | {"stream": True, "max_tokens": 200}
        async with web.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                break
        return answer.status_code

    async def score(self, web: httpx.AsyncClient) -> int:
        """The likelihood of a text."""
        body = {"prompt": "the star is red", "max_tokens": 0, "echo": True, "logprobs": 1}
        return (await web.post("/v1/completions", json=body | {"model": self.model})).status_code

    async def look(self, web: httpx.AsyncClient) -> int:
        """What an answer rests on; 429 where somebody else looks."""
        body = {key: value for key, value in self.body().items() if key in ("model", "messages")}
        return (await web.post("/look", json=body | {"cells": 2, "answer": "red"})).status_code

    async def spoil(self, web: httpx.AsyncClient) -> int:
        """A broken request."""
        self.broken -= 1
        content = spoil(self.body() | {"max_tokens": 1}, self.rng)
        path = self.rng.choice(["/v1/chat/completions"] * 6 + ["/v1/completions", "/look"])
        kind = {"content-type": "application/json"}
        return (await web.post(path, content=content, headers=kind)).status_code


def spoil(body: dict[str, Any], rng: random.Random) -> bytes:
    """A request as bytes, with a place replaced and, one time in two, bytes cut or changed."""
    holder: Any = body
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.3:
            break
        holder = holder[key]
    holder[key] = rng.choice(JUNK)
    content = bytearray(json.dumps(body).encode())
    if rng.random() < 0.25:
        return bytes(content[: rng.randrange(len(content))])
    if rng.random() < 0.33:
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


if __name__ == "__main__":
    main()
