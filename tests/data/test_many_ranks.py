"""Real processes read shards and records as ranks do, from one web server or one folder: together
they see each step's samples of one process, and again after all of them died in the middle."""

import hashlib
import json
import multiprocessing
import os
import threading
from functools import partial

import numpy as np
import pytest
import tiny_files
from web_server import Server, picture, write_shard

from lucida.core.spec import BatchSpec
from lucida.data.loader import DropLimit, Loader
from lucida.data.mixture import Mixture
from lucida.data.policies import make_policy
from lucida.data.reader import draw_images
from lucida.data.sample import Tokens
from lucida.data.stage import StageData
from lucida.data.views import draw

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")

SHARDS, EACH, RECORDS = 4, 20, 30
LEVELS = make_policy("resize", 8, (0.5,) * 3, (0.5,) * 3)


def encode(sample, counts=None):
    """Tokens that follow from the words and the pictures of a record."""
    said = str(sample.branches[0][-1].parts[-1])
    ids = np.frombuffer(hashlib.sha256(said.encode()).digest()[:8], dtype=np.uint8).astype(np.int64)
    marks = np.array([1] * len(sample.images) + [0] * (8 - len(sample.images)), dtype=np.int64)
    return Tokens(sample.origin, sample.images, ids, ids * 0, np.arange(8), marks, ids)


def look(images):
    return draw(images, (LEVELS,))


def write_records(folder):
    """LLaVA-style records of one picture each."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "noise"}]
    records = []
    for number in range(RECORDS):
        (folder / f"{number}.png").write_bytes(picture(1000 + number))
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(records))


def open_stream(place, records, rank, world):
    """The stream of a rank over shards at a place, which is a folder or an address, and records of
    a folder."""
    shards = f"{place}/{{00000..{SHARDS - 1:05d}}}.tar"
    sources = {
        "shards": tiny_files.opened("webdataset", shards),
        "records": tiny_files.opened("llava", records / "records.json"),
    }
    mixture = Mixture(sources, {"shards": 2.0, "records": 1.0}, seed=4)
    batch = BatchSpec(samples=2 * 8, accumulate=1)
    data = StageData(mixture, encode, batch, look=partial(draw_images, look))
    limit = DropLimit(0.0, len(mixture), None, None)
    return Loader(data, pad_id=0, limit=limit, rank=rank, world=world)


def describe_samples(batch):
    """Of each sample of a pass its name, and a hash of what the model would get."""
    pictures = iter(batch.pixel_values.values.view(len(batch.origins), -1))
    found = []
    for number, origin in enumerate(batch.origins, start=1):
        ids = batch.input_ids[batch.segment == number].numpy().tobytes()
        name = origin.rpartition("/")[2]
        found.append((name, hashlib.sha256(ids + next(pictures).numpy().tobytes()).hexdigest()))
    return found


def read_as_rank(places, rank, world, steps, file):
    """A rank's steps into a file, and death without a word behind the last."""
    stream = open_stream(*places, rank, world).batches(steps.start)
    with file.open("w") as out:
        for step in steps:
            found = [each for batch in next(stream) for each in describe_samples(batch)]
            out.write(json.dumps([step, found]) + "\n")
    os._exit(9)


def read_together(places, world, steps, folder):
    """Step → what so many processes of their own read for it, all together."""
    context = multiprocessing.get_context("fork")
    files = [folder / f"rank{rank}-from{steps.start}.jsonl" for rank in range(world)]
    ranks = [
        context.Process(target=read_as_rank, args=(places, rank, world, steps, file))
        for rank, file in enumerate(files)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
    assert [rank.exitcode for rank in ranks] == [9] * world
    read = {step: [] for step in steps}
    for file in files:
        for step, found in map(json.loads, file.read_text().splitlines()):
            assert len(found) == 2 * 8 // world
            read[step] += [tuple(each) for each in found]
    return {step: sorted(found) for step, found in read.items()}


@pytest.fixture
def web(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "web"
    folder.mkdir()
    for shard in range(SHARDS):
        write_shard(folder / f"{shard:05d}.tar", EACH * shard, EACH)
    write_records(tmp_path)
    server = Server(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("world", "steps"),
    [(2, 2), pytest.param(8, 12, marks=pytest.mark.slow)],
)
def test_ranks_read_one_stream_from_a_server_and_a_folder(web, tmp_path, monkeypatch, world, steps):
    """All die in the middle; those that go on, with an empty cache, read the rest of it."""
    alone = open_stream(web.folder, tmp_path, 0, 1).batches(0)
    whole = {
        step: sorted(each for batch in next(alone) for each in describe_samples(batch))
        for step in range(steps)
    }
    alone.close()
    assert len({name for found in whole.values() for name, _ in found}) > 2 * 8
    middle = steps // 2
    for place in (web.address,) if world == 2 else (web.folder, web.address):
        places = place, tmp_path
        read = read_together(places, world, range(middle), tmp_path)
        monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "another cache"))
        read |= read_together(places, world, range(middle, steps), tmp_path)
        assert read == whole, place
    assert any(wanted for _, wanted in web.asked), "shards are read by ranges"
