"""MMC4 and OBELICS as they are published and downloaded: tables, shards, addresses."""

import json
import pickle
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_files
from tiny_files import tar

from lucida.core.errors import DataError
from lucida.data.sample import ImagePart

COLOURS = {"a": (255, 0, 0), "b": (0, 0, 255), "c": (0, 128, 0), "d": (9, 9, 9)}


def png(name):
    return tiny_files.png(COLOURS[name])


def address(name):
    return f"https://h.org/pictures/{name}?size=large"


opened = partial(tiny_files.opened, "interleaved")


def page_of(sample):
    """The parts of a page, each picture by its letter."""
    names = {colour: name for name, colour in COLOURS.items()}
    shown = [names[image.load().getpixel((0, 0))] for image in sample.images]
    return [
        shown[part.index] if isinstance(part, ImagePart) else part
        for part in sample.branches[0][0].parts
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))


def mmc4(folder, shard, names):
    """A file of documents as MMC4 publishes them, with the fields that nothing here reads."""
    infos = [
        {"face_detections": None, "image_name": f"{name}.png", "raw_url": address(name),
         "matched_text_index": number, "matched_sim": 0.25 + number / 100}
        for number, name in enumerate(names)
    ]  # fmt: skip
    record = {
        "url": "https://h.org/page",
        "text_list": [f"About {name}." for name in names],
        "image_info": infos,
        "similarity_matrix": [[0.2] * len(names)] * len(names),
        "could_have_url_duplicate": 0,
    }
    path = folder / f"docs_no_face_shard_{shard}_v2.jsonl"
    path.write_text(json.dumps(record) + "\n")
    return path


@pytest.mark.parametrize("store", ["folder", "tar", "dotted tar"])
def test_mmc4_with_pictures_by_shard(tmp_path, store):
    for shard, names in ((7, "ab"), (12, "cd")):
        mmc4(tmp_path, shard, names)
        held = {f"{name}.png": png(name) for name in names}
        if store == "folder":
            folder = tmp_path / "images" / str(shard)
            folder.mkdir(parents=True)
            for name, content in held.items():
                (folder / name).write_bytes(content)
        else:
            dotted = {("./" if "dotted" in store else "") + name: held[name] for name in held}
            tar(tmp_path / "images" / f"{shard}.tar", dotted)
    ending = "" if store == "folder" else ".tar"
    images = str(tmp_path / "images" / f"{{shard}}{ending}")
    source = opened(tmp_path / "docs_*.jsonl", images=images)
    # Files are read in the order of their names: shard 12 stands before shard 7.
    assert page_of(source[0]) == ["c", "About c.", "d", "About d."]
    assert page_of(pickle.loads(pickle.dumps(source))[1]) == ["a", "About a.", "b", "About b."]


def test_shards_need_their_number(tmp_path):
    path = mmc4(tmp_path, 7, "ab").rename(tmp_path / "docs.jsonl")
    with pytest.raises(DataError, match=r"no number in the name.*shard_NUMBER"):
        opened(path, images=str(tmp_path / "{shard}.tar"))
    with pytest.raises(DataError, match="does not exist"):
        opened(path, images=str(tmp_path / "nowhere"))


@pytest.fixture
def downloaded(tmp_path):
    """Two tars as img2dataset leaves them: numbered members, addresses in the JSON."""
    for number, names in enumerate(("ab", "c")):
        members = {}
        for place, name in enumerate(names):
            key = f"{number:05d}{place:04d}"
            told = json.dumps({"url": address(name), "key": key, "status": "success"}).encode()
            members |= {f"{key}.jpg": png(name), f"{key}.json": told, f"{key}.txt": b"alt"}
        tar(tmp_path / "tars" / f"{number:05d}.tar", members)
    return tmp_path


@pytest.mark.parametrize("images", ["tars", "tars/*.tar", "tars/{00000..00001}.tar"])
def test_pictures_are_found_by_their_address(downloaded, images):
    fields = {"images": str(downloaded / images), "find": "url"}
    source = opened(mmc4(downloaded, 0, "cab"), **fields)
    assert page_of(source[0]) == ["c", "About c.", "a", "About a.", "b", "About b."]
    source = opened(mmc4(downloaded, 1, "ad"), **fields)
    with pytest.raises(DataError, match=r"record 0.*no such member.*pictures/d"):
        source[0]
    kept, lost = opened(mmc4(downloaded, 1, "ad"), missing="drop", **fields).explained(0)
    assert page_of(kept) == ["a", "About a.", " About d."]
    assert lost == {"pictures that are missing": 1}


def obelics(folder, images, name="obelics/train-00000.parquet", many=1):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    rows = [
        {
            "images": [images[0], None, images[1], None],
            "texts": [None, "First.", None, f"Second {number}."],
            "metadata": json.dumps([{"alt_text": "x"}, None, {"alt_text": None}, None]),
            "general_metadata": json.dumps({"url": "https://h.org"}),
        }
        for number in range(many)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_obelics_parquet_with_addresses(downloaded):
    path = obelics(downloaded, [address("c"), address("a")], many=5)
    tars = str(downloaded / "tars")
    source = opened(path.parent, layout="obelics", images=tars, find="url")
    assert len(source) == 5
    assert page_of(source[4]) == ["c", "First.", "a", "Second 4."]
    assert page_of(pickle.loads(pickle.dumps(source))[0]) == ["c", "First.", "a", "Second 0."]
    assert "row 0 of row group 2" in source[4].origin


@pytest.mark.parametrize("struct", [True, False])
def test_obelics_parquet_with_bytes(tmp_path, struct):
    held = [{"bytes": png(n), "path": None} if struct else png(n) for n in "ab"]
    path = obelics(tmp_path, held)
    assert page_of(opened(path, layout="obelics")[0]) == ["a", "First.", "b", "Second 0."]
    sample, lost = opened(path, layout="obelics", min_bytes=10**6).explained(0)
    assert page_of(sample) == ["First.\n\nSecond 0."]
    assert lost == {"pictures below 1000000 bytes": 2}


def test_addresses_without_tars_are_missing_and_say_so(tmp_path):
    path = obelics(tmp_path, [address("a"), address("b")])
    with pytest.raises(DataError, match=r"the image is an address.*h\.org"):
        opened(path, layout="obelics")[0]
    sample, lost = opened(path, layout="obelics", missing="drop").explained(0)
    assert page_of(sample) == ["First.\n\nSecond 0."]
    assert lost == {"pictures that are missing": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"images": ["a", None], "texts": ["x"]}, "differ in length"),
        ({"images": None, "texts": ["x"]}, "bad `images`"),
        ({"texts": ["x"]}, "bad `images`"),
        ({"images": [7], "texts": ["x"]}, "bad `image_name`"),
        ({"images": [None], "texts": ["  "]}, "no text is left"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(DataError, match=message) as caught:
        opened(path, layout="obelics")[0]
    assert "row 0" in str(caught.value)


def test_tars_without_pictures_are_said(tmp_path):
    path = mmc4(tmp_path, 0, "a")
    held = tar(tmp_path / "tars" / "0.tar", {"x.jpg": png("a"), "x.json": b"{}"})
    with pytest.raises(DataError, match="no pictures in the tar files"):
        opened(path, images=str(held), find="url")
    held = tar(tmp_path / "tars" / "0.tar", {"x.jpg": png("a"), "x.json": b"{"})
    with pytest.raises(DataError, match=r"x\.json: broken JSON"):
        opened(path, images=str(held), find="url")
