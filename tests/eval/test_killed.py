"""Processes that are killed, and several that share the work: nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

PROGRAM = """
import json, sys, time
from pathlib import Path
from lucida.core.spec import EvaluationSpec
from lucida.eval.asking import Response
from lucida.eval.run import evaluate_target

class Slow:
    protocols, identity = ("generate",), {"name": "slow"}
    def stream(self, examples, way, new):
        for index, example in enumerate(examples):
            time.sleep(float(sys.argv[2]))
            with open(sys.argv[1] + ".asked", "a") as file:
                file.write(example.id + "\\n")
            yield index, Response(example.answers[0] if len(example.id) % 2 else "no idea")
    def read_box(self, text, width, height):
        return None

spec = EvaluationSpec(baselines=[], samples=100)
evaluate_target("slow", lambda folder: Slow(), Path(sys.argv[1]), spec, ["attribute"], 40)
"""


def start(folder: Path, pause: float, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(pause)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def asked(folder: Path) -> list[str]:
    file = Path(f"{folder}.asked")
    return file.read_text().split() if file.exists() else []


def rows(folder: Path) -> list[dict]:
    file = folder / "predictions" / "attribute.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "out"
    first = start(folder, 0.05)
    until = time.monotonic() + 60
    while len(rows(folder)) < 10 and time.monotonic() < until:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    stored = len(rows(folder))
    before = asked(folder)
    assert 10 <= stored < 40
    assert len(before) - stored <= 1, "at most the answer that was just on its way"
    second = start(folder, 0.0)
    told, _ = second.communicate(timeout=120)
    assert second.returncode == 0, told.decode()
    assert len(asked(folder)) - len(before) == 40 - stored
    twice = [name for name, count in Counter(asked(folder)).items() if count > 1]
    assert len(twice) <= 1
    assert len({row["id"] for row in rows(folder)}) == len(rows(folder)) == 40
    whole = start(tmp_path / "whole", 0.0)
    whole.communicate(timeout=120)
    scores = [
        json.loads((f / "results.json").read_text())["tasks"] for f in (folder, tmp_path / "whole")
    ]
    assert scores[0] == scores[1]


def test_two_processes_give_the_scores_of_one(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = [
        start(both, 0.0, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
              MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]  # fmt: skip
    single = start(alone, 0.0)
    for process in (*together, single):
        told, _ = process.communicate(timeout=180)
        assert process.returncode == 0, told.decode()
    results = [json.loads((f / "results.json").read_text())["tasks"] for f in (alone, both)]
    assert results[0] == results[1]
    assert sorted(asked(alone)) == sorted(asked(both))
    by_id = [{row["id"]: row for row in rows(folder)} for folder in (alone, both)]
    assert by_id[0] == by_id[1]
    assert not list((both / "predictions").glob("rank*/*.jsonl"))
