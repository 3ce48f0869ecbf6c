"""Opening large sources: time and memory until the first batch, with worker processes.

    array     a LLaVA-style JSON array of --gigabytes (default 0.2), as `json.dump` writes it
    indented  the same with indent=2
    tars      --shards tar files (default 200) of --members samples each

Each is made in a temporary folder, opened in a process of its own with two workers and nothing
remembered, and opened again with what the first one remembered. Printed: seconds until the loader
handed out its first batch, CPU seconds of the process itself until then, and memory: the most that
this process held plus what its workers hold (resident, pages of mapped files included: an upper
bound, since processes share those).

    python benchmarks/opening.py [--gigabytes 10] [--shards 10000] [--only array]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lucida.core.progress import table
from lucida.data.sample import Sample, Tokens

WORKERS, SAMPLES = 2, 16
MOST_SECONDS, MOST_GIGABYTES = 30, 2
"""What the project asks of 10 GB and of 10,000 shards."""
BLOCK = 5000
"""Different records of the array; they come again and again."""


def main() -> None:
    """Make each source, open it twice, print a table, leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.2)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--only", choices=["array", "indented", "tars"], action="append")
    parser.add_argument("--open", metavar="SPEC", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        print(json.dumps(opened(json.loads(given.open))))
        return
    makers: dict[str, Callable[[Path], dict]] = {
        "array": lambda folder: array(folder, given.gigabytes, None),
        "indented": lambda folder: array(folder, given.gigabytes, 2),
        "tars": lambda folder: tars(folder, given.shards, given.members),
    }
    rows = [[name, *row] for name in given.only or makers for row in measured(makers[name])]
    columns = ["source", "GB", "records", "opened", "first batch, s", "CPU s", "memory, GB"]
    table(f"opening with {WORKERS} workers", columns, rows)
    slow = [row[0] for row in rows if float(row[4]) > MOST_SECONDS]
    large = [row[0] for row in rows if float(row[6]) > MOST_GIGABYTES]
    if slow or large:
        raise SystemExit(f"slower than {MOST_SECONDS} s: {slow}; over {MOST_GIGABYTES} GB: {large}")


def measured(make: Callable[[Path], dict]) -> Iterator[list[str]]:
    """A row for the first opening and one for the second."""
    with tempfile.TemporaryDirectory(prefix="lucida-opening-") as folder:
        spec = make(Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        for state in ("first time", "again"):
            environment = os.environ | {"LUCIDA_CACHE": f"{folder}/cache"}
            command = [sys.executable, __file__, "--open", json.dumps(spec)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            times = [f"{found[name]:.1f}" for name in ("seconds", "cpu")]
            memory = f"{found['memory'] / 1e9:.2f}"
            yield [f"{size / 1e9:.1f}", f"{found['records']:,}", state, *times, memory]


def opened(spec: dict) -> dict[str, float]:
    """Seconds and memory until the first batch of a source, in this process and its workers."""
    from lucida.core.spec import BatchSpec, MixtureSpec
    from lucida.data.loader import Loader
    from lucida.data.mixture import Mixture
    from lucida.data.policies import make_policy
    from lucida.data.reader import draw_images
    from lucida.data.sources import open_source
    from lucida.data.stage import StageData
    from lucida.data.views import draw

    begun, cpu = time.perf_counter(), time.process_time()
    known = MixtureSpec.model_validate({"sources": {"one": spec}})
    source = open_source(known.sources["one"])
    policy = make_policy("resize", 64, (0.5,) * 3, (0.5,) * 3)
    data = StageData(
        Mixture({"one": source}, {"one": 1.0}, 0),
        _encoded,
        BatchSpec(samples=SAMPLES, workers=WORKERS),
        look=partial(draw_images, partial(draw, policies=(policy,))),
    )
    stream = Loader(data, pad_id=0).batches()
    next(stream)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = most + sum(map(resident, children(os.getpid())))
    stream.close()
    return {"seconds": seconds, "cpu": cpu, "memory": memory, "records": len(source)}


def _encoded(sample: Sample, counts: Counter[str]) -> Tokens:
    """The text as bytes: what is measured here is the way to the records."""
    written = [part for b in sample.branches for turn in b for part in turn.parts]
    ids = np.frombuffer("".join(p for p in written if isinstance(p, str)).encode(), np.uint8)
    ids = np.concatenate([np.zeros(len(sample.images), np.int64), ids.astype(np.int64)])
    shown = np.zeros_like(ids)
    shown[: len(sample.images)] = np.arange(1, len(sample.images) + 1)
    places = np.arange(len(ids))
    return Tokens(sample.origin, sample.images, ids, np.zeros_like(ids), places, shown, ids)


def children(process: int) -> list[int]:
    """Processes that this one started."""
    file = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in file.read_text().split()] if file.exists() else []


def resident(process: int) -> int:
    """Bytes of memory that a process holds now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def array(folder: Path, gigabytes: float, indent: int | None) -> dict:
    """A JSON array of conversations in the lengths of LLaVA-Instruct, one picture for all."""
    picture = Image.effect_noise((96, 64), 40).convert("RGB")
    picture.save(folder / "one.jpg")
    rng = np.random.default_rng(0)
    words = ["a", "the", "bus", "with", "left of", "“sign”", 'says "go"', "two {red} cups", "\n"]
    records = []
    for number in range(BLOCK):
        turns = []
        for _ in range(int(rng.integers(1, 6))):
            asked = " ".join(rng.choice(words, 10))
            told = " ".join(rng.choice(words, int(rng.integers(2, 60))))
            turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": told}]
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        records.append({"id": f"{number:012d}", "image": "one.jpg", "conversations": turns})
    block = json.dumps(records, indent=indent).strip("[]\n").encode()
    between = b", " if indent is None else b",\n"
    with (folder / "data.json").open("wb") as file:
        file.write(b"[" + block)
        for _ in range(int(gigabytes * 1e9 / len(block)) - 1):
            file.write(between + block)
        file.write(b"]\n")
    return {"kind": "llava", "path": str(folder / "data.json")}


def tars(folder: Path, shards: int, members: int) -> dict:
    """Shards as img2dataset writes them, one picture for all."""
    content = io.BytesIO()
    Image.effect_noise((96, 64), 40).convert("RGB").save(content, "JPEG")
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(members):
                texts = {"txt": b"a picture of noise", "json": b'{"width": 96, "height": 64}'}
                for ending, body in {"jpg": content.getvalue(), **texts}.items():
                    header = tarfile.TarInfo(f"{shard:05d}{number:04d}.{ending}")
                    header.size, header.mtime = len(body), 1.7e9 + number / 7
                    tar.addfile(header, io.BytesIO(body))
    return {"kind": "webdataset", "path": str(folder / "*.tar")}


if __name__ == "__main__":
    main()
