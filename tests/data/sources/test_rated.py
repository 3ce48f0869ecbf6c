"""Records that are rated well enough, in every format of one record a line."""

import json
import pickle

import pytest
from PIL import Image
from tiny_files import opened

from lucida.core.errors import DataError

SCORES = (5, 2, None, 3.0)
KINDS = {
    "pairs": lambda n: {"image": "a.png", "text": f"text {n}"},
    "llava": lambda n: {
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": f"text {n}"}]
    },
    "messages": lambda n: {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": f"text {n}"},
        ]
    },
    "text": lambda n: {"text": f"text {n}"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return tmp_path


def written(folder, kind, scores=SCORES):
    path = folder / "data.jsonl"
    rows = [KINDS[kind](n) | {"score": score, "safe": 1} for n, score in enumerate(scores)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def texts(source):
    return [source[n].branches[0][-1].parts[-1] for n in range(len(source))]


@pytest.mark.parametrize("kind", KINDS)
def test_records_rated_lower_are_left_out_and_counted(folder, kind):
    path = written(folder, kind)
    source = opened(kind, path, at_least={"score": 3, "safe": 1})
    assert texts(source) == ["text 0", "text 3"]
    assert source.dropped == {"score below 3": 2}
    assert texts(pickle.loads(pickle.dumps(source))) == texts(source)
    with pytest.raises(IndexError):
        source[2]
    assert len(opened(kind, path)) == 4
    with pytest.raises(DataError, match=r"record 0.*no field `scor`.*did you mean `score`"):
        opened(kind, path, at_least={"scor": 3})
    with pytest.raises(DataError, match=r"record 1.*bad `score`.*good"):
        opened(kind, written(folder, kind, (5, "good")), at_least={"score": 3})


def test_unreadable_ratings_are_records_that_raise_under_skip(folder):
    path = written(folder, "pairs", (5, "good", 1, 4))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[3]["score"]
    path.write_text("\n".join([*map(json.dumps, rows), '{"image": "a.png", "te']))
    with pytest.raises(DataError, match=r"record 1.*bad `score`"):
        opened("pairs", path, at_least={"score": 3})
    source = opened("pairs", path, skip=True, at_least={"score": 3})
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == 4 and source.dropped == {"score below 3": 1}
    assert source[0].branches[0][-1].parts[-1] == "text 0"
    for index, said in ((1, r"record 1.*bad `score`"), (2, "record 3.*no field `score`"),
                        (3, "record 4.*broken JSON")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            source[index]
    with pytest.raises(DataError, match=r"no field `scor`.*did you mean `score`"):
        opened("pairs", written(folder, "pairs"), skip=True, at_least={"scor": 3})


def test_numbers_of_a_csv_are_text(folder):
    path = folder / "data.csv"
    path.write_text("image,text,score\na.png,one,0.31\na.png,two,\na.png,three,0.29\n")
    source = opened("pairs", path, at_least={"score": 0.3})
    assert texts(source) == ["one"]
    assert source.dropped == {"score below 0.3": 2}


def test_captions_are_matched_to_the_records_that_stay(folder):
    rows = [{"image": f"{name}.png", "text": "own", "score": n} for n, name in enumerate("xyz")]
    for row in rows:
        Image.new("RGB", (4, 4)).save(folder / row["image"])
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [{"image": row["image"], "caption": f"new {row['image']}"} for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, said)))
    fields = {"at_least": {"score": 1}, "captions": {"path": str(folder / "captions.jsonl")}}
    source = opened("pairs", folder / "data.jsonl", **fields)
    assert texts(source) == ["new y.png", "new z.png"]
    assert source.dropped == {"score below 1": 1}


def test_plain_text_has_no_ratings(folder):
    (folder / "notes.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="plain text has no fields"):
        opened("text", folder / "notes.txt", at_least={"score": 1})
