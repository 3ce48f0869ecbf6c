"""What a run writes down about its data: exact sums, for several ranks and over interruptions."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from PIL import Image
from test_loop import changed, records
from tiny_training import tiny_recipe, watching

from lucida.core.errors import DataError, RunError
from lucida.core.runs import RunFolder, list_runs
from lucida.data.mixture import fetch, own_number
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.stage import Capped, Spread, open_mixtures
from lucida.training.feed import Feed
from lucida.training.loop import train_run
from lucida.training.records import mean_loss, source_rows


def test_keys_that_are_left_out_keep_their_names():
    feed = object.__new__(Feed)
    counts = {"mine/key `asked_for` is not read": 2, "mine/tokens_cut": 1, "mine/samples": 9}
    feed.loader, feed._told = SimpleNamespace(counts=counts), Counter()
    assert feed.newly_lost() == {
        ("mine", "key `asked_for` is not read"): 2,
        ("mine", "tokens cut"): 1,
    }


def pages(folder, count=30) -> dict:
    """MMC4 pages of which every third names a picture that is not there."""
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    lines = []
    for number in range(count):
        name = "gone.png" if number % 3 == 0 else "a.png"
        shown = [{"image_name": name, "matched_text_index": 0, "matched_sim": 1.0}]
        lines.append(json.dumps({"text_list": [f"page {number}"], "image_info": shown}))
    (folder / "pages.jsonl").write_text("\n".join(lines))
    path = str(folder / "pages.jsonl")
    return {"kind": "interleaved", "path": path, "missing": "drop"}


class Stopped(Exception):
    pass


def stop(*_):
    raise Stopped


def test_what_pages_lose_is_counted_exactly_and_told(parts, tmp_path, capfd):
    pictures = tiny_recipe(parts).stages[0].mixture.sources["pictures"].model_dump()
    sources = {"pictures": pictures, "pages": pages(tmp_path / "web")}
    recipe = changed(tiny_recipe(parts), {"mixture": {"sources": sources}, "checkpoint_every": 2})
    whole = train_run(recipe, tmp_path / "whole")
    told = capfd.readouterr()
    assert "loss by source" in told.out and "left out of pages" in told.err
    totals = RunFolder(whole).dropped.totals()
    assert totals.keys() == {"pages"} and totals["pages"].keys() == {"pictures that are missing"}
    # One picture a page, and a third of the pages; 12 steps of 4 samples, half of them pages.
    assert 5 <= totals["pages"]["pictures that are missing"] <= 11

    watched = changed(recipe, {"evaluate_every": 4})
    folder = tmp_path / "cut"
    for _ in range(2):
        with pytest.raises(Stopped):
            train_run(watched, folder, observers=watching(stop))
    train_run(watched, folder, observers=watching(lambda *_: {}))
    assert RunFolder(folder).dropped.totals() == totals
    assert [r["source_loss"] for r in records(folder)] == [r["source_loss"] for r in records(whole)]


def test_rows_that_filters_keep_out_are_in_the_file_and_in_the_list_of_runs(parts, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [[{"user": f"question {n}?", "assistant": "yes"}] for n in range(40)]
    pq.write_table(
        pa.table({"texts": texts, "rating": [n % 4 for n in range(40)]}), tmp_path / "a.parquet"
    )
    source = {"kind": "parquet", "path": str(tmp_path / "a.parquet"), "at_least": {"rating": 1}}
    recipe = changed(tiny_recipe(parts), {"mixture": {"sources": {"rated": source}}})
    folder = train_run(recipe, tmp_path / "runs" / "one")
    lines = RunFolder(folder).dropped.read()
    assert lines == [
        {"stage": stage, "when": "opening", "source": "rated", "reason": "rating below 1",
         "count": 10}
        for stage in ("align", "sft")
    ]  # fmt: skip
    assert [each.left_out for each in list_runs(tmp_path / "runs")] == [10]


def test_a_part_of_a_source_tells_what_its_records_lost(tmp_path):
    spec = pages(tmp_path / "web")
    source = InterleavedSource(spec["path"], missing="drop")
    part = Capped(Spread(source, 7, held_out=False), 9, seed=1)
    for index in range(len(part)):
        sample, lost = fetch(part, index)
        number = int(sample.branches[0][0].parts[-1].split()[-1])
        assert part[index].origin == sample.origin
        assert lost == ({"pictures that are missing": 1} if number % 3 == 0 else {})
    assert fetch([7, 8], 1) == (8, {})


def test_the_closing_table_weighs_by_tokens():
    steps = [
        {"sources": {"a": 1, "b": 1}, "source_loss": {"a": 4.0}, "source_supervised": {"a": 1}},
        {
            "sources": {"a": 2, "b": 0},
            "source_loss": {"a": 1.0, "b": 3.0},
            "source_supervised": {"a": 3, "b": 5},
        },
    ]
    assert mean_loss("a", steps) == (4 + 3) / 4
    assert mean_loss("b", steps[:1]) is None
    assert source_rows(steps) == [["a", 3, 4, 4.0, 1.0], ["b", 1, 5, None, 3.0]]
    assert source_rows([{"validation_loss": 1.0}]) == []


def test_a_bad_record_among_the_held_out_is_one_of_all_records(parts, tmp_path):
    """Of 60 records three are held out, and one of them is bad: 1 of 60, not 1 of 3."""
    rows = [{"text": "the cat sat"} for _ in range(60)]
    rows[39] = {"text": 39}
    path = tmp_path / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    mixture = {"on_error": "skip", "sources": {"words": {"kind": "text", "path": str(path)}}}
    recipe = tiny_recipe(parts)
    folder = train_run(
        changed(recipe, {"mixture": mixture | {"max_dropped": 0.02}}), tmp_path / "a"
    )
    lost = [line for line in RunFolder(folder).dropped.read() if "record" in line]
    assert {(line["stage"], line["record"]) for line in lost} == {("align", 39), ("sft", 39)}
    assert RunFolder(folder).dropped.totals() == {"words": {"records that cannot be used": 1}}
    with pytest.raises(DataError, match=r"at most 0\.6 of 60"):
        train_run(changed(recipe, {"mixture": mixture | {"max_dropped": 0.01}}), tmp_path / "b")


def test_a_run_that_a_bad_record_stopped_goes_on_skipping_it(parts, tmp_path):
    path = tmp_path / "words.jsonl"
    rows = [{"text": f"the cat sat {number}"} for number in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "text", "path": str(path)}
    stages = {"mixture": {"sources": {"words": source}}, "checkpoint_every": 2}
    recipe = changed(tiny_recipe(parts), stages)
    stream, _ = open_mixtures(recipe.stages[0].mixture, recipe.seed)
    late = stream.draw(4 * recipe.stages[0].batch.samples - 1)  # the end of the fourth step
    rows[own_number(stream.sources["words"], late.index)] = {"text": 0}
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"bad `text`"):
        train_run(recipe, tmp_path / "run")
    assert records(tmp_path / "run")
    lenient = {"mixture": stages["mixture"] | {"on_error": "skip", "max_dropped": 0.1}}
    skipping = changed(recipe, lenient)
    whole = train_run(skipping, tmp_path / "whole")
    folder = train_run(skipping, tmp_path / "run")
    assert [r["loss"] for r in records(folder)] == [r["loss"] for r in records(whole)]
    assert RunFolder(folder).recipe == RunFolder(whole).recipe
    assert RunFolder(folder).dropped.totals() == RunFolder(whole).dropped.totals() != {}
    with pytest.raises(RunError, match="on_error: 'skip' -> 'error'"):
        train_run(recipe, folder)
