"""Damaged records in a stream that skips them: replaced, counted, written down with their origin.

Every case of the suite stands in one source of its kind, between records that are fine; an epoch of
it goes through the loader with tokens and pixels, as training reads it.
"""

import json
import re
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import (
    FILES,
    FORMATS,
    GOOD,
    LLAVA,
    MESSAGES,
    PAGES,
    PICTURES,
    POLICY,
    QUESTION,
    TEXTS,
    llava,
    message,
    noise,
    tokens,
)
from tiny_files import tar

from lucida.core.dropped import Dropped
from lucida.core.errors import DataError
from lucida.core.spec import BatchSpec
from lucida.data.loader import DropLimit, Loader
from lucida.data.mixture import Mixture
from lucida.data.reader import draw_images
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.messages import MessagesSource
from lucida.data.sources.pairs import PairsSource
from lucida.data.sources.parquet import ParquetSource
from lucida.data.sources.text import TextSource
from lucida.data.sources.webdataset import WebdatasetSource
from lucida.data.stage import StageData
from lucida.data.views import draw

STEP = 4
TRUNCATED = {f"{form} {n}": (noise(form)[: len(noise(form)) * n // 10], None)
             for form in FORMATS for n in (1, 5, 9)}  # fmt: skip
FINE = noise("PNG")
ORIGIN = re.compile(r"(record|row|line|sample) \d+|\d+\.(png|tar)")


def loader(source, file, most=1.0, on_error="skip", batch=None):
    mixture = Mixture({"damaged": source}, {"damaged": 1.0}, seed=0)
    data = StageData(
        mixture,
        tokens,
        BatchSpec(**(batch or {"samples": STEP})),
        skip=on_error == "skip",
        look=partial(draw_images, partial(draw, policies=(POLICY,))),
    )
    return Loader(data, pad_id=0, limit=DropLimit(most, len(mixture), file))


def epoch(stream, records):
    batches = stream.batches()
    used = [
        one for _ in range(-(-records // STEP)) for batch in next(batches) for one in batch.origins
    ]
    batches.close()
    return used


def between(cases, fine):
    """Every case with a record that is fine before it; and what is to come of record n."""
    records = [each for value, _ in cases.values() for each in (fine, value)]
    outcomes = [each for _, outcome in cases.values() for each in (True, outcome)]
    return records, outcomes


def survives(source, outcomes, file):
    """Read an epoch; exactly the records that should be are left out, each with its reason."""
    assert len(source) == len(outcomes)
    stream = loader(source, file)
    used = epoch(stream, len(source))
    assert len(used) == stream.counts["damaged/samples"] == -(-len(source) // STEP) * STEP
    lines = Dropped(file).read()
    lost = {line["record"]: line["reason"] for line in lines}
    assert len(lost) == len(lines) <= stream.counts["damaged/dropped"]
    for record, outcome in enumerate(outcomes):
        if outcome is not None:  # where it is, either is right
            assert (record in lost) == (outcome is not True), (record, outcome, lost.get(record))
        if isinstance(outcome, str):
            assert outcome in lost[record]
            assert ORIGIN.search(lost[record]), lost[record]
    # Beyond the share that may be lost the run stops, and the file is named.
    if len(lost) > 1:
        file.unlink()
        with pytest.raises(DataError, match="too many records") as caught:
            epoch(loader(source, file, most=(len(lost) - 1.5) / len(source)), len(source))
        assert str(file) in str(caught.value) and "max_dropped" in str(caught.value)
        assert len(Dropped(file).read()) >= len(lost) - 1
        file.unlink()
        with pytest.raises(DataError):
            epoch(loader(source, file, on_error="error"), len(source))
        assert not file.exists()
    return lost


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_llava(folder, ending):
    records, outcomes = between(LLAVA, llava(None, *QUESTION))
    path = folder / f"data.{ending}"
    path.write_text(
        json.dumps(records) if ending == "json" else "\n".join(map(json.dumps, records))
    )
    survives(LlavaSource(path, folder / "images"), outcomes, folder / "dropped.jsonl")


def test_messages(folder):
    records, outcomes = between(MESSAGES, [message("user", "a"), message("assistant", "b")])
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps({"messages": each}) for each in records))
    survives(MessagesSource(path, folder / "images"), outcomes, folder / "dropped.jsonl")


def test_texts(tmp_path):
    records, outcomes = between(TEXTS, '{"text": "fine"}')
    (tmp_path / "data.jsonl").write_text("\n".join(records))
    survives(TextSource(tmp_path / "data.jsonl"), outcomes, tmp_path / "dropped.jsonl")


def test_pages(tmp_path):
    records, outcomes = between(PAGES, {"text_list": ["fine"], "image_info": []})
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    survives(InterleavedSource(tmp_path / "data.jsonl"), outcomes, tmp_path / "dropped.jsonl")


@pytest.mark.parametrize("name", [name for name, (_, place, _) in FILES.items() if place == 1])
def test_lines(tmp_path, name):
    content, place, outcome = FILES[name]
    content = content.replace(b"%s", GOOD)
    (tmp_path / "data.json").write_bytes(content)
    source = LlavaSource(tmp_path / "data.json")
    outcomes = [outcome if number == place else True for number in range(len(source))]
    survives(source, outcomes, tmp_path / "dropped.jsonl")


def through_folder(folder, contents):
    for number, content in enumerate(contents):
        (folder / f"{number}.png").write_bytes(content)
    lines = [f"{number}.png,a kite" for number in range(len(contents))]
    (folder / "data.csv").write_text("\n".join(["image,text", *lines]))
    return PairsSource(folder / "data.csv")


def through_tar(folder, contents):
    members = {}
    for number, content in enumerate(contents):
        members |= {f"{number:03}.jpg": content, f"{number:03}.txt": b"a kite"}
    return WebdatasetSource(tar(folder / "0.tar", members))


def through_table(folder, contents):
    turns = [[{"user": "What?", "assistant": "A kite."}]] * len(contents)
    images = [[{"bytes": content, "path": None}] for content in contents]
    pq.write_table(pa.table({"images": images, "texts": turns}), folder / "data.parquet")
    return ParquetSource(folder / "data.parquet")


@pytest.mark.parametrize("way", [through_folder, through_tar, through_table])
def test_pictures(tmp_path, way):
    contents, outcomes = between(PICTURES | TRUNCATED, FINE)
    lost = survives(way(tmp_path, contents), outcomes, tmp_path / "dropped.jsonl")
    pictures = sum(outcome is not True for _, outcome in PICTURES.values())
    assert pictures + 12 <= len(lost) <= pictures + len(TRUNCATED)


def test_rows_and_workers_leave_out_the_same_records(folder):
    records, _ = between(LLAVA, llava(None, *QUESTION))
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    source = LlavaSource(path, folder / "images")
    lost = []
    for number, batch in enumerate(
        [{"samples": STEP, "workers": 1}, {"tokens": 4096, "row": 1024}]
    ):
        file = folder / f"{number}.jsonl"
        stream = loader(source, file, batch=batch)
        batches = stream.batches()
        while stream.counts["damaged/samples"] < 2 * len(source):
            next(batches)
        batches.close()
        lost.append({line["record"] for line in Dropped(file).read()})
    assert lost[0] == lost[1] and len(lost[0]) > 30
