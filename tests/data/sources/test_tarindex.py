"""The fast way through a tar gives what Python's library gives, whatever wrote it."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.data.sources import tarindex
from lucida.data.sources.tarindex import stream_members

names = st.text(st.sampled_from("ab/é.1"), min_size=1, max_size=30).filter(
    lambda name: not name.startswith("/") and "//" not in name
)
entries = st.lists(
    st.tuples(
        names | st.just("x/" * 60 + "long.jpg"),
        st.integers(0, 1500),
        st.sampled_from([0, 1.7e9, 1.7e9 + 0.25]),
        st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
    ),
    max_size=8,
)
formats = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def members(path):
    with path.open("rb") as stream:
        return list(stream_members(stream, path.stat().st_size, path))


def by_library(path):
    with tarfile.open(path) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


def write(path, listed, layout):
    with tarfile.open(path, "w", format=layout) as tar:
        for name, size, time, kind in listed:
            header = tarfile.TarInfo(name)
            header.type, header.mtime = kind, time
            header.size = size if kind == tarfile.REGTYPE else 0
            header.linkname = "elsewhere" if kind == tarfile.SYMTYPE else ""
            tar.addfile(header, io.BytesIO(b"z" * header.size))


@settings(max_examples=80, deadline=None)
@given(entries, formats)
def test_members_are_those_of_the_library(tmp_path_factory, listed, layout):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    try:
        write(path, listed, layout)
    except ValueError:  # this format cannot hold such a name
        return
    assert members(path) == by_library(path)


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_ordinary_shards_never_reach_the_library(tmp_path, monkeypatch, layout):
    path = tmp_path / "a.tar"
    write(path, [(f"{n}.jpg", 700, 1.7e9 + n / 3, tarfile.REGTYPE) for n in range(5)], layout)
    expected = by_library(path)
    with path.open("rb") as stream:
        assert list(tarindex.plain_members(stream, path.stat().st_size)) == expected
    assert len(expected) == 5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5 * 1024), st.integers(1, 255), formats)
def test_a_damaged_byte_gives_the_same_as_the_library_alone(tmp_path_factory, place, flip, layout):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write(path, [(f"{n}.jpg", 600, 1.7e9 + n / 3, tarfile.REGTYPE) for n in range(3)], layout)
    content = bytearray(path.read_bytes())
    content[place] ^= flip
    path.write_bytes(content)

    def found():
        try:
            return members(path)
        except DataError as error:
            return str(error)

    fast = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarindex, "plain_members", lambda stream, size: iter(()))
        assert fast == found()


def test_a_cut_shard_is_named(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [("a.jpg", 600, 0, tarfile.REGTYPE), ("b.jpg", 600, 0, tarfile.REGTYPE)], 0)
    content = path.read_bytes()
    for end in (300, 700, 1536, 1800, 2300, 3072):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match="cannot read the tar file"):
            members(path)
