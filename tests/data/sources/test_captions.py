"""Captions from a side file: by what they are matched, and what becomes of those that lack one."""

import csv
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_files
from pydantic import TypeAdapter, ValidationError
from tiny_files import png, tar

from lucida.core.errors import DataError
from lucida.core.spec import SourceSpec
from lucida.data.sources.captions import normal

NAMES = ("x/a.png", "x/b.png", "x/c.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x").mkdir()
    rows = []
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(png())
        (tmp_path / name).with_suffix(".txt").write_text(f"own {number}")
        rows.append({"image": name, "text": f"own {number}", "url": f"http://h/{number}"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [("human", "<image>\nSay it."), ("gpt", "own {}")]
    llava = [
        {
            "id": n, "image": row["image"], "url": row["url"],
            "conversations": [{"from": who, "value": text.format(n)} for who, text in said],
        }
        for n, row in enumerate(rows)
    ]  # fmt: skip
    (tmp_path / "llava.json").write_text(json.dumps(llava))
    table = [{**row, "image": {"bytes": png(), "path": row["image"]}} for row in rows]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "rows.parquet")
    members = {}
    for number, (name, row) in enumerate(zip("abc", rows, strict=True)):
        told = json.dumps({"url": row["url"], "key": f"{number:09d}"}).encode()
        members |= {f"{name}.png": png(), f"{name}.txt": row["text"].encode(), f"{name}.json": told}
    tar(tmp_path / "s.tar", members)
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(NAMES)],
        "annotations": [{"image_id": n, "caption": f"own {n}"} for n in range(3)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    return tmp_path


SOURCES = {
    "llava": {"kind": "llava", "path": "llava.json"},
    "pairs": {"kind": "pairs", "path": "pairs.jsonl"},
    "folder": {"kind": "folder", "path": "x"},
    "parquet": {"kind": "parquet", "path": "rows.parquet"},
    "webdataset": {"kind": "webdataset", "path": "s.tar"},
    "annotations": {
        "kind": "annotations", "path": "coco.json", "layout": "coco-captions", "images": ".",
    },
}  # fmt: skip


def opened(folder, name, captions, **more):
    fields = dict(SOURCES[name])
    if "images" in fields:
        fields["images"] = str(folder)
    kind, path = fields.pop("kind"), folder / fields.pop("path")
    return tiny_files.opened(kind, path, **fields, captions=captions, **more)


def texts(source):
    return [source[n].branches[0][-1].parts[-1] for n in range(len(source))]


def written(folder, rows, ending="jsonl"):
    path = folder / f"captions.{ending}"
    if ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            sheet = csv.DictWriter(file, list(rows[0]))
            sheet.writeheader()
            sheet.writerows(rows)
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows))
        path.write_text(text)
    return {"path": str(path)}


ROWS = [{"image": f"elsewhere/{n[2:]}", "caption": f"new, {n}\n✓"} for n in reversed(NAMES)]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_every_source_takes_captions_by_the_name_of_the_picture(folder, name, ending):
    source = opened(folder, name, written(folder, ROWS, ending))
    assert texts(source) == [f"new, {n}\n✓" for n in NAMES]
    assert source[1].images[0].load().size == (6, 4)
    assert texts(pickle.loads(pickle.dumps(source))) == texts(source)
    assert source.dropped == {}


@pytest.mark.parametrize("name", SOURCES)
def test_missing_ones_are_kept_dropped_or_errors(folder, name):
    given = written(folder, ROWS[:2])
    kept = opened(folder, name, given | {"missing": "keep"})
    assert texts(kept) == ["own 0", "new, x/b.png\n✓", "new, x/c.png\n✓"]
    assert kept.noted == {"no caption in the file (own caption kept)": 1}
    assert kept.dropped == {}
    dropped = opened(folder, name, given | {"missing": "drop"})
    assert texts(dropped) == ["new, x/b.png\n✓", "new, x/c.png\n✓"]
    assert dropped.dropped == {"no caption in the file": 1}
    assert dropped.noted == {}
    with pytest.raises(IndexError):
        dropped[2]
    source = opened(folder, name, given)
    assert source.noted == {"no caption in the file (an error)": 1}
    assert source.dropped == {}
    assert source[2].branches
    with pytest.raises(DataError, match=r"record 0.*no caption was written.*a\.png"):
        source[0]


@pytest.mark.parametrize("name", ["llava", "pairs", "parquet", "webdataset"])
def test_fields_of_the_records_are_keys_too(folder, name):
    rows = [{"address": f"http://h/{n}", "said": f"new {n}"} for n in range(3)]
    given = written(folder, rows) | {"by": "url", "key": "address", "text": "said"}
    assert texts(opened(folder, name, given)) == ["new 0", "new 1", "new 2"]
    with pytest.raises(DataError, match=r"no field `uid`"):
        opened(folder, name, given | {"by": "uid"})
    with pytest.raises(DataError, match=r"no (field|column) `adress`"):
        opened(folder, name, given | {"key": "adress"})


def test_prompts_stay_and_own_texts_may_be_absent(folder):
    (folder / "x" / "a.txt").unlink()
    source = opened(folder, "folder", written(folder, ROWS), prompts=["What?"])
    assert [turn.role for turn in source[0].branches[0]] == ["user", "assistant"]
    assert texts(source)[0] == "new, x/a.png\n✓"


def test_a_conversation_keeps_its_question_and_needs_one_answer(folder):
    source = opened(folder, "llava", written(folder, ROWS))
    assert [turn.parts[-1] for turn in source[0].branches[0]] == ["\nSay it.", "new, x/a.png\n✓"]
    rows = json.loads((folder / "llava.json").read_text())
    rows[0]["conversations"] *= 2
    del rows[1]["image"], rows[1]["conversations"][0]
    (folder / "llava.json").write_text(json.dumps(rows))
    source = opened(folder, "llava", written(folder, ROWS))
    with pytest.raises(DataError, match=r"record 0.*one answer.*2 answers"):
        source[0]
    with pytest.raises(DataError, match="no caption was written"):
        source[1]
    kept = opened(folder, "llava", written(folder, ROWS) | {"missing": "keep"})
    assert [kept[n].branches[0][-1].parts for n in (1, 2)] == [("own 1",), ("new, x/c.png\n✓",)]


def test_a_key_that_comes_again_is_counted(folder):
    again = [*ROWS, {"image": "a.png", "caption": "another"}]
    source = opened(folder, "pairs", written(folder, again))
    assert texts(source)[0] == "new, x/a.png\n✓"
    assert source.noted == {"captions of a key that came before (passed over)": 1}


def test_files_that_have_nothing_in_common_are_refused(folder):
    given = written(folder, [{"image": "q.png", "caption": "x"}])
    with pytest.raises(DataError, match=r"no record .* has a caption.*q\.png.*x/a\.png") as caught:
        opened(folder, "pairs", given)
    assert "set `by` and `key`" in str(caught.value)
    with pytest.raises(DataError, match="bad `caption`"):
        texts(opened(folder, "pairs", written(folder, [{"image": "a.png", "caption": 7}])))


def test_the_matching_is_kept_for_these_files_and_fields(folder, monkeypatch):
    monkeypatch.setattr("lucida.data.sources.sidecar.SMALLEST", 0)
    given = written(folder, ROWS)
    assert texts(opened(folder, "pairs", given))[0] == "new, x/a.png\n✓"
    with monkeypatch.context() as patch:
        patch.setattr("lucida.data.sources.captions.Recaptioned._match", None)
        assert texts(opened(folder, "pairs", given))[0] == "new, x/a.png\n✓"
    given = written(folder, [{**row, "caption": "changed"} for row in ROWS[:2]])
    found = opened(folder, "pairs", given | {"missing": "keep"})
    assert texts(found) == ["own 0", "changed", "changed"]


def test_only_pictures_with_captions_take_them(folder):
    with pytest.raises(ValidationError, match="captions"):
        TypeAdapter(SourceSpec).validate_python(
            {"kind": "text", "path": "x", "captions": {"path": "y"}}
        )


@pytest.mark.parametrize(
    ("key", "by", "found"),
    [
        ("a/7.b.jpg", "path", "a/7.b.jpg"),
        ("a/7.b.jpg", "name", "7.b.jpg"),
        ("a/7.b.jpg", "stem", "7.b"),
        ("a\\7.jpg", "name", "7.jpg"),
        (12, "id", "12"),
    ],
)
def test_keys_as_they_are_compared(key, by, found):
    assert normal(key, by) == found
