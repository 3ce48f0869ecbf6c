"""Throughput and time to the first token of `lucida serve` beside `transformers serve`.

python benchmarks/serving.py RUN [--clients 1,8,32] [--pictures 32] [--rounds 3]
    [--asked mixed,descriptions,talks]

RUN has to be a Llava (`mini-vit` is one): Lucida serves it, `transformers serve` its export. Both
stand beside each other all the time and are asked in turn, round by round, about the same pictures
of the miniature world, which neither has seen before; answers are the likeliest ones, streamed.
`mixed`: a question a picture, most answers a word or two; `descriptions`: sentences of about 24
tokens; `talks`: every question about every picture, one after the other.
Told are medians over rounds and their range: ratios of one round, so that what else the machine
does weighs on both, and of the processor time that each server itself took (Linux). Needs
`pip install 'lucida[serve]' openai` and what `transformers serve` asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import openai

from lucida.apps.drawn import drawing
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
ASKED = ("mixed", "descriptions", "talks")
TOKENS = 24
"""Longest answer."""
PATIENCE = 300
"""Seconds until a server has to stand."""


@dataclass(frozen=True)
class Side:
    """A server: its address, its process, what the model is called there."""

    address: str
    process: int
    model: str


@dataclass(frozen=True)
class Load:
    """What is asked in one round, and by how many clients at a time."""

    asked: str
    clients: int
    pictures: int

    def questions(self, number: int) -> Sequence[str]:
        """What is asked about a picture."""
        if self.asked == "mixed":
            return (QUESTIONS[number % len(QUESTIONS)],)
        return QUESTIONS if self.asked == "talks" else ("describe the picture.",)


@dataclass(frozen=True)
class Heard:
    """One answer: seconds to its first piece, its words."""

    first: float
    text: str


@dataclass(frozen=True)
class Round:
    """Answers a second, median seconds to the first token, processor seconds of the server."""

    speed: float
    first: float
    work: float
    said: list[str]


def main() -> None:
    """Serve twice, ask in turn, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--asked", default=",".join(ASKED))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / args.run.name
        export(args.run, folder, "llava")
        ours = [sys.executable, "-m", "lucida", "serve", str(args.run)]
        tool = Path(sys.executable).with_name("transformers")
        theirs = [str(tool), "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
        with serve(ours) as here, serve([*theirs, "--host", "127.0.0.1"]) as there:
            sides = [Side(*here, args.run.name), Side(*there, str(folder))]
            for asked in args.asked.split(","):
                for count in map(int, args.clients.split(",")):
                    compare(sides, Load(asked, count, args.pictures), args.rounds)


@contextmanager
def serve(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server at a free port; gives its address and process once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = subprocess.DEVNULL
    server = subprocess.Popen([*command, "--port", str(port)], stdout=nowhere, stderr=nowhere)
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
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(60)


def compare(sides: Sequence[Side], load: Load, rounds: int) -> None:
    """Ask both in turn; print the medians of what each did and of the rounds' ratios."""
    seed = 100_000 * (1 + ASKED.index(load.asked)) + 1_000 * load.clients
    ask_round(sides, load, range(seed + 900, seed + 900 + min(8, load.clients)), turned=False)
    done = []
    for number in range(rounds):
        first = seed + number * load.pictures
        shown = range(first, first + load.pictures)
        done.append(ask_round(sides, load, shown, number % 2 == 1))
    count = len(done[0][0].said)
    name = f"{load.asked}, {load.clients} clients"
    for side, rows in zip(("lucida", "transformers"), zip(*done, strict=True), strict=True):
        print(
            f"{name}, {side}: {spread([row.speed for row in rows])} answers a second, first "
            f"token after {spread([1000 * row.first for row in rows])} ms, "
            f"{spread([1000 * row.work / count for row in rows])} ms of processor an answer"
        )
    said = [pair for a, b in done for pair in zip(a.said, b.said, strict=True)]
    same = sum(ours.strip() == theirs.strip() for ours, theirs in said)
    print(
        f"{name}: {spread([a.speed / b.speed for a, b in done])} times the answers a second, first "
        f"token {spread([b.first / a.first for a, b in done])} times as soon, "
        f"{spread([b.work / a.work for a, b in done])} times the answers by processor time; "
        f"{same} of {len(said)} answers equal",
        flush=True,
    )


def ask_round(sides: Sequence[Side], load: Load, shown: range, turned: bool) -> list[Round]:
    """The same questions to each side, in this order or turned; what each did, in order."""
    addresses, found = [picture(number) for number in shown], {}
    for side in sides[::-1] if turned else sides:
        begun, worked = time.monotonic(), count_work(side.process)
        heard = asyncio.run(ask_all(side, load, addresses))
        speed = len(heard) / (time.monotonic() - begun)
        first = statistics.median(each.first for each in heard)
        work = count_work(side.process) - worked
        found[side] = Round(speed, first, work, [each.text for each in heard])
    return [found[side] for side in sides]


def count_work(process: int) -> float:
    """Processor seconds that a process has taken, its system calls included."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


async def ask_all(side: Side, load: Load, addresses: Sequence[str]) -> list[Heard]:
    """The questions about each picture, by so many clients, each of which waits for its answers."""
    heard: dict[int, list[Heard]] = {}
    left = iter(range(len(addresses)))
    async with openai.AsyncOpenAI(
        base_url=f"{side.address}/v1", api_key="none", timeout=600, max_retries=0
    ) as library:

        async def go_on() -> None:
            for number in left:
                asked = load.questions(number)
                heard[number] = [
                    await ask(library, side.model, addresses[number], each) for each in asked
                ]

        await asyncio.gather(*(go_on() for _ in range(load.clients)))
    return [each for number in range(len(addresses)) for each in heard[number]]


async def ask(library: openai.AsyncOpenAI, model: str, address: str, question: str) -> Heard:
    """One question about one picture, streamed."""
    content = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": question},
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
    return Heard(first or time.monotonic() - begun, text)


@cache
def picture(number: int) -> str:
    """A scene of the test split as an address."""
    return drawing(draw(make_scene(0, "test", number)), "").data


if __name__ == "__main__":
    main()
