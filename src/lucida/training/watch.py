"""Ranks that watch each other: one that hangs or has gone is named, and none waits for ever.

    every rank   marks what it does; a thread of it tells that through the store where they met
    rank 0       looks at all: who has done the same, or has not been heard of, for `patience`?
                 ─▶ a verdict, which every rank reads ─▶ each writes where it stands, and ends

When a rank hangs, all of them stand still at the next sum. The one at fault has come least far.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

from lucida.core.errors import RunError

LONGEST_INTERVAL = 2.0
"""Seconds between two signs of life."""

ENDED = "ended"

REMEDY = "the same command goes on from the last checkpoint"


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank was last heard to do.

    count: of its signs; step and, within it, place: how far it has come; limited: whether what it
    does may last `patience` at most; seconds: how long it has done that.
    """

    count: int
    step: int
    place: int
    doing: str
    limited: bool
    seconds: float

    def __str__(self) -> str:
        return f"{self.doing}, step {self.step}" if self.step else self.doing


class Watch:
    """One rank's part in it. `folder`: where it writes at which line it stands, when all end."""

    def __init__(
        self, store: distributed.Store, rank: int, world: int, patience: float, folder: Path
    ) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.begin(patience, folder)
        self._count = 0
        self._heard: dict[int, tuple[int, float]] = {}
        self.publish(store)
        # A clone: another thread must not wait for what this one waits for.
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_looking, args=(store.clone(),), daemon=True
        )
        self._thread.start()

    def begin(self, patience: float, folder: Path) -> None:
        """Watch over a run, with its patience and in its folder."""
        self.patience, self.folder = patience, folder
        self.interval = min(LONGEST_INTERVAL, patience / 4)
        self._now = (0, 0, "beginning", False, time.monotonic())

    def mark(self, doing: str, step: int | None = None, limited: bool | None = None) -> None:
        """This rank begins something; with `step` that step, otherwise the next thing in it, which
        is limited as the last one was unless it says otherwise."""
        last, place, _, before, _ = self._now
        number, place = (last, place + 1) if step is None else (step, 0)
        limited = before if limited is None else limited
        self._now = (number, place, doing, limited, time.monotonic())  # at once, for the thread

    def rest(self) -> None:
        """The run of this rank has ended; it owes the others nothing until its next mark."""
        self.mark(ENDED, step=0, limited=False)
        self.publish(self.store)

    def stop(self) -> None:
        """End the thread before Python ends, which would abort the process in the middle of a word
        to the store."""
        self._over.set()
        self._thread.join(self.interval + 1)

    def publish(self, store: distributed.Store) -> None:
        """Tell what this rank does."""
        *told, since = self._now
        self._count += 1
        store.set(f"sign/{self.rank}", json.dumps([self._count, *told, time.monotonic() - since]))

    def signs(self, store: distributed.Store, ranks: Sequence[int]) -> dict[int, Sign]:
        """The last sign of each rank that has given any."""
        # `multi_get` waits for what is missing, so those are asked for first.
        known = [rank for rank in ranks if store.check([f"sign/{rank}"])]
        found = store.multi_get([f"sign/{rank}" for rank in known]) if known else []
        return {rank: Sign(*json.loads(text)) for rank, text in zip(known, found, strict=True)}

    def _keep_looking(self, store: distributed.Store) -> None:
        # Rank 0 looks at all, and rank 1 whether rank 0 is still there.
        ranks = range(self.world) if self.rank == 0 else [0] if self.rank == 1 else []
        try:
            while not self._over.wait(self.interval):
                self.publish(store)
                if store.check(["verdict"]):
                    self._end(**json.loads(store.get("verdict")))
                elif text := self._judge(self.signs(store, ranks)):
                    store.set("verdict", json.dumps({"speaker": self.rank, "text": text}))
        except RuntimeError:  # the store has gone, and with it the rank or the agent that kept it
            return

    def _judge(self, signs: dict[int, Sign]) -> str | None:
        now = time.monotonic()
        signs = {rank: sign for rank, sign in signs.items() if sign.doing != ENDED}
        for rank, sign in signs.items():
            count, when = self._heard.get(rank, (0, now))
            # When a sign changed is told by this rank's clock: those of two machines need not
            # agree.
            self._heard[rank] = (count, when) if count == sign.count else (sign.count, now)
        silent = [r for r in signs if now - self._heard[r][1] > self.patience]
        if silent:
            doing = signs[silent[0]]
            told = f"{name_ranks(silent)} gave no sign of life for {self.patience:g} s"
            return f"{told} (the last one: {doing})"
        return find_hanging(signs, self.patience) if self.rank == 0 else None

    def _end(self, speaker: int, text: str) -> None:
        place = self.folder / f"stands-rank{self.rank}.txt"
        try:
            with place.open("w") as file:
                faulthandler.dump_traceback(file)
        except OSError:
            text += f"; {place} cannot be written"
        if speaker == self.rank:
            time.sleep(2 * self.interval + 1)  # until all others have read it
            problem = RunError(
                text,
                origin=self.folder,
                remedy=f"{REMEDY}; stands-rank*.txt there say at which line each rank stood, and "
                "engine.patience=SECONDS waits longer",
            )
            os.write(2, f"lucida: {problem}\n".encode())
        os._exit(1)

    def is_told(self, text: str) -> bool:
        """Whether rank 0 ends with the same message, for all; tells with which this one ends."""
        try:
            self.store.set(f"end/{self.rank}", text)
            if self.rank == 0:
                return False
            until = time.monotonic() + 2 * LONGEST_INTERVAL
            while not self.store.check(["end/0"]) and time.monotonic() < until:
                time.sleep(0.1)
            return self.store.check(["end/0"]) and self.store.get("end/0").decode() == text
        except RuntimeError:  # rank 0 has ended, and the store with it
            return False

    def explain_loss(self) -> RunError:
        """The error of a rank that has lost the connection to another: which one has gone. Only
        the first of those that are left says it, and none when it said itself why."""
        try:
            told, gone = self._find_gone()
        except RuntimeError:  # the store went with it
            told, gone = False, [0]
        left = [rank for rank in range(self.world) if rank not in gone]
        step = self._now[0]
        where = f" after step {step - 1}" if step > 0 else ""
        problem = RunError(
            f"{name_ranks(gone) if gone else 'another rank'} has gone without a word{where}",
            origin=self.folder,
            remedy=f"was it killed, or out of memory? {REMEDY}",
        )
        launched = "LUCIDA_LAUNCHER" in os.environ  # it knows which rank, and how it ended
        problem.told = told or launched or self.rank != left[0]
        return problem

    def _find_gone(self) -> tuple[bool, list[int]]:
        others = [rank for rank in range(self.world) if rank != self.rank]
        # Who gives no further sign within two intervals has gone.
        before = self.signs(self.store, others)
        until = time.monotonic() + 2 * self.interval + 1
        while time.monotonic() < until:
            if self.store.check(["verdict"]):
                time.sleep(4 * self.interval + 5)  # the other thread says it, and ends this process
            if said := [rank for rank in others if self.store.check([f"end/{rank}"])]:
                return True, said
            time.sleep(0.1)
        after = self.signs(self.store, others)
        return False, [rank for rank in before if before[rank].count == after[rank].count]


def find_hanging(signs: dict[int, Sign], patience: float) -> str | None:
    """Which ranks keep the others waiting for longer than `patience` seconds, and in what: those
    that have come least far. None as long as what these do may take its time."""
    if not signs or not any(s.limited and s.seconds > patience for s in signs.values()):
        return None
    least = min((sign.step, sign.place) for sign in signs.values())
    slow = [rank for rank, sign in signs.items() if (sign.step, sign.place) == least]
    if not all(signs[r].limited and signs[r].seconds > patience for r in slow):
        return None
    doing, waiting = signs[slow[0]], [sign for rank, sign in signs.items() if rank not in slow]
    if not waiting:
        return f"all ranks have stood still for {patience:g} s ({doing})"
    hang = "hangs" if len(slow) == 1 else "hang"
    others = f"the others wait in: {waiting[0]}"
    return f"{name_ranks(slow)} {hang}, for {patience:g} s ({doing}; {others})"


def name_ranks(ranks: Sequence[int]) -> str:
    """Up to eight of them by number."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"ranks {', '.join(map(str, ranks[:8]))}{more}"
