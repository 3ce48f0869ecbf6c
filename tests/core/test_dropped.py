"""dropped.jsonl: appended, torn, counted again, and summed up."""

import json

import pytest

from lucida.core.dropped import UNUSABLE, Dropped


@pytest.fixture
def dropped(tmp_path):
    return Dropped(tmp_path / "dropped.jsonl")


def test_records_and_counts_stand_side_by_side(dropped):
    assert dropped.read() == [] and dropped.totals() == {} and dropped.records() == 0
    dropped.count("one", "opening", {"rated": {"rating below 1": 10}, "fine": {}})
    dropped.add([{"source": "pages", "record": 3, "reason": "broken"}])
    dropped.count("one", "training", {"pages": {"pictures that are missing": 2}})
    dropped.count("two", "training", {"pages": {"pictures that are missing": 5}})
    dropped.count("two", "opening", {"rated": {"rating below 1": 10}})
    assert dropped.totals() == {
        "rated": {"rating below 1": 10},
        "pages": {UNUSABLE: 1, "pictures that are missing": 7},
    }
    assert dropped.records() == 11


def test_of_one_filter_of_two_stages_the_larger_count_holds(dropped):
    dropped.count("one", "opening", {"rated": {"rating below 1": 10}})
    dropped.count("two", "opening", {"rated": {"rating below 1": 4}})
    assert dropped.totals() == {"rated": {"rating below 1": 10}}
    assert dropped.records() == 10


def test_a_count_replaces_that_of_the_same_stage_and_moment(dropped):
    dropped.count("one", "opening", {"rated": {"rating below 1": 10}})
    before = dropped.path.stat().st_mtime_ns
    dropped.count("one", "opening", {"rated": {"rating below 1": 10}})
    assert dropped.path.stat().st_mtime_ns == before
    dropped.count("one", "opening", {"rated": {"rating below 1": 12}})
    assert [line["count"] for line in dropped.read()] == [12]
    dropped.count("one", "opening", {})
    assert dropped.read() == []


def test_nothing_to_count_makes_no_file(dropped):
    dropped.count("one", "opening", {"fine": {"x": 0}})
    assert not dropped.path.exists()


@pytest.mark.parametrize("torn", ['{"source": "a", "rec', "\x00\x00", "[1]\n", "7\n", '{"a": 1}\n'])
def test_a_torn_or_strange_line_hides_no_other(dropped, torn):
    dropped.path.write_text('{"source": "a", "record": 1, "reason": "x"}\n' + torn)
    dropped.add([{"source": "a", "record": 2, "reason": "y"}])
    assert [line["record"] for line in dropped.read()] == [1, 2]
    assert dropped.records() == 2


def test_any_text_can_be_a_reason(dropped):
    reasons = ["line\u2028separator", "new\nline", "half \ud800 pair", "wörter"]
    dropped.add([{"source": "a", "record": n, "reason": r} for n, r in enumerate(reasons)])
    dropped.count("one", "training", {"a": {"half \ud800": 1}})
    assert [line["reason"] for line in dropped.read()] == [*reasons, "half \ud800"]
    assert all(json.loads(line) for line in dropped.path.read_text().split("\n") if line)
