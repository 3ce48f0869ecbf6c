"""Each format as its authors write it: read by number, pictures where they belong."""

import csv
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import opened, png, tar

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart, Turn
from lucida.data.sources import SOURCES, scanning
from lucida.data.sources.lines import line_places
from lucida.data.sources.records import Records, array_places_slowly
from lucida.data.sources.scanning import array_places


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        (tmp_path / name).write_bytes(png(colour))
    return tmp_path


def lines(folder, *records, name="data.jsonl"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def colours(sample):
    return [image.load().getpixel((0, 0)) for image in sample.images]


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def test_every_kind_of_the_table_loads():
    for kind in SOURCES:
        assert hasattr(SOURCES[kind], "__getitem__")


def test_messages(folder):
    first = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Is <image> "},
                    {"type": "image", "image": "a.png"},
                    {"type": "text", "text": " like "},
                    {"type": "image"},
                ],
            },
            {"role": "assistant", "content": "No."},
        ],
        "images": ["b.png"],
    }
    share = {
        "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}]
    }
    trl = {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }
    source = opened("messages", lines(folder, first, share, trl))
    sample = source[0]
    assert sample.branches[0][1].parts == ("Is <image> ", ImagePart(0), " like ", ImagePart(1))
    assert colours(sample) == [RED, BLUE]
    assert source[1].images == ()
    assert source[1].branches[0][0].parts == ("<image>?",)
    assert [turn.role for turn in source[2].branches[0]] == ["user", "assistant"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json"])
def test_pairs(folder, ending):
    rows = [("a.png", 'He said "hi", twice'), ("b.png", "blue ✓"), ("c.png", "last")]
    if ending == "csv":
        rows[1] = ("b.png", "two\nlines, and a comma")
    path = folder / f"data.{ending}"
    if ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "text"), *rows])
    elif ending == "tsv":
        path.write_text("image\ttext\n" + "".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    else:
        records = [{"image": a, "text": b} for a, b in rows]
        text = json.dumps(records) if ending == "json" else "\n".join(map(json.dumps, records))
        path.write_text(text)
    source = opened("pairs", path)
    assert len(source) == 3
    said = [source[n].branches[0][0] for n in range(3)]
    assert [turn.parts for turn in said] == [(ImagePart(0), text) for _, text in rows]
    assert [colours(source[n]) for n in range(3)] == [[RED], [BLUE], [GREEN]]
    asked = opened("pairs", path, prompts=["What?", "Describe."])[1]
    assert asked.stem == (Turn("user", (ImagePart(0),)),)
    assert asked.branches[0] == (Turn("user", ("Describe.",)), Turn("assistant", (rows[1][1],)))


def test_several_tables_each_with_its_header(folder):
    for number, name in enumerate(("a", "b", "c")):
        (folder / f"part{number}.csv").write_text(f"image,text\n{name}.png,{name}\n")
    source = opened("pairs", folder / "part*.csv")
    assert [source[n].branches[0][0].parts[1] for n in range(len(source))] == ["a", "b", "c"]
    (folder / "part1.csv").write_text("source,text,image\nweb,b,b.png\n")  # another order
    source = opened("pairs", folder / "part*.csv")
    assert [source[n].branches[0][0].parts[1] for n in range(len(source))] == ["a", "b", "c"]
    (folder / "part2.csv").write_text("image,caption\nc.png,c\n")
    with pytest.raises(DataError, match="no field `text`"):
        opened("pairs", folder / "part*.csv")[2]


def test_folder(folder):
    (folder / "b.txt").write_text("blue\n")
    (folder / "a.txt").write_text("red")
    source = opened("folder", folder)
    assert [source[n].branches[0][0].parts[1] for n in (0, 1)] == ["red", "blue"]
    with pytest.raises(DataError, match="no pair"):
        source[2]


def test_text(folder):
    (folder / "a.txt").write_text("one\n\ntwo\r\n")
    source = opened("text", folder / "a.txt")
    assert [source[n].branches[0][0].parts for n in range(2)] == [("one",), ("two",)]
    assert opened("text", folder / "a.txt", documents="file")[0].branches[0][0].role == "text"
    told = lines(
        folder,
        {"text": "doc"},
        {"instruction": "Sum", "input": "1 2", "output": "3"},
        {"inputs": "q", "targets": "a"},
    )
    source = opened("text", told)
    assert source[0].branches[0] == (Turn("text", ("doc",)),)
    assert source[1].branches[0] == (Turn("user", ("Sum\n\n1 2",)), Turn("assistant", ("3",)))
    assert source[2].branches[0] == (Turn("user", ("q",)), Turn("assistant", ("a",)))


def cauldron():
    def pictures(*names):
        return [{"bytes": png(name), "path": None} for name in names]

    turns = [{"user": "q1", "assistant": "a1"}, {"user": "q2", "assistant": "a2"}]
    return pa.table(
        {
            "images": [pictures("red", "blue"), pictures("blue"), [], pictures("red")],
            "texts": [turns, turns[:1], turns, turns],
            "relevance_ratings": [[5, 2], [1], [4, 4], [2, 1]],
            "relevance_min": [2, 1, 4, None],
        }
    )


def test_a_table_that_names_its_pictures_is_read_as_pairs(folder):
    path = folder / "named.parquet"
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "text": ["one", "two"]}), path)
    with pytest.raises(DataError, match=r"not in the file.*a\.png.*kind=pairs and images=FOLDER"):
        opened("parquet", path)[0]
    source = opened("pairs", path, images=str(folder))
    assert [colours(source[n]) for n in (0, 1)] == [[RED], [BLUE]]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "stream.arrow"])
def test_parquet(folder, ending):
    path = folder / "rows" / f"data.{ending}"
    path.parent.mkdir()
    table = cauldron()
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=3)
    else:
        make = pa.ipc.new_stream if ending.startswith("stream") else pa.ipc.new_file
        with make(path, table.schema) as writer:
            writer.write_table(table)
    source = opened("parquet", path.parent)
    assert len(source) == 4
    assert colours(source[0]) == [RED, BLUE]
    assert source[0].stem == (Turn("user", (ImagePart(0), ImagePart(1))),)
    assert [turn.parts for turn in source[0].branches[0]] == [("q1",), ("a1",), ("q2",), ("a2",)]
    assert source[2].images == ()
    again = pickle.loads(pickle.dumps(source))
    assert colours(again[3]) == [RED]
    rated = opened("parquet", path, at_least={"relevance_ratings": 3})
    assert len(rated) == 2
    assert len(rated[0].branches[0]) == 2
    assert rated.dropped == {"every turn is rated too low": 2}
    least = opened("parquet", path, at_least={"relevance_min": 2})
    assert len(least) == 2
    assert least.dropped == {"relevance_min below 2": 2}
    with pytest.raises(DataError, match="no column"):
        opened("parquet", path, at_least={"rating": 2})


def test_hub_reads_a_local_folder(folder, monkeypatch):
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
    (folder / "set").mkdir()
    pq.write_table(cauldron(), folder / "set" / "train.parquet")
    source = opened("hub", folder / "set", at_least={"relevance_min": 4})
    assert len(source) == 1
    assert source.dropped == {"relevance_min below 4": 3}
    assert len(source[0].branches[0]) == 4
    with pytest.raises(DataError, match="cannot open the data set"):
        opened("hub", folder / "nothing")


def shards(folder):
    for shard in range(2):
        members = {}
        for number, colour in enumerate(("red", "blue", "green")):
            name = f"{shard:05d}{number:04d}"
            score = 0.1 * number + 0.05 * shard
            told = {"caption": f"long {name}", "s1": score, "s2": score}
            members[f"{name}.jpg"] = png(colour)
            members[f"{name}.txt"] = f"{colour} {shard}".encode()
            members[f"{name}.json"] = json.dumps(told).encode()
        tar(folder / f"{shard:05d}.tar", members)
    return folder / "*.tar"


def test_shards_of_questions(folder):
    said = {"question": "what colour?", "answer": 2, "category": "colours"}
    members = {"000.png": (folder / "a.png").read_bytes(), "000.json": json.dumps(said).encode()}
    path = tar(folder / "0.tar", members)
    source = opened("webdataset", path, question="question", caption="answer", prompts=["Q: {}"])
    assert source[0].branches[0] == (
        Turn("user", ("Q: what colour?",)),
        Turn("assistant", ("2",)),
    )
    assert source.key(0, "category") == "colours"
    with pytest.raises(DataError, match=r"no key `ask`.*answer"):
        opened("webdataset", path, question="ask", caption="answer")[0]
    with pytest.raises(DataError, match=r"`caption` to a key.*, `question` to one that asks"):
        opened("webdataset", path)[0]
    with pytest.raises(DataError, match="one place for the question"):
        opened("webdataset", path, question="question", caption="answer", prompts=["Hm?"])


def test_webdataset(folder):
    source = opened("webdataset", shards(folder))
    assert len(source) == 6
    assert source[4].branches[0][0].parts == (ImagePart(0), "blue 1")
    assert colours(source[4]) == [BLUE]
    assert opened("webdataset", folder / "*.tar", caption="caption")[0].branches[0][0].parts[1] == (
        "long 000000000"
    )
    kept = opened("webdataset", folder / "*.tar", at_least={"s1+s2": 0.2}, prompts=["What?"])
    assert [kept[n].branches[0][1].parts[0] for n in range(len(kept))] == [
        "blue 0",
        "green 0",
        "blue 1",
        "green 1",
    ]
    assert kept.dropped == {"s1+s2 below 0.2": 2}
    best = opened("webdataset", folder / "*.tar", rank_by="s1", top_share=0.34)
    assert [best[n].branches[0][0].parts[1] for n in range(len(best))] == ["green 0", "green 1"]
    assert best.dropped == {"not in the best 0.34 by s1": 4}
    assert colours(pickle.loads(pickle.dumps(best))[1]) == [GREEN]


def page(**changes):
    infos = [("a.png", 1, 0.3), ("b.png", 0, 0.2), ("c.png", 2, 0.4)]
    return {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": name, "matched_text_index": place, "matched_sim": sim}
            for name, place, sim in infos
        ],
    } | changes


@pytest.mark.parametrize(
    ("fields", "parts", "shown"),
    [
        ({}, [0, "One.", 1, "Two.", 2, "Three."], [BLUE, RED, GREEN]),
        ({"max_images": 1}, ["One.", 0, "Two.", " Three."], [RED]),
        ({"max_images": 1, "choose": "similar"}, ["One. Two.", 0, "Three."], [GREEN]),
        ({"min_similarity": 0.25}, ["One.", 0, "Two.", 1, "Three."], [RED, GREEN]),
        ({"min_bytes": 10**6}, ["One. Two. Three."], []),
        ({"order": "images_first"}, [0, 1, 2, "One.", " Two. Three."], [BLUE, RED, GREEN]),
        ({"order": "pairs", "max_images": 1}, [0, "Two."], [RED]),
        ({"order": "text_only"}, ["One. Two. Three."], []),
    ],
)
@pytest.mark.parametrize("store", ["folder", "tar"])
def test_mmc4(folder, fields, parts, shown, store):
    if store == "tar":
        held = {f"{name}.png": (folder / f"{name}.png").read_bytes() for name in "abc"}
        fields = fields | {"images": str(tar(folder / "images.tar", held))}
    source = opened("interleaved", lines(folder, page()), **fields)
    sample, lost = source.explained(0)
    found = [
        part.index if isinstance(part, ImagePart) else part for part in sample.branches[0][0].parts
    ]
    assert found == parts
    assert colours(sample) == shown
    assert sum(n for why, n in lost.items() if "picture" in why and "sentences" not in why) == (
        3 - len(shown)
    )


def test_pictures_that_are_missing_spoil_the_page_or_are_counted(folder):
    path = lines(folder, page())
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"record 0.*cannot find"):
        opened("interleaved", path)[0]
    sample, lost = opened("interleaved", path, missing="drop").explained(0)
    assert colours(sample) == [BLUE, GREEN]
    assert lost == {"pictures that are missing": 1}


def test_obelics_and_trailing_pictures(folder):
    record = {"texts": ["A", None, "B", None], "images": [None, "a.png", None, "b.png"]}
    for ends in ({"texts": [*record["texts"], " "], "images": [*record["images"], None]}, record):
        path = lines(folder, ends)
        sample, lost = opened("interleaved", path, layout="obelics").explained(0)
        assert sample.branches[0][0].parts == ("A", ImagePart(0), "B")
        assert lost == {"pictures behind the last text": 1}
    kept = opened("interleaved", path, layout="obelics", drop_trailing=False)[0]
    assert kept.branches[0][0].parts == ("A", ImagePart(0), "B", ImagePart(1))


ANNOTATIONS = {
    "coco-captions": {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [{"image_id": 7, "caption": "red"}],
    },
    "flickr30k": {
        "images": [
            {"filename": "a.png", "split": "train", "sentences": [{"raw": "red"}]},
            {"filename": "b.png", "split": "test", "sentences": [{"raw": "blue"}]},
        ]
    },
    "gqa": {"1": {"imageId": "a", "question": "Colour?", "answer": "red"}},
    "textvqa": {"data": [{"image_id": "a", "question": "Colour?", "answers": ["x", "red", "red"]}]},
    "vqav2": {"annotations": [{"question_id": 1, "multiple_choice_answer": "red"}]},
    "okvqa": {"annotations": [{"question_id": 1, "answers": [{"answer": "red"}]}]},
}


@pytest.mark.parametrize("layout", ANNOTATIONS)
def test_annotations(folder, layout):
    path = folder / "annotations.json"
    path.write_text(json.dumps(ANNOTATIONS[layout]))
    fields = {"images": str(folder), "layout": layout}
    if layout in ("gqa", "textvqa"):
        fields["pattern"] = "{}.png"
    if layout in ("vqav2", "okvqa"):
        asked = {"questions": [{"question_id": 1, "image_id": 7, "question": "Colour?"}]}
        (folder / "questions.json").write_text(json.dumps(asked))
        (folder / "COCO_train2014_000000000007.jpg").write_bytes(png("red"))
        fields["questions"] = str(folder / "questions.json")
    source = opened("annotations", path, **fields)
    assert len(source) == 1
    assert colours(source[0]) == [RED]
    assert source[0].branches[0][-1].parts[-1] == "red"
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(DataError, match=layout):
        opened("annotations", path, **fields)


text = st.text(st.sampled_from('ab"\\[]{},:\n✓ \u00e9'), max_size=12)
values = st.recursive(
    text | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(text, values, max_size=3), min_size=1, max_size=8),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from([3, 7, 64, 200]),
)
def test_places_are_those_of_a_parser(tmp_path_factory, records, indent, ascii_only, chunk):
    path = tmp_path_factory.mktemp("scan") / "data.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "CHUNK", chunk)
        fast = array_places(path)
    assert np.array_equal(fast, array_places_slowly(path))
    held = Records([path])
    assert [held.value(n)[0] for n in range(len(held))] == records


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("a \n\r"), max_size=40), st.sampled_from([1, 3, 64]))
def test_line_places_are_those_of_split(tmp_path_factory, text, chunk):
    path = tmp_path_factory.mktemp("scan") / "data.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "CHUNK", chunk)
        found = line_places(path)
    wanted = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    assert [(line, text[begin:end]) for begin, end, line in found.tolist()] == wanted


def test_places_are_kept_and_forgotten_with_the_file(folder, monkeypatch):
    monkeypatch.setattr("lucida.data.sources.sidecar.SMALLEST", 0)
    path = lines(folder, {"text": "one"}, {"text": "two"})
    assert len(Records([path])) == 2
    kept = list((folder / "cache" / "records").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr("lucida.data.sources.records.line_places", None)
    again = pickle.loads(pickle.dumps(Records([path])))
    assert again.value(1)[0] == {"text": "two"}
    monkeypatch.undo()
    monkeypatch.setenv("LUCIDA_CACHE", str(folder / "cache"))
    lines(folder, {"text": "one"}, {"text": "two"}, {"text": "three"})
    assert len(Records([path])) == 3
    kept[0].write_bytes(b"cut")
    lines(folder, {"text": "one"}, {"text": "two"})
    assert len(Records([path])) == 2
