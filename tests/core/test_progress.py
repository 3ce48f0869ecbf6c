"""Progress: plain lines in a log, a bar on a terminal, silence on other ranks."""

from __future__ import annotations

import pytest

from lucida.core import progress
from lucida.core.progress import Progress, say, table


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_lines_come_every_few_seconds_with_rate_time_left_and_values(clock, capsys):
    with Progress("train sft", total=100, unit="step") as bar:
        for _ in range(10):
            clock.now += 1.0
            bar.advance(2, loss=1.23456)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train sft  10/100  2.0 step/s  loss 1.235  left 0:45"
    assert len(lines) == 3


def test_a_finished_count_says_how_long_it_took(clock, capsys):
    with Progress("encode", total=2, unit="image") as bar:
        clock.now += 4.0
        bar.advance(2)
    assert capsys.readouterr().err == "encode  2/2  2.0 s/image  took 0:04\n"


def test_a_slow_first_step_is_no_measure_of_the_others(clock, capsys):
    with Progress("train", total=100, unit="step") as bar:
        clock.now += 30.0
        bar.advance()
        for _ in range(6):
            clock.now += 1.0
            bar.advance()
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "train  1/100  30.0 s/step", "nothing is known about the time left"
    assert second == "train  6/100  1.0 step/s  left 1:34"
    assert last == "train  7/100  1.0 step/s  left 1:33"


def test_the_last_line_comes_once_with_what_was_measured_at_the_end(clock, capsys):
    with Progress("train", total=2, unit="step") as bar:
        for values in ({"loss": 2.0}, {"loss": 1.0}):
            clock.now += 9.0
            bar.advance(**values)
        bar.advance(0, validation=3.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["train  2/2  9.0 s/step  loss 1  validation 3  took 0:18"]


def test_a_resumed_count_times_only_its_own_work(clock):
    with Progress("train", total=100, done=90) as bar:
        clock.now += 1.0
        bar.advance(5)
        assert bar.rate == 5.0
        assert bar.done == 95


def test_an_unknown_total_is_fine(clock, capsys):
    with Progress("read") as bar:
        clock.now += 1
        bar.advance()
    assert capsys.readouterr().err == "read  1  1.0 item/s\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "_shared", None)
    with Progress("train", total=4, unit="step") as bar:
        bar.advance(2, loss=0.5)
        say("[bold] is no markup here")
    shown = capsys.readouterr().err
    assert "2/4" in shown
    assert "loss 0.5" in shown
    assert "[bold] is no markup here" in shown


def test_only_rank_0_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    say("hello")
    table("scores", ["task"], [["counting"]])
    with Progress("train", total=1) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_a_table_shows_every_cell(capsys):
    table("scores", ["task", "score", "note"], [["counting", 0.51234, None], ["[x]", 1, "y" * 90]])
    shown = capsys.readouterr().out
    for part in ("scores", "counting", "0.5123", "[x]", "y" * 90):
        assert part in shown
