"""Records in zip archives: the same as in the file that was packed, and damage is said."""

import json
import os
import random
import zipfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_files import opened, png

from lucida.core.errors import DataError
from lucida.data.sources import zipped
from lucida.data.sources.records import Records
from lucida.data.sources.zipped import line_places_of_zip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))


def packed(path, content, name="docs.jsonl", how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr(name, content)
    return path


def lines(many, seed=0):
    draws = random.Random(seed)
    return [json.dumps({"n": n, "text": draws.randbytes(draws.randrange(900)).hex()}) for n in
            range(many)]  # fmt: skip


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_record_at_any_time(tmp_path, monkeypatch, how):
    monkeypatch.setattr(zipped, "APART", 5000)
    monkeypatch.setattr(zipped, "PACKED", 700)
    written = lines(300)
    path = packed(tmp_path / "docs_shard_7_v2.jsonl.zip", "\n".join(written), how=how)
    records = Records([path])
    assert len(records) == 300
    for number in random.Random(1).sample(range(300), 300):
        value, origin = records.value(number)
        assert value == json.loads(written[number])
        assert origin == f"{path}: record {number} (line {number + 1})"
    if how == zipfile.ZIP_DEFLATED:
        assert max(map(len, zipped._states.values())) > 30


def test_states_of_few_archives_are_held_and_new_content_is_met(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "HELD", 2)
    paths = [packed(tmp_path / f"{n}.jsonl.zip", f'{{"n": {n}}}\n') for n in range(5)]
    records = Records(paths)
    assert [records.value(n)[0]["n"] for n in (0, 1, 2, 3, 4, 0, 2)] == [0, 1, 2, 3, 4, 0, 2]
    assert len(zipped._states) == 2
    packed(paths[0], '{"n": 77, "more": 1}\n')
    os.utime(paths[0], ns=(1, 1))
    assert Records(paths).value(0)[0]["n"] == 77


@settings(max_examples=30, deadline=None)
@example([b"\0"])  # a mark of UTF-8 says what the zero byte of a text without one would not
@given(st.lists(st.binary(max_size=30).filter(lambda line: b"[" not in line), max_size=12))
def test_places_are_those_of_the_plain_file(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("zip")
    content = b"\xef\xbb\xbf" + b"\n".join(parts)
    plain = [line for line in content[3:].split(b"\n") if line.strip()]
    places = line_places_of_zip(packed(folder / "a.zip", content))
    assert [content[begin:end] for begin, end, _ in places] == plain
    numbers = [n for n, line in enumerate(content[3:].split(b"\n"), 1) if line.strip()]
    assert places[:, 2].tolist() == numbers


def test_pages_of_mmc4_as_they_are_published(tmp_path):
    for shard in (0, 12):
        folder = tmp_path / "images" / str(shard)
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png())
        info = {"image_name": "a.png", "matched_text_index": 1, "matched_sim": 0.3}
        page = {"text_list": [f"shard {shard}.", "A kite."], "image_info": [info]}
        packed(
            tmp_path / f"docs_no_face_shard_{shard}_v2.jsonl.zip", json.dumps(page),
            f"docs_no_face_shard_{shard}_v2.jsonl",
        )  # fmt: skip
    images = str(tmp_path / "images" / "{shard}")
    source = opened("interleaved", tmp_path / "docs_*.jsonl.zip", images=images)
    assert [sample.branches[0][0].parts[0] for sample in source] == ["shard 0.", "shard 12."]
    assert source[1].images[0].load().size == (6, 4)
    assert not list(tmp_path.rglob("*.jsonl"))  # nothing was extracted


def test_zipped_text_is_read_by_the_name_inside_the_name(tmp_path):
    instruction = '{"instruction": "Say it.", "output": "It."}'
    source = opened("text", packed(tmp_path / "a.jsonl.zip", instruction))
    assert source[0].branches[0][1].parts == ("It.",)
    source = opened("text", packed(tmp_path / "b.txt.zip", "one\n\ntwo\r\n"))
    assert [sample.branches[0][0].parts for sample in source] == [("one",), ("two",)]


def test_what_is_wrong_with_an_archive(tmp_path):
    def told(path, match, **more):
        with pytest.raises(DataError, match=match) as caught:
            Records([path], **more)
        assert str(path) in str(caught.value)

    path = tmp_path / "a.zip"
    path.write_bytes(b"no archive")
    told(path, "cannot read the zip")
    path.write_bytes(b"")
    told(path, "cannot read the zip")
    packed(path, "[1, 2]")
    told(path, "JSON array in a zip")
    packed(path, "")
    told(path, "no records")
    packed(path, "{}", how=zipfile.ZIP_BZIP2)
    told(path, "packed in a way")
    packed(path, "a,b\n")
    told(path, "zipped CSV", delimiter=",")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("b", "x")
    told(path, "holds one text file")
    whole = packed(path, "\n".join(lines(50))).read_bytes()
    path.write_bytes(whole[:-30])
    told(path, "cannot read the zip")
    damaged = bytearray(whole)
    damaged[5000:5100] = bytes(100)
    path.write_bytes(damaged)
    told(path, "cannot read the zip")


def test_a_line_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "LONGEST", 1000)
    with pytest.raises(DataError, match="too long"):
        Records([packed(tmp_path / "a.zip", "{}\n" + "0" * 100_000)])


def test_an_archive_that_changes_under_a_run_is_an_error_of_its_record(tmp_path):
    path = packed(tmp_path / "a.jsonl.zip", "\n".join(lines(50)))
    records = Records([path])
    packed(path, "{}")
    with pytest.raises(DataError, match="cut short"):
        records.value(40)
    path.write_bytes(b"gone")
    with pytest.raises(DataError, match="cannot read the zip"):
        records.value(0)


def test_archives_that_were_joined_are_refused(tmp_path):
    one = packed(tmp_path / "one.zip", '{"n": 1}\n').read_bytes()
    two = packed(tmp_path / "two.zip", '{"n": 2}\n').read_bytes()
    for number, content in enumerate((one + two, one + two[:-30], one + b"more", b"#!sh\n" + one)):
        path = tmp_path / f"{number}.jsonl.zip"
        path.write_bytes(content)
        with pytest.raises(DataError, match="before its first member or behind its end"):
            Records([path])
    path = packed(tmp_path / "told.jsonl.zip", '{"n": 1}\n')
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment of the archive"
    assert Records([path]).value(0)[0] == {"n": 1}
