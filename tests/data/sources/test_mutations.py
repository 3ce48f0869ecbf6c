"""Small valid files of every reader, damaged in some hundred ways: only LucidaError comes out, and
what a file held is given, is an error of its record, or is told."""

import io
import json
import pickle
import random
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_files import opened, png, tar

from lucida.core.errors import LucidaError
from lucida.data.mixture import fetch

RECORDS = 6
DAMAGES = 150
TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A kite."}]
SIGNS = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\0", b"\xff", b" ", b"9",
         b"\xe2\x80\xa8", b"-1", b"null", b"NaN", b"1e999", b'""', b"\xef\xbb\xbf"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    for number in range(RECORDS):
        (tmp_path / f"{number}.png").write_bytes(png())
    return tmp_path


def each(make):
    return [make(number) for number in range(RECORDS)]


def lines(values):
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def packed(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", content)
    return buffer.getvalue()


def shard(folder, layout=tarfile.PAX_FORMAT):
    members = {}
    for number in range(RECORDS):
        members |= {f"{number}.png": png(), f"{number}.txt": b"A kite.",
                    f"{number}.json": b'{"score": 5}'}  # fmt: skip
    return tar(folder / "made.tar", members).read_bytes()


def stored(write, rows):
    buffer = io.BytesIO()
    write(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_arrow(table, buffer):
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)


def llava(number):
    return {"id": number, "image": f"{number}.png", "conversations": TALK}


def pair(number):
    return {"image": f"{number}.png", "text": "A kite.", "score": 5}


def page(number):
    info = {"image_name": f"{number}.png", "matched_text_index": 0, "matched_sim": 0.3}
    return {"text_list": ["A kite."], "image_info": [info]}


def message(number):
    shown = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": "x"}]}


def cell(number):
    return {"image": png(), "text": "A kite.", "score": 5}


def captions(_):
    images = each(lambda n: {"id": n, "file_name": f"{n}.png"})
    said = each(lambda n: {"image_id": n, "caption": "A kite."})
    return json.dumps({"images": images, "annotations": said}).encode()


def boxes(_):
    return lines(each(lambda n: {"sent": "a kite", "image": f"{n}.png", "bbox": [0, 0, n + 1, 3]}))


def questions(_):
    return pickle.dumps(each(lambda n: {"image": f"{n}", "question": "What?", "answer": "A kite."}))


ANNOTATED = {"kind": "annotations", "pattern": "{}.png"}
SCORED = {"at_least": {"score": 1}}
FILES = {
    "array": ("a.json", lambda f: json.dumps(each(llava)).encode(), {"kind": "llava"}),
    "lines": ("a.jsonl", lambda f: lines(each(llava)), {"kind": "llava"}),
    "messages": ("a.jsonl", lambda f: lines(each(message)), {"kind": "messages"}),
    "csv": ("a.csv", lambda f: b"image,text,score\n" + b"".join(
        b'%d.png,"A ""kite"", high",5\n' % n for n in range(RECORDS)), {"kind": "pairs"}),
    "tsv": ("a.tsv", lambda f: b"image\ttext\n" + b"".join(
        b"%d.png\tA 5\" kite\n" % n for n in range(RECORDS)), {"kind": "pairs"}),
    "rated": ("a.jsonl", lambda f: lines(each(pair)), {"kind": "pairs", **SCORED}),
    "text": ("a.txt", lambda f: b"A kite.\n" * RECORDS, {"kind": "text"}),
    "instructions": ("a.jsonl", lambda f: lines(
        each(lambda n: {"instruction": "Say", "output": f"{n}"})), {"kind": "text"}),
    "zip": ("a.jsonl.zip", lambda f: packed(lines(each(page))), {
        "kind": "interleaved", "images": True}),
    "pages": ("a.jsonl", lambda f: lines(each(page)), {"kind": "interleaved"}),
    "tar": ("a.tar", shard, {"kind": "webdataset"}),
    "rated tar": ("a.tar", shard, {"kind": "webdataset", **SCORED}),
    "parquet": ("a.parquet", lambda f: stored(pq.write_table, each(cell)), {"kind": "parquet"}),
    "rated parquet": ("a.parquet", lambda f: stored(pq.write_table, each(cell)), {
        "kind": "parquet", **SCORED}),
    "arrow": ("a.arrow", lambda f: stored(as_arrow, each(cell)), {"kind": "parquet"}),
    "captions": ("a.json", captions, {
        "kind": "annotations", "layout": "coco-captions", "images": True}),
    "boxes": ("a.jsonl", boxes, {"kind": "annotations", "layout": "refcoco", "images": True}),
    "questions": ("a.pkl", questions, {**ANNOTATED, "layout": "pathvqa", "images": True}),
}  # fmt: skip


def damaged(content, draws):
    """Some bytes changed, taken out, put in, said twice, zeroed or cut off."""
    at, many = draws.randrange(len(content)), draws.choice([1, 1, 1, 4, 30, 600])
    piece, before, after = content[at : at + many], content[:at], content[at + many :]
    new = draws.choice(SIGNS)
    return draws.choice([
        before + new + after, before + new + content[at:], before + after,
        before + piece * 2 + after,
        before + bytes(len(piece)) + after, before, content + piece,
        before + bytes(byte ^ 1 << draws.randrange(8) for byte in piece) + after,
    ])  # fmt: skip


def read(folder, path, fields, skip):
    """Records that were given, and what was told beside them; LucidaError for none at all."""
    fields = {name: str(folder) if value is True else value for name, value in fields.items()}
    source = opened(path=path, skip=skip, **fields)
    given = refused = 0
    for number in range(len(source)):
        try:
            sample, lost = fetch(source, number)
            for image in sample.images:
                image.load()
            given += 1
            refused += bool(lost)
        except LucidaError as error:
            assert len(str(error)) < 5000
            refused += 1
    told = [*getattr(source, "dropped", {}).values(), *getattr(source, "noted", {}).values()]
    return given, refused + sum(told)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_an_error_and_nothing_is_lost(folder, name):
    file, make, fields = FILES[name]
    path, draws = folder / file, random.Random(name)
    whole = make(folder)
    path.write_bytes(whole)
    scores = RECORDS if name in ("csv", "parquet", "arrow") else 0  # a column that is not read
    assert read(folder, path, fields, False) == (RECORDS, scores)
    hurt = 0
    for number in range(DAMAGES):
        content = damaged(whole, draws)
        path.write_bytes(content)
        try:
            given, told = read(folder, path, fields, bool(number % 2))
        except LucidaError as error:
            assert len(str(error)) < 5000
            hurt += 1
            continue
        hurt += given < RECORDS
        if given < RECORDS and told <= min(scores, given):
            assert cut_between_records(name, content, given), (number, content[:3000])
    assert hurt > DAMAGES // 10


def cut_between_records(name, content, given):
    """Whether what is left is a whole file of fewer records, which nobody could tell."""
    if name == "text":
        return len([line for line in content.split(b"\n") if line.strip()]) == given
    return name in MARKS and content.count(MARKS[name]) <= given


MARKS = {
    "lines": b'"conversations"', "messages": b'"messages"', "rated": b'"text"',
    "instructions": b'"output"', "pages": b'"text_list"', "captions": b'"caption"',
    "boxes": b'"sent"', "csv": b".png", "tsv": b".png",
}  # fmt: skip
