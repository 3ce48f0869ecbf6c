"""A file that takes the place of another with the same size and time is noticed."""

import json
import os
import zipfile

import pytest
from tiny_files import opened, png, tar

from lucida.data.sources import sidecar


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sidecar, "SMALLEST", 0)
    return tmp_path


def replace(path, make):
    """Writes the file anew, with the size and the modification time of the old one."""
    old = path.stat()
    aside = path.with_name(f"aside{path.suffix}")
    make(aside)
    assert aside.stat().st_size == old.st_size
    os.utime(aside, ns=(old.st_atime_ns, old.st_mtime_ns))
    aside.replace(path)
    assert path.stat().st_mtime_ns == old.st_mtime_ns


def said(source):
    return [source[number].branches[0][0].parts for number in range(len(source))]


def lines(*documents):
    return "".join(json.dumps({"text": text}) + "\n" for text in documents)


def test_lines(folder):
    path = folder / "data.jsonl"
    path.write_text(lines("a", "bcdef"))
    assert said(opened("text", path)) == [("a",), ("bcdef",)]
    assert list((folder / "cache" / "records").glob("*.npy"))
    replace(path, lambda aside: aside.write_text(lines("abcde", "f")))
    assert said(opened("text", path)) == [("abcde",), ("f",)]


def test_zip_archives(folder):
    def pack(text):
        def write(path):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(zipfile.ZipInfo("data.jsonl"), text)

        return write

    path = folder / "data.jsonl.zip"
    pack(lines("a", "bcdef"))(path)
    assert said(opened("text", path)) == [("a",), ("bcdef",)]
    replace(path, pack(lines("abcde", "f")))
    assert said(opened("text", path)) == [("abcde",), ("f",)]


def test_shards(folder):
    def pack(caption, colour):
        members = {"0.txt": caption.encode(), "0.png": png(colour)}
        return lambda path: tar(path, members)

    path = folder / "0.tar"
    pack("A kite.", "#ff0000")(path)
    first = opened("webdataset", path)[0]
    replace(path, pack("A boat.", "#0000ff"))
    second = opened("webdataset", path)[0]
    assert second.branches[0][0].parts[1] == "A boat."
    assert first.images[0].key != second.images[0].key
