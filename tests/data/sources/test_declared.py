"""Every source says what it uses and what it ignores; everything else is counted and told."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_files import opened, png, tar

from lucida.core.errors import DataError
from lucida.data.mixture import fetch
from lucida.data.source import MOST, OTHERS, unread
from lucida.data.sources import SOURCES

TALK = [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A pirate."}]
SAID = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.png").write_bytes(png())
    return tmp_path


def line(folder, record):
    path = folder / "data.jsonl"
    path.write_text(json.dumps(record))
    return path


def table(folder, row):
    pq.write_table(pa.Table.from_pylist([row]), folder / "data.parquet")
    return folder / "data.parquet"


def told(source):
    """Everything that a source tells of its files and of its records."""
    found = [*getattr(source, "dropped", {}), *getattr(source, "noted", {})]
    for number in range(len(source)):
        found += fetch(source, number)[1]
    return found


def folder_of_pictures(folder):
    (folder / "in").mkdir()
    (folder / "in" / "a.png").write_bytes(png())
    (folder / "in" / "a.txt").write_text("A kite.")
    (folder / "in" / "a.caption").write_text("surplus")
    (folder / "in" / "more").symlink_to(folder, target_is_directory=True)
    return opened("folder", folder / "in")


def annotations(folder):
    value = {
        "images": [{"id": 1, "file_name": "a.png", "height": 3}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "caption": "A kite.", "surplus": 1}],
    }
    path = folder / "captions.json"
    path.write_text(json.dumps(value))
    return opened("annotations", path, images=str(folder), layout="coco-captions")


def interleaved(folder):
    info = {"image_name": "a.png", "matched_text_index": 0, "matched_sim": 0.3, "surplus": 1}
    return opened("interleaved", line(folder, {"text_list": ["a"], "image_info": [info]}))


def hub(folder):
    path = table(folder, {"image": png(), "text": "A kite.", "surplus": 1})
    (folder / "set").mkdir()
    path.rename(folder / "set" / "data.parquet")
    return opened("hub", folder / "set")


PAIR = {"image": "a.png", "text": "A kite."}
SURPLUS = {
    "world": (lambda _: opened_world(), []),
    "llava": (
        lambda f: opened("llava", line(f, {"conversations": TALK, "surplus": 1, "id": "7"})),
        ["key `surplus` is not read"],
    ),
    "messages": (
        lambda f: opened("messages", line(f, {
            "messages": [SAID[0] | {"weight": 0}, SAID[1]],
            "rejected": SAID,
        })),
        ["key `messages[].weight` is not read", "key `rejected` is not read"],
    ),
    "pairs": (
        lambda f: opened("pairs", line(f, PAIR | {"surplus": 1, "empty": ""})),
        ["key `surplus` is not read"],
    ),
    "questions": (
        lambda f: opened("questions", line(f, {
            "image": "a.png", "question": "a", "answer": "b", "answers": ["c"], "surplus": 1,
        })),
        ["key `answers` is not read", "key `surplus` is not read"],
    ),
    "preferences": (
        lambda f: opened("preferences", line(f, {
            "image": "a.png", "question": "a", "chosen": "b", "rejected": "c", "surplus": 1,
        })),
        ["key `surplus` is not read"],
    ),
    "world-preferences": (lambda _: opened_pairs(), []),
    "folder": (
        folder_of_pictures,
        ["files that are not read (.caption)", "linked folders that are not followed"],
    ),
    "text": (
        lambda f: opened("text", line(f, {"instruction": "a", "output": "b", "text2": "c"})),
        ["key `text2` is not read"],
    ),
    "parquet": (
        lambda f: opened("parquet", table(f, {
            "images": [png()], "texts": [{"user": "a", "assistant": "b", "score": 1}], "text": "c",
        })),
        ["key `texts[].score` is not read", "key `text` is not read"],
    ),
    "hub": (hub, ["key `surplus` is not read"]),
    "webdataset": (
        lambda f: opened("webdataset", tar(f / "0.tar", {
            "000.png": png(), "000.txt": b"A kite.", "000.cls": b"7", "a.seg.png": png(),
        })),
        ["members whose names have two dots (*.*.png)", "members that are not read (.cls)"],
    ),
    "interleaved": (interleaved, ["key `image_info[].surplus` is not read"]),
    "annotations": (
        annotations, ["key `annotations[].surplus` is not read", "images without a caption"],
    ),
}  # fmt: skip


def opened_world():
    from lucida.data.sources.world import WorldSource

    return WorldSource(["attribute"], count=2)


def opened_pairs():
    from lucida.data.sources.preferences import WorldPreferences

    return WorldPreferences(count=2)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_declares_what_it_reads_and_tells_the_rest(folder, kind):
    make, expected = SURPLUS[kind]
    source = make(folder)
    assert isinstance(source.uses, dict) and isinstance(source.ignores, frozenset)
    found = told(source)
    assert len(found) == len(expected)
    assert all(any(one.startswith(each) for one in found) for each in expected), found


def test_ratings_and_captions_are_keys_that_are_read(folder):
    path = line(folder, PAIR | {"score": 5, "url": "u"})
    more = folder / "more.csv"
    more.write_text("image,caption,note\na.png,new,x\n")
    fields = {"at_least": {"score": 1}, "captions": {"path": str(more)}}
    assert told(opened("pairs", path, **fields)) == ["key `captions: note` is not read"]


def test_a_record_of_a_million_keys_is_told_in_few_words(folder):
    source = opened("pairs", line(folder, PAIR | {f"key{n}": n for n in range(3000)}))
    lost = fetch(source, 0)[1]
    assert len(lost) == MOST + 1 and lost[OTHERS] == 3000 - MOST


def test_a_surplus_key_counts_once_a_record():
    uses = {"image": None, "turns": {"text": None}}
    record = {"image": "a", "turns": [{"text": "a", "loss": 0}, {"loss": 1}], "score": 3, "id": 1}
    assert unread(record, uses, frozenset({"id"})) == {
        "key `turns[].loss` is not read": 1, "key `score` is not read": 1,
    }  # fmt: skip


BESIDE = {
    "llava": {"conversations": TALK},
    "messages": {"messages": SAID},
    "text": {"instruction": "a", "output": "b"},
    "parquet": {"question": "a", "answer": "b"},
}


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("kind", BESIDE)
def test_system_text_beside_a_conversation_is_its_first_turn(folder, kind, name):
    write = table if kind == "parquet" else line
    sample = opened(kind, write(folder, BESIDE[kind] | {name: "You are a pirate."}))[0]
    first = sample.branches[0][0]
    assert (first.role, first.parts) == ("system", ("You are a pirate.",))
    assert len(sample.branches[0]) == 3


@pytest.mark.parametrize("name", ["tools", "history", "functions"])
@pytest.mark.parametrize("kind", BESIDE)
def test_what_cannot_be_said_is_refused(folder, kind, name):
    write = table if kind == "parquet" else line
    with pytest.raises(DataError, match=f"`{name}` is not read"):
        opened(kind, write(folder, BESIDE[kind] | {name: "x"}))[0]
    assert opened(kind, write(folder, BESIDE[kind] | {name: ""}))[0]


def test_two_system_texts_and_two_pictures_are_refused(folder):
    own = [{"from": "system", "value": "Be kind."}, *TALK]
    same = opened("llava", line(folder, {"conversations": own, "system": "Be kind."}))[0]
    assert [turn.role for turn in same.branches[0]] == ["system", "user", "assistant"]
    with pytest.raises(DataError, match="two system texts"):
        opened("llava", line(folder, {"conversations": own, "system": "Be brief."}))[0]
    shown = [{"from": "human", "value": "<image>?"}, TALK[1]]
    both = {"conversations": shown, "image": "a.png", "images": ["b.png"]}
    with pytest.raises(DataError, match="two keys that mean the same"):
        opened("llava", line(folder, both))[0]
    with pytest.raises(DataError, match="two keys that mean the same"):
        opened("parquet", table(folder, {"image": png(), "jpg": png("blue"), "text": "x"}))[0]


def test_samples_of_one_name_are_refused_each_by_itself(folder):
    path = folder / "0.tar"
    with tarfile.open(path, "w") as archive:
        for name, body in [("0.png", png()), ("0.txt", b"red"), ("1.png", png()), ("1.txt", b"x"),
                           ("0.png", png("blue")), ("1.jpg", png()), ("2.png", png()),
                           ("2.txt", b"fine")]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    for fields in ({}, {"min_bytes": 1}):
        source = opened("webdataset", path, **fields)
        assert len(source) == 3
        for number in (0, 1):
            with pytest.raises(DataError, match="two members of one kind and one key"):
                source[number]
        assert source[2].branches[0][0].parts[-1] == "fine"


def test_pictures_in_tars_that_no_page_can_name_are_noted(folder):
    tar(folder / "0.tar", {
        "0.png": png(), "0.json": b'{"url": "u"}', "1.png": png(), "2.mp4": b"x",
        "3.png": png(), "3.json": b'{"url": "u"}',
    })  # fmt: skip
    page = line(folder, {"text_list": ["a"], "image_info": []})
    source = opened("interleaved", page, images=str(folder / "0.tar"), find="url")
    assert source.noted == {
        "members that are not read (.mp4)": 1, "pictures without an address beside them": 1,
        "pictures whose url came before (passed over)": 1,
    }  # fmt: skip
