"""A run's numbers and pictures in a tracker: of one that has ended, or while it trains.

    metrics.jsonl ──rows that are new──▶ tracker
    results.json, predictions/ ──scores, pictures with their answers──▶ tracker, at the end

Nothing of a training depends on it: what follows a run is a process of its own, which reads what
the training has written down. `tracked.json` says which row each tracker has had, so that the same
command later goes on there; steps that a killed training does again are the same to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lucida.apps.trackers import Shown, Tracker, find_tracker
from lucida.core.errors import LucidaError
from lucida.core.progress import say
from lucida.core.runs import RunFolder, atomic_write

STATE = "tracked.json"
PAUSE = 2.0
"""Seconds between looks at a run that trains."""
PICTURES = 8
"""Pictures of each task."""
PLACE = ("stage", "step", "total_step")


def track(
    path: Path, name: str, follow: bool = False, offline: bool = False, out: Path | None = None
) -> int:
    """Give a tracker what it has not had; how many steps that were. follow: go on until standard
    input ends, which it does when the training does that started it.

    LucidaError for a folder that is no run, and for a tracker that cannot be had.
    """
    run = RunFolder(path)
    run.check()
    over = threading.Event()
    if follow:
        threading.Thread(target=wait_for_end, args=(over,), daemon=True).start()
    else:
        over.set()
    settings = dict(flatten(run.recipe.model_dump(mode="json")))
    folder = out or path / "trackers" / name
    # Of the folder, so that the tracker knows the run again when the same command goes on.
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    tracker = find_tracker(name)(path.resolve().name, key, folder, settings, offline)
    had = read_state(path).get(name, {})
    told, last = 0, (had.get("step", 0), had.get("row", sys.maxsize if had else 0))
    try:
        while True:
            ended = over.wait(PAUSE) if follow else True
            new = {at: row for at, row in number_rows(run.metrics.read()) if at > last}
            for step, values in by_step(list(new.values())):
                tracker.tell(step, values)
                told += 1
            last = max([last, *new])
            write_state(path, name, step=last[0], row=last[1])
            if ended:
                break
        show_answers(run, tracker, last[0])
    finally:
        tracker.close()
    say(f"{told:,} steps of {path} are in {name} ({folder})")
    return told


def wait_for_end(over: threading.Event) -> None:
    """Set `over` when standard input ends."""
    sys.stdin.read()
    over.set()


def number_rows(rows: list[dict]) -> Iterator[tuple[tuple[int, int], dict]]:
    """Each row with its place: the step of the run, and which of the step's rows it is.

    A step has several, which come seconds and minutes apart: its loss, a validation loss, scores.
    """
    counts: Counter[int] = Counter()
    for row in rows:
        step = int(row.get("total_step", 0))
        counts[step] += 1
        yield (step, counts[step]), row


def by_step(rows: list[dict]) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of each step of the run, of all its rows."""
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        inner = {name: value for name, value in row.items() if name not in PLACE}
        values = {name: value for name, value in flatten(inner) if is_number(value)}
        steps.setdefault(int(row.get("total_step", 0)), {}).update(values)
    yield from sorted(steps.items())


def flatten(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, by the names that lead to it: `sources/world`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value


def is_number(value: object) -> bool:
    """Whether a tracker can draw a value; yes and no are 1 and 0."""
    return isinstance(value, int | float)


def show_answers(run: RunFolder, tracker: Tracker, step: int) -> None:
    """Final scores, and of each task some pictures with the answers, where the run was measured."""
    scores = run.results.tasks
    if not scores:
        return
    from lucida.eval.gallery import gallery

    tracker.tell(step, {f"score/{task}": each.score for task, each in scores.items()})
    for task in scores:
        try:
            shots = gallery(run.path, task, PICTURES)
        except LucidaError as problem:  # scores of answers that are no longer here
            say(f"no pictures of {task}: {problem}")
            continue
        shown: list[Shown] = [
            (
                shot.images[shot.image],
                f"asked: {shot.question} | said: {shot.answer} | true: {shot.truth or 'the box'} | "
                f"blind: {shot.blind} | score {shot.score:g}",
            )
            for shot in shots
            if shot.images
        ]
        if shown:
            tracker.show(step, f"answers/{task}", shown)


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """What each tracker has had; a file that cannot be read says nothing, and all is told again."""
    try:
        found = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_state(path: Path, name: str, **values: Any) -> None:
    """Remember what a tracker has had."""
    atomic_write(path / STATE, json.dumps(read_state(path) | {name: values}, indent=2) + "\n")


class Followers:
    """Processes that tell trackers of a training, from when its folder is there. They end after it,
    by themselves: what they wait at is a pipe that ends with this process, however it does."""

    def __init__(self, path: Path, names: list[str], offline: bool = False) -> None:
        """LucidaError, before anything trains, for a name that is no tracker."""
        for name in names:
            find_tracker(name)
        self.path, self.offline = path, offline
        self.names = names if os.environ.get("RANK", "0") == "0" else []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.over = threading.Event()
        self.starter = threading.Thread(target=self.start, daemon=True)
        if self.names:
            self.starter.start()

    def start(self) -> None:
        """Wait until there is a run, and start a process for each tracker."""
        while not RunFolder(self.path).exists:
            if self.over.wait(PAUSE / 4):
                return
        for name in self.names:
            command = [sys.executable, "-m", "lucida", "track", str(self.path), "--to", name]
            command += ["--follow", *(["--offline"] if self.offline else [])]
            log = self.path / "trackers" / f"{name}.log"
            try:
                log.parent.mkdir(exist_ok=True)
                with log.open("ab") as out:
                    self.processes[name] = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=out, stderr=out
                    )
            except OSError as problem:
                say(f"note: {name} is not told of this run: {problem}")

    def end(self) -> None:
        """The training is over: let them tell what is left. One that has failed is named."""
        if not self.names:
            return
        if not RunFolder(self.path).exists:
            self.over.set()
        self.starter.join()
        for name, process in self.processes.items():
            if process.poll() not in (None, 0):
                log = self.path / "trackers" / f"{name}.log"
                say(f"note: {name} has failed ({log}); the run is whole: `lucida track` tells it")
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
