"""Processes that are killed, and several that share the work: nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from pathlib import Path

from slow_answers import ask_slowly

from forking import start


def begin(folder: Path, pause: float, **environment: str):
    told = Path(f"{folder}.told-{environment.get('RANK', 0)}")
    return start(told, ask_slowly, folder, pause, environment=environment)


def end(process, folder: Path, rank: int = 0) -> None:
    process.join(180)
    assert process.exitcode == 0, Path(f"{folder}.told-{rank}").read_text()


def asked(folder: Path) -> list[str]:
    file = Path(f"{folder}.asked")
    return file.read_text().split() if file.exists() else []


def rows(folder: Path) -> list[dict]:
    file = folder / "predictions" / "attribute.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "out"
    first = begin(folder, 0.05)
    until = time.monotonic() + 60
    while len(rows(folder)) < 10 and time.monotonic() < until:
        time.sleep(0.02)
    first.kill()
    first.join()
    stored = len(rows(folder))
    before = asked(folder)
    assert 10 <= stored < 40
    assert len(before) - stored <= 1, "at most the answer that was just on its way"
    end(begin(folder, 0.0), folder)
    assert len(asked(folder)) - len(before) == 40 - stored
    twice = [name for name, count in Counter(asked(folder)).items() if count > 1]
    assert len(twice) <= 1
    assert len({row["id"] for row in rows(folder)}) == len(rows(folder)) == 40
    end(begin(tmp_path / "whole", 0.0), tmp_path / "whole")
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
        begin(both, 0.0, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
              MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]  # fmt: skip
    single = begin(alone, 0.0)
    for rank, process in enumerate(together):
        end(process, both, rank)
    end(single, alone)
    results = [json.loads((f / "results.json").read_text())["tasks"] for f in (alone, both)]
    assert results[0] == results[1]
    assert sorted(asked(alone)) == sorted(asked(both))
    by_id = [{row["id"]: row for row in rows(folder)} for folder in (alone, both)]
    assert by_id[0] == by_id[1]
    assert not list((both / "predictions").glob("rank*/*.jsonl"))
