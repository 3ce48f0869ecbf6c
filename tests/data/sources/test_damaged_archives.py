"""Damaged tars and tables, and nothing at all where data should be."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import ends, noise, webdataset

from lucida.core.errors import DataError
from lucida.data.sources.interleaved import InterleavedSource
from lucida.data.sources.llava import LlavaSource
from lucida.data.sources.messages import MessagesSource
from lucida.data.sources.pairs import FolderSource, PairsSource
from lucida.data.sources.parquet import ParquetSource
from lucida.data.sources.text import TextSource
from lucida.data.sources.webdataset import WebdatasetSource

SAMPLES = {
    "no picture": ({"txt": b"x"}, "without picture"),
    "no caption": ({"jpg": noise("JPEG")}, "without txt"),
    "empty caption": ({"jpg": noise("JPEG"), "txt": b" "}, "empty"),
    "latin-1 caption": ({"jpg": noise("JPEG"), "txt": b"\xe9"}, "UTF-8"),
    "nothing": ({"cls": b"1"}, "no samples"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_tar_samples(tmp_path, name):
    members, outcome = SAMPLES[name]
    path = webdataset(tmp_path, **members)
    ends(outcome, lambda: WebdatasetSource(path))


@pytest.mark.parametrize("told", [b"{", b"[1]", b"{}", b'{"s": "x"}', b'{"s": true}'])
def test_tar_numbers(tmp_path, told):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x", json=told)
    with pytest.raises(DataError, match="sample 0"):
        WebdatasetSource(path, at_least={"s": 1})


@pytest.mark.parametrize("tenth", range(10))
def test_cut_tars(tmp_path, tenth):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x", json=b"{}" * 2000)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: len(content) * tenth // 10])
    ends("tar file", lambda: WebdatasetSource(path))


def test_a_tar_with_a_damaged_header_is_not_taken_for_its_end(tmp_path):
    path = webdataset(tmp_path, jpg=noise("JPEG"), txt=b"x")
    content = bytearray(path.read_bytes())
    place = content.index(b"000.txt")
    content[place : place + 200] = b"?" * 200
    path.write_bytes(content)
    ends("a damaged header", lambda: WebdatasetSource(path))


def test_links_in_a_tar_are_never_followed(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        text = tarfile.TarInfo("000.txt")
        text.size = 1
        archive.addfile(text, io.BytesIO(b"x"))
    ends("without picture", lambda: WebdatasetSource(path))


ROWS = {
    "no text": ({"image": [b"x"]}, "no column with text"),
    "text is a number": ({"image": [noise("PNG")], "text": [7]}, "bad `text`"),
    "texts is text": ({"images": [[]], "texts": ["q"]}, "bad `texts`"),
    "texts are texts": ({"images": [[]], "texts": [["q"]]}, "bad `texts`"),
    "texts are empty": ({"images": [[]], "texts": [[{"user": "", "assistant": ""}]]}, "empty"),
    "no texts": ({"texts": pa.array([[]], pa.list_(pa.string()))}, "bad `texts`"),
    "null answer": ({"texts": [[{"user": "q", "assistant": None}]]}, "bad `assistant`"),
    "path only": ({"image": [{"bytes": None, "path": "a.png"}], "text": ["x"]}, "not in the file"),
    "path": ({"image": ["a.png"], "text": ["x"]}, "kind=pairs"),
    "number": ({"image": [7], "text": ["x"]}, "bad images"),
    "no image": ({"text": ["x"]}, "no pair"),
    "messages": ({"messages": ["x"]}, "no messages"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(tmp_path, name):
    columns, outcome = ROWS[name]
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    message = ends(outcome, lambda: ParquetSource(tmp_path / "data.parquet"))
    assert "row 0" in message


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("tenth", range(10))
def test_cut_tables(tmp_path, ending, tenth):
    path = tmp_path / f"data.{ending}"
    table = pa.table({"text": [str(n) * 50 for n in range(200)]})
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    ends("cannot read the table", lambda: ParquetSource(path))


@pytest.mark.parametrize(
    "make",
    [LlavaSource, MessagesSource, PairsSource, FolderSource, TextSource, ParquetSource,
     WebdatasetSource, InterleavedSource],
)  # fmt: skip
@pytest.mark.parametrize("name", ["none.json", "none/*.tar", "none"])
def test_nothing_there(tmp_path, make, name):
    with pytest.raises(DataError, match="none"):
        make(tmp_path / name)
