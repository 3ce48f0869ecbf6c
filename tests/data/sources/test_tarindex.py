"""Tars are read as Python's library reads them, whatever wrote them; damage is refused."""

import io
import tarfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import DataError
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5 * 1024), st.integers(1, 255), formats)
def test_a_damaged_byte_is_an_error_or_changes_nothing(tmp_path_factory, place, flip, layout):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write(path, [(f"{n}.jpg", 600, 1.7e9 + n / 3, tarfile.REGTYPE) for n in range(3)], layout)
    content = bytearray(path.read_bytes())
    content[place] ^= flip
    path.write_bytes(content)
    try:
        found = members(path)
    except DataError:
        return
    assert found == by_library(path) and len(found) == 3


def header(name, size, kind=b"0"):
    """A header whose checksum is right, whatever its size."""
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[156:157] = kind
    if isinstance(size, bytes):
        block[124:136] = size
    else:
        block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def below_zero(many):
    return b"\xff" + (many & ((1 << 88) - 1)).to_bytes(11, "big")


ENDLESS = {
    "size below zero": header("b.jpg", below_zero(-512)),
    "back to the start": header("b.jpg", below_zero(-1536)),
    "huge size": header("b.jpg", b"\x80" + b"\x7f" * 11),
    "size that is no number": header("b.jpg", b"12x45678901\0"),
    "pax size below zero": header("p", 13, b"x") + b"13 size=-512\n".ljust(512, b"\0"),
    "pax header below zero": header("p", below_zero(-512), b"x"),
    "long name below zero": header("p", below_zero(-512), b"L"),
    "huge long name": header("p", 1 << 30, b"L"),
    "pax record without length": header("p", 9, b"x") + b"0 size=5\n".ljust(512, b"\0"),
    "pax record beyond": header("p", 9, b"x") + b"99 size=5\n".ljust(512, b"\0"),
    "sparse map to the end": header("s", 512, b"S")[:482] + b"\1" + bytes(29),
}


@pytest.mark.parametrize("damage", ENDLESS)
def test_headers_that_lead_nowhere_are_refused(tmp_path, damage):
    path = tmp_path / "a.tar"
    first = header("a.jpg", 4) + b"abcd".ljust(512, b"\0")
    more = header("b.jpg", 0) if "pax size" in damage else b""
    path.write_bytes(first + ENDLESS[damage] + more + bytes(1024))
    with pytest.raises(DataError, match="cannot read the tar file behind the member"):
        members(path)


def test_a_hole_of_zeros_is_no_end(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [(f"{n}.jpg", 600, 0, tarfile.REGTYPE) for n in range(4)], tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    step = 512 + 1024
    for begin, end in ((step, step + 512), (step, 3 * step), (step + 700, 2 * step + 512)):
        path.write_bytes(whole[:begin] + bytes(end - begin) + whole[end:])
        with pytest.raises(DataError, match="cannot read the tar file"):
            members(path)
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match="joined"):
        members(path)
    path.write_bytes(whole[: 4 * step] + bytes(512))
    with pytest.raises(DataError, match="two blocks of zeros"):
        members(path)
    path.write_bytes(whole + bytes(2 << 20))
    with pytest.raises(DataError, match="allocated"):
        members(path)


def test_links_devices_and_sparse_files_are_counted(tmp_path):
    path = tmp_path / "a.tar"
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    with tarfile.open(path, "w") as tar:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "elsewhere"
            tar.addfile(info)
    passed = Counter()
    with path.open("rb") as stream:
        found = list(stream_members(stream, path.stat().st_size, path, passed))
    assert [name for name, _, _ in found] == ["0.jpg"]
    assert passed == {"symbolic links": 1, "hard links": 1, "pipes": 1}


def test_a_cut_shard_is_named(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [("a.jpg", 600, 0, tarfile.REGTYPE), ("b.jpg", 600, 0, tarfile.REGTYPE)], 0)
    content = path.read_bytes()
    for end in (300, 700, 1536, 1800, 2300, 3072):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match="cannot read the tar file"):
            members(path)
