"""Facts about data: equal for a copy, others for other content, whatever the kind of source."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from lucida.core.spec import SourceSpec
from lucida.data import fingerprint
from lucida.data.fingerprint import BLOCK, file_fact, part_facts, source_facts
from lucida.data.sources import open_source
from lucida.training.inputs import differences


def picture(path, shade):
    Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(path)


def written(folder):
    """The same six pictures with texts for every local kind of source."""
    folder.mkdir()
    for number in range(6):
        picture(folder / f"{number}.png", 20 * number)
        (folder / f"{number}.txt").write_text(f"shade {number}")
    names = [f"{number}.png" for number in range(6)]
    turns = [{"from": "human", "value": "<image>\nShade?"}, {"from": "gpt", "value": "dark"}]
    llava = [{"image": name, "conversations": turns} for name in names]
    (folder / "llava.json").write_text(json.dumps(llava))
    rows = "".join(f"{name},shade {name}\n" for name in names)
    (folder / "pairs.csv").write_text("image,text\n" + rows)
    (folder / "text.jsonl").write_text("".join(f'{{"text": "a {n}"}}\n' for n in names))
    captions = [{"image": name, "caption": f"other {name}"} for name in names]
    (folder / "captions.json").write_text(json.dumps(captions))
    with tarfile.open(folder / "000.tar", "w") as tar:
        for number in range(6):
            tar.add(folder / f"{number}.png", f"{number}.png")
            tar.add(folder / f"{number}.txt", f"{number}.txt")
    (folder / "alone").mkdir()
    for number in range(6):
        shutil.copy(folder / f"{number}.png", folder / "alone")
        shutil.copy(folder / f"{number}.txt", folder / "alone")
    return folder


KINDS = {
    "llava": ("llava", "llava.json", "0.png", {}),
    "pairs": ("pairs", "pairs.csv", "0.png", {}),
    "captions": ("pairs", "pairs.csv", "captions.json", {"captions": {"path": "captions.json"}}),
    "text": ("text", "text.jsonl", "text.jsonl", {}),
    "folder": ("folder", "alone", "alone/3.txt", {}),
    "pictures of a folder": ("folder", "alone", "alone/3.png", {}),
    "webdataset": ("webdataset", "000.tar", "000.tar", {}),
}


def facts(folder, kind, path, more):
    more = {k: v | {"path": str(folder / v["path"])} for k, v in more.items()}
    values = {"kind": kind, "path": str(folder / path), **more}
    spec = TypeAdapter(SourceSpec).validate_python(values)
    return source_facts(spec, open_source(spec))


def change(path):
    """Other content of the same size, at the same time by the clock of the file."""
    stat = path.stat()
    if path.suffix == ".png":
        picture(path, 255)
    else:
        content = path.read_bytes()
        at = max(content.rfind(sign) for sign in (b"shade", b"other", b'"a '))
        path.write_bytes(content[: at + 1] + b"u" + content[at + 2 :])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("name", KINDS)
def test_other_content_has_other_facts_and_a_touched_file_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    folder = written(tmp_path / "data")
    kind, path, changed, more = KINDS[name]
    before = facts(folder, kind, path, more)
    os.utime(folder / changed)
    assert facts(folder, kind, path, more) == before
    change(folder / changed)
    told = differences({"x": before}, {"x": facts(folder, kind, path, more)})
    assert told and all(" -> " in line for line in told)


def test_the_world_is_known_by_what_it_says_and_draws(monkeypatch):
    spec = TypeAdapter(SourceSpec).validate_python(
        {"kind": "world", "tasks": ["counting"], "count": 40, "questions": 2}
    )
    before = source_facts(spec, open_source(spec))
    assert before["records"] == "40" and before == source_facts(spec, open_source(spec))
    other = spec.model_copy(update={"seed": 1})
    assert before != source_facts(other, open_source(other))


def test_of_a_large_file_evenly_spread_blocks_are_read(tmp_path):
    path = tmp_path / "large"
    content = bytearray(os.urandom(8 * BLOCK))
    path.write_bytes(content)
    before = file_fact(path, 4)
    content[0] ^= 1
    path.write_bytes(content)
    assert file_fact(path, 4) != before
    content[0] ^= 1
    content[-1] ^= 1
    path.write_bytes(content)
    assert file_fact(path, 4) != before
    path.write_bytes(content + b"x")
    assert file_fact(path, 4).startswith(f"{8 * BLOCK + 1:,} bytes")


def test_many_files_are_one_fact(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "LISTED", 3)
    monkeypatch.setattr(fingerprint, "READ", 2)
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"text": "a {number}"}}\n')
    spec = TypeAdapter(SourceSpec).validate_python(
        {"kind": "text", "path": str(tmp_path / "*.jsonl")}
    )
    before = source_facts(spec, open_source(spec))
    assert sum(key.startswith("file") for key in before) == 1
    (tmp_path / "6.jsonl").write_text('{"text": "a"}\n')
    assert source_facts(spec, open_source(spec)) != before


def test_a_part_is_its_weights_tokenizer_and_settings(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("words")
    before = part_facts(str(tmp_path))
    (tmp_path / "README.md").write_text("other words")
    assert part_facts(str(tmp_path)) == before
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert part_facts(str(tmp_path)) != before
    assert part_facts("nobody/has-this-model") == {}
