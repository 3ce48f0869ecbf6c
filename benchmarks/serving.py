"""Two servers with one model: `lucida serve` beside `transformers serve`, each as it comes.

    1, 8, 32 clients ──a question about a picture, streamed──▶ both servers, in turns

The model is a Llava (SigLIP of 4 layers, width 384; Qwen2 of 6, width 512; 64 visual tokens, fp32,
random weights) that both read from disk; no answer ends before `--tokens` tokens. A client asks as
soon as it was answered. Pictures: `new`, each shown once, or `again`, eight that all ask about.
Told are tokens a second over all clients, and the milliseconds to the first piece of text: half of
the requests, and 95 in a hundred, are below. Answers of both have to be equal before anything is
timed. The clients run on the same machine and take their share of it.

    python benchmarks/serving.py [--seconds 8] [--rounds 2] [--tokens 32] [--clients 1 8 32]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from llava_twin import lucida_model, toy_parts
from PIL import Image

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.model.checkpoint import build, save
from lucida.model.conversion.llava import write_llava
from lucida.model.processing import LucidaProcessor

QUESTIONS = ["what colour is the star?", "how many circles are there?", "what is left of it?"]
PATIENCE = 600
"""Seconds until a server listens, or an answer is whole."""


def write_models(lucida: Path, llava: Path) -> None:
    """The same weights in both folders."""
    torch.manual_seed(7)
    _, known = build(load_recipe("mini").model)
    vision, text = toy_parts()
    text.vocab_size = len(known.tokenizer)
    text.max_position_embeddings = 2048
    text.tie_word_embeddings = False  # else each token is followed by itself
    model = lucida_model(vision, text).eval()
    model.config.image_token_id = known.image_token_id
    ends = known.end_tokens()
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = ends, known.tokenizer.pad_token_id
    settings.suppress_tokens = sorted({*ends, *known.tokenizer.all_special_ids})
    policy = replace(known.image_policy, policy="resize", size=vision.image_size)
    processor = LucidaProcessor(
        known.tokenizer, known.image_token, policy, "qa", model.config.visual_tokens
    )
    save(model, processor, lucida)
    llava.mkdir()
    write_llava(model, processor, llava)
    settings.save_pretrained(llava)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@dataclass
class Side:
    """A server, and what it was asked and answered."""

    name: str
    model: str
    port: int
    tokens: int
    first: dict[tuple, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[tuple, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, question: str, picture: str) -> tuple[str, float]:
        """The whole answer, and seconds to its first piece of text."""
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": question},
        ]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
        }
        begun, first, text = time.perf_counter(), 0.0, ""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise SystemExit(f"{self.name}: {response.status} {response.read(500)!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - begun if piece else 0.0)
                text += piece
        connection.close()
        return text, first

    def load(self, clients: int, seconds: float, kind: str, numbers: Iterator[int]) -> None:
        """So many clients for so long."""
        lock, over = threading.Lock(), time.perf_counter() + seconds
        done: list[float] = []
        begun = time.perf_counter()

        def come() -> None:
            while time.perf_counter() < over:
                with lock:
                    number = next(numbers)
                shown = number if kind == "new" else number % 8
                _, first = self.ask(QUESTIONS[number % 3], draw(shown))
                with lock:
                    done.append(first)

        threads = [threading.Thread(target=come) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.first[clients, kind] += done
        rate = len(done) * self.tokens / (time.perf_counter() - begun)
        self.rates[clients, kind].append(rate)


def draw(number: int) -> str:
    """A picture of this number, as a `data:` address."""
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server for a while; SystemExit with its words when it never listens."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | QUIET)
    try:
        over = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > over:
                raise SystemExit(f"{command[:4]} does not listen:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


THEIRS = "from transformers.cli.transformers import main; main()"
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def check(sides: list[Side]) -> None:
    """Both answer alike; SystemExit where they do not."""
    for number, question in enumerate(QUESTIONS):
        answers = [re.sub(r"\s", "", side.ask(question, draw(number))[0]) for side in sides]
        if len(set(answers)) > 1 or not answers[0]:
            raise SystemExit(f"the servers answer differently: {answers}")


def show(sides: list[Side], cases: list[tuple[int, str]]) -> None:
    """A row for each number of clients and kind of pictures."""
    rows = []
    for case in cases:
        rates = [statistics.median(side.rates[case]) for side in sides]
        row = [str(case[0]), case[1], *(f"{rate:.0f}" for rate in rates)]
        row.append(f"{rates[0] / rates[1]:.1f}")
        for side in sides:
            half, most = np.quantile(side.first[case], [0.5, 0.95]) * 1000
            row.append(f"{half:.0f}, {most:.0f}")
        rows.append(row)
    names = [side.name for side in sides]
    columns = ["clients", "pictures", *(f"{name} tokens/s" for name in names), "times"]
    columns += [f"{name} first ms" for name in names]
    table("one model behind two servers", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_models(folder / "lucida", folder / "llava")
        ports = [free_port(), free_port()]
        ours = [sys.executable, "-m", "lucida", "serve", str(folder / "lucida")]
        theirs = [sys.executable, "-c", THEIRS, "serve"]
        theirs += [str(folder / "llava"), "--dtype", "float32", "--device", "cpu"]
        sides = [
            Side("lucida", "lucida", ports[0], wanted.tokens),
            Side("transformers", str(folder / "llava"), ports[1], wanted.tokens),
        ]
        cases = [(clients, kind) for clients in wanted.clients for kind in ("new", "again")]
        with (
            running([*ours, "--port", str(ports[0])], ports[0], folder / "ours.log"),
            running([*theirs, "--port", str(ports[1])], ports[1], folder / "theirs.log"),
        ):
            check(sides)
            numbers = count(100)
            for _ in range(wanted.rounds):
                for clients, kind in cases:
                    for side in sides:
                        side.load(clients, wanted.seconds, kind, numbers)
        show(sides, cases)


if __name__ == "__main__":
    main()
