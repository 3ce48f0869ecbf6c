"""Shards over HTTP and fsspec: the same samples as from disk, whatever the network does."""

import contextlib
import pickle
import threading
import time
from collections import Counter
from functools import partial

import pytest
import tiny_files
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import Server, write_shard  # by the conftest of tests/data

from lucida.core.errors import DataError, RunError
from lucida.data.mixture import Mixture
from lucida.data.sources import remote
from lucida.data.sources.remote import Remote, expand_braces

opened = partial(tiny_files.opened, "webdataset")


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were slept, without sleeping them; time goes on by them."""
    slept = []
    clock = time.monotonic
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    monkeypatch.setattr(remote.time, "monotonic", lambda: clock() + sum(slept))
    return slept


@pytest.fixture
def web(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "web"
    folder.mkdir()
    for shard in range(3):
        write_shard(folder / f"{shard:05d}.tar", 4 * shard, 4)
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def seen(source):
    """Text and pixels of every record."""
    return [
        (sample.branches[0][-1].parts[-1], sample.images[0].load().tobytes())
        for sample in (source[n] for n in range(len(source)))
    ]


def local(web, **fields):
    return seen(opened(web.folder / "*.tar", **fields))


def address(web, name="{00000..00002}.tar"):
    return f"{web.address}/{name}"


def test_samples_are_those_of_the_disk(web):
    source = opened(address(web))
    assert seen(source) == local(web)
    assert f"{web.address}/00001.tar: sample 3" in source[7].origin
    assert seen(pickle.loads(pickle.dumps(source))) == local(web)


def test_a_sample_is_one_request_and_a_second_look_is_none(web):
    source = opened(address(web))
    web.asked.clear()
    sample = source[5]
    assert len(web.asked) == 1
    assert sample.images[0].measure() == (32, 24)
    sample.images[0].load()
    assert len(web.asked) == 1


def test_filters_are_the_same_and_read_in_the_first_pass(web):
    fields = {"at_least": {"a+b": 0.8}, "rank_by": "a", "top_share": 0.5, "caption": "caption"}
    source = opened(address(web), **fields)
    assert seen(source) == local(web, **fields)
    assert source.dropped == opened(web.folder / "*.tar", **fields).dropped
    assert sum(source.dropped.values()) + len(source) == 12
    assert opened(address(web), min_bytes=10**6, **fields).dropped == {
        "picture below 1000000 bytes": 12
    }


def test_the_first_pass_is_made_once(web, monkeypatch):
    opened(address(web))
    web.asked.clear()
    opened(address(web))
    # Only what names the version is asked again: one byte of each shard.
    assert sorted(web.asked) == [(f"/0000{n}.tar", "bytes=0-0") for n in range(3)]


def test_a_stopped_pass_goes_on_with_the_shards_that_it_lacks(web):
    good = (web.folder / "00002.tar").read_bytes()
    (web.folder / "00002.tar").write_bytes(good[:700])
    with pytest.raises(DataError, match=r"00002.tar"):
        opened(address(web))
    (web.folder / "00002.tar").write_bytes(good)
    web.asked.clear()
    assert seen(opened(address(web))) == local(web)
    walked = {path for path, asked in web.asked if asked and asked.startswith("bytes=0-")
              and asked != "bytes=0-0"}  # fmt: skip
    assert walked == {"/00002.tar"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_recovers_is_waited_for(web, pauses, status):
    source = opened(address(web))
    web.trouble = [status] * 3
    assert source[0].branches == opened(web.folder / "*.tar")[0].branches
    assert len(pauses) == 3
    assert pauses[0] <= (7 if status == 429 else 0.5)
    assert status != 429 or min(pauses) == 7  # the server asked for seven seconds


def test_patience_ends(web, pauses):
    source = opened(address(web))
    web.trouble = [503] * 10_000
    with pytest.raises(RunError, match=r"00000\.tar: .*tried for 300 seconds.*503"):
        source[0]
    assert 150 < sum(pauses) <= 300
    assert max(pauses) <= 30


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_server_that_refuses_is_named_at_once(web, pauses, status):
    web.trouble = [status] * 9
    with pytest.raises(RunError, match=rf"0000\d\.tar.*answers {status}") as caught:
        opened(address(web) + "?signature=secret")
    assert "secret" not in str(caught.value)
    assert pauses == []
    web.trouble = []
    source = opened(address(web, "00001.tar"))
    web.trouble = [status]
    with pytest.raises(RunError, match=rf"answers {status}"):
        source[0]


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_cut_connections_go_on_where_they_broke(cuts):
    with pytest.MonkeyPatch.context() as patch:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            patch.setenv("LUCIDA_CACHE", f"{folder}/cache")
            patch.setenv("no_proxy", "127.0.0.1")
            patch.setattr(remote.time, "sleep", lambda _: None)
            write_shard(Path(folder, "0.tar"), 0, 4)
            server = Server(Path(folder))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            try:
                server.trouble = [None, *((cut,) for cut in cuts)]
                source = opened(f"{server.address}/0.tar")
                assert seen(source) == seen(opened(Path(folder, "0.tar")))
            finally:
                server.shutdown()
                server.server_close()


def test_after_a_cut_only_what_is_missing_is_asked(web, pauses):
    whole = Remote(address(web, "00000.tar"))
    web.asked.clear()
    web.trouble = [(5000,), (3000,)]
    content = b"".join(whole.stream())
    assert content == (web.folder / "00000.tar").read_bytes()
    begins = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in web.asked]
    assert begins == [0, 5000, 8000]


def test_a_file_that_changes_is_not_read_on(web):
    source = opened(address(web))
    web.version = "v2"
    with pytest.raises(RunError, match="has changed"):
        source[0]
    assert seen(opened(address(web))) == local(web)  # a new run looks through it again


def test_copies_are_whole_local_and_carried_on(web, tmp_path, pauses):
    folder = tmp_path / "copies"
    source = opened(address(web), keep=str(folder))
    assert seen(source) == local(web)
    assert sorted(p.name[:5] for p in folder.glob("*.tar")) == ["00000", "00001", "00002"]
    web.asked.clear()
    again = opened(address(web), keep=str(folder))
    assert seen(again) == local(web)
    assert {asked for _, asked in web.asked} == {"bytes=0-0"}
    assert seen(opened(folder)) == local(web)
    # One that broke off goes on: the part is what is there.
    (copy,) = folder.glob("00001*.tar")
    content = copy.read_bytes()
    copy.rename(copy.with_name(f"{copy.name}.part")).write_bytes(content[:3000])
    web.asked.clear()
    opened(address(web), keep=str(folder))
    assert copy.read_bytes() == content
    assert ("/00001.tar", f"bytes=3000-{len(content) - 1}") in web.asked


def test_a_server_without_ranges_serves_copies_only(web, tmp_path, pauses):
    web.ranges = False
    with pytest.raises(RunError, match=r"only gives whole files.*keep"):
        opened(address(web))[0]
    web.trouble = [None, None, None, (4000,), None, (9000,)]
    assert seen(opened(address(web), keep=str(tmp_path / "copies"))) == local(web)


def test_redirects_and_proxies(web, monkeypatch):
    assert seen(opened(f"{web.address}/moved/{{00000..00002}}.tar")) == local(web)
    monkeypatch.setenv("http_proxy", web.address)
    assert seen(opened("http://elsewhere.invalid/{00000..00002}.tar")) == local(web)
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    monkeypatch.setattr(remote, "PATIENCE", 0.1)
    with pytest.raises(RunError, match=r"elsewhere\.invalid"):
        opened("http://elsewhere.invalid/0.tar")


def test_a_connection_that_the_server_closed_is_made_anew(web, pauses):
    source = opened(address(web))
    source[0]
    for connection in web.connections:
        with contextlib.suppress(OSError):
            connection.shutdown(2)
    source[5]
    assert pauses == []


def test_threads_read_side_by_side(web):
    from concurrent.futures import ThreadPoolExecutor

    source, wanted = opened(address(web)), local(web)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: source[n % 12].images[0].load().tobytes(), range(96)))
    assert found == [wanted[n % 12][1] for n in range(96)]


def test_a_mixture_resumes_in_the_middle_without_reading_the_past(web):
    source = opened(address(web))
    mixture = Mixture({"web": source}, {"web": 1.0}, seed=3)
    stream = [mixture.draw(n).index for n in range(40)]
    assert Counter(stream[:12]) == Counter(range(12))
    wanted = [source[index].branches for index in stream[20:]]
    web.asked.clear()
    again = Mixture({"web": opened(address(web))}, {"web": 1.0}, seed=3)
    assert [again.sources["web"][again.draw(n).index].branches for n in range(20, 40)] == wanted
    # One request for each shard's version, and one for each of at most twelve samples.
    assert len(web.asked) <= 3 + 12


def test_ranks_begin_with_their_own_shards(web, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("lucida.data.sources.shards.AT_ONCE", 1)
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LUCIDA_CACHE", str(web.folder.parent / f"cache{rank}"))
        web.asked.clear()
        assert seen(opened(address(web))) == local(web)
        order = [path for path, asked in web.asked if asked == "bytes=0-0"]
        assert order == [f"/0000{(rank + n) % 3}.tar" for n in range(3)]


def test_another_store_through_fsspec(web, pauses):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for file in web.folder.glob("*.tar"):
        store.pipe_file(f"/shards/{file.name}", file.read_bytes())
    try:
        source = opened("memory://shards/{00000..00002}.tar")
        assert seen(source) == local(web)
        with pytest.raises(RunError, match=r"FileNotFoundError.*00009"):
            opened("memory://shards/00009.tar")
        with pytest.raises(RunError, match="nosuch"):
            opened("nosuch://shards/00009.tar")
    finally:
        store.rm("/shards", recursive=True)


def test_what_is_no_tar_is_said_with_its_address(web):
    (web.folder / "page.tar").write_text("<html>log in</html>" * 100)
    with pytest.raises(DataError, match=r"page\.tar: cannot read the tar file"):
        opened(address(web, "page.tar"))
    (web.folder / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.tar"):
        opened(address(web, "empty.tar"))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


def test_braces_name_local_shards_too(web):
    source = opened(web.folder / "{00001..00002}.tar")
    assert len(source) == 8
    assert source[0].branches[0][0].parts[1] == "caption 4"
    with pytest.raises(DataError, match=r"cannot read|no file"):
        opened(web.folder / "{00001..00004}.tar")
