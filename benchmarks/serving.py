"""Throughput and time to the first token of `lucida serve` beside `transformers serve`.

python benchmarks/serving.py RUN [--clients 1,8,32] [--requests 64] [--rounds 3]

RUN has to be a Llava (`mini-vit` is one): it is exported, and both servers are given the same
weights, `lucida serve hf:` left aside: Lucida serves the run. Both stand beside each other all the
time and are asked in turn, round by round; figures are ratios of one round, so that what else the
machine does weighs on both. Pictures and questions are the miniature world's, answers are the
likeliest ones, streamed. Needs `pip install 'lucida[serve]' openai` and what `transformers serve`
asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from lucida.apps.export.write import export
from lucida.world.drawing import draw
from lucida.world.scenes import make_scene

QUESTIONS = (
    "what colour is the star?",
    "how many things are there?",
    "describe the picture.",
    "what does the sign say?",
    "is there a red circle in the picture?",
)
TOKENS = 24
"""Longest answer."""
PATIENCE = 300
"""Seconds until a server has to stand."""


@dataclass(frozen=True)
class Heard:
    """One answer: seconds to its first piece and to its end, its words."""

    first: float
    whole: float
    text: str


def main() -> None:
    """Serve twice, ask in turn, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / args.run.name
        export(args.run, folder, "llava")
        ours = [sys.executable, "-m", "lucida", "serve", str(args.run)]
        tool = Path(sys.executable).with_name("transformers")
        theirs = [str(tool), "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
        with serve(ours) as here, serve([*theirs, "--host", "127.0.0.1"]) as there:
            sides = {"lucida": (here, args.run.name), "transformers": (there, str(folder))}
            for count in map(int, args.clients.split(",")):
                compare(sides, count, args.requests, args.rounds)


@contextmanager
def serve(command: Sequence[str]) -> Iterator[str]:
    """A server at a free port; gives its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    address, begun = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if server.poll() is not None or time.monotonic() - begun > PATIENCE:
                raise SystemExit(f"this server does not stand: {' '.join(command)}")
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def compare(sides: dict[str, tuple[str, str]], clients: int, requests: int, rounds: int) -> None:
    """Ask both in turn, and print the medians of the rounds' ratios with their range."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    firsts: dict[str, list[float]] = {name: [] for name in sides}
    said: dict[str, list[str]] = {}
    for number in range(rounds + 1):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            begun = time.monotonic()
            heard = asyncio.run(ask_all(*sides[name], clients, requests))
            if number:  # the first round warms up
                speeds[name].append(requests / (time.monotonic() - begun))
                firsts[name].append(statistics.median(each.first for each in heard))
            said[name] = [each.text for each in heard]
    same = sum(a.strip() == b.strip() for a, b in zip(*said.values(), strict=True))
    faster = [a / b for a, b in zip(speeds["lucida"], speeds["transformers"], strict=True)]
    sooner = [b / a for a, b in zip(firsts["lucida"], firsts["transformers"], strict=True)]
    print(
        f"{clients} clients: {spread(faster)} times the answers a second, first token "
        f"{spread(sooner)} times as soon; {same} of {requests} answers equal",
        flush=True,
    )


def spread(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


async def ask_all(address: str, model: str, clients: int, requests: int) -> list[Heard]:
    """The questions in order, by so many clients, each of which waits for its answer."""
    heard: list[Heard | None] = [None] * requests
    left = iter(range(requests))
    async with openai.AsyncOpenAI(
        base_url=f"{address}/v1", api_key="none", timeout=600, max_retries=0
    ) as library:

        async def go_on() -> None:
            for number in left:
                heard[number] = await ask(library, model, number)

        await asyncio.gather(*(go_on() for _ in range(clients)))
    return [each for each in heard if each is not None]


async def ask(library: openai.AsyncOpenAI, model: str, number: int) -> Heard:
    """One question about one picture, streamed."""
    content = [
        {"type": "image_url", "image_url": {"url": picture(number)}},
        {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
    ]
    begun, first, text = time.monotonic(), 0.0, ""
    stream = await library.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
    )
    async for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            first = first or time.monotonic() - begun
            text += piece
    whole = time.monotonic() - begun
    return Heard(first or whole, whole, text)


def picture(number: int) -> str:
    """A scene of the test split as an address."""
    content = io.BytesIO()
    draw(make_scene(0, "test", number)).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


if __name__ == "__main__":
    main()
