"""What a user sees while waiting: a bar on a terminal, plain lines in a log, a closing table.

All of it goes to standard error except tables, so that output can be piped. Under `torchrun` only
rank 0 speaks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable

PLAIN_SECONDS = 5.0
"""Time between two lines where there is no terminal."""

UNFOLDED = 10_000
"""Columns where there is no terminal: more than a line or a row of a table has."""


def say(text: str) -> None:
    """One line for the reader; it does not tear a bar that is running."""
    if _speaks():
        _console().print(text, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Counts up to `total`, with rate, time left and the latest values (loss, …).

        with Progress("train sft", total=400, unit="step") as progress:
            for batch in batches:
                progress.advance(loss=1.25)

    `done` is where a resumed run starts: the rate and the time left count only new work, and from
    the second advance on not the first, which builds what the others use. `total` None means
    unknown.
    """

    def __init__(
        self, label: str, total: int | None = None, unit: str = "item", *, done: int = 0
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._start_count = done
        self._values: dict[str, object] = {}
        self._start = self._last_line = time.monotonic()
        self._warm: tuple[int, float] | None = None  # what was done when, after the first advance
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if _speaks() and _console().is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=_console(),
            )
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, facts=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif _speaks() and self.done > self._start_count:
            self._print_line()

    def advance(self, count: int = 1, **values: object) -> None:
        """`count` more units are done; `values` replace the ones shown beside the rate."""
        self.done += count
        self._warm = self._warm or (self.done, time.monotonic())
        self._values |= values
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, facts=self._facts())
        elif self.done == self.total:
            pass  # the last line comes at the end, with all values
        elif _speaks() and time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._print_line()

    @property
    def rate(self) -> float:
        """Units per second (0 before the first)."""
        since = self._start_count, self._start
        if self._warm is not None and self.done > self._warm[0]:
            since = self._warm
        elapsed = time.monotonic() - since[1]
        return (self.done - since[0]) / elapsed if elapsed > 0 else 0.0

    def _facts(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        rate = self.rate
        speed = f"{rate:.1f} {self.unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s"
        if 0 < rate < 1:
            speed += f"/{self.unit}"
        values = [f"{name} {_short(value)}" for name, value in self._values.items()]
        return "  ".join([f"{self.done}{of}", speed, *values])

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        line = f"{self.label}  {self._facts()}"
        known = self._warm is not None and self.done > self._warm[0]
        if self.total is not None and known and self.done < self.total:
            line += f"  left {_clock((self.total - self.done) / self.rate)}"
        elif self.total is not None and self.done >= self.total:
            line += f"  took {_clock(self._last_line - self._start)}"
        say(line)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table to standard output; columns of numbers stand to the right."""
    if not _speaks():
        return
    rows = [list(row) for row in rows]
    drawn = RichTable(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        numeric = all(isinstance(row[number], (int, float)) for row in rows)
        drawn.add_column(name, justify="right" if rows and numeric else "left")
    for row in rows:
        drawn.add_row(*("" if cell is None else _short(cell) for cell in row))
    output().print(drawn)


def output() -> Console:
    """Standard output: as wide as the terminal, and without one nothing is folded.

    A pipe or a file has no width. rich would take 80 columns, or those that COLUMNS says, and a
    line would break at another word wherever a path in it is longer.
    """
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width, console.soft_wrap = UNFOLDED, True
    return console


_shared: Console | None = None


def _console() -> Console:
    # One console for bars and lines: rich then prints lines above a running bar. Made anew when
    # standard error was exchanged (tests capture it).
    global _shared
    if _shared is None or _shared.file is not sys.stderr:
        _shared = Console(file=sys.stderr)
    return _shared


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
