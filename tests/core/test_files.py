"""Nothing half-written is ever left looking whole, and disk trouble is said in words."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lucida.core import files
from lucida.core.errors import DataError, RunError
from lucida.core.files import (
    ASIDE,
    atomic_folder,
    atomic_write,
    disk_errors,
    make_folder,
    remove_unfinished,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "below" / "a.txt"
    atomic_write(path, "one")
    atomic_write(path, b"two")
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_disk_that_is_really_full_is_recognised():
    with (
        pytest.raises(RunError, match="the disk is full"),
        disk_errors("/dev/full"),
        Path("/dev/full").open("w") as file,
    ):
        file.write("x")


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as aside:
        (aside / "deep").mkdir()
        (aside / "deep" / "weights").write_bytes(b"1")
        assert not path.exists()
    assert (path / "deep" / "weights").read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as aside:
        (aside / "other").write_bytes(b"2")
        raise ZeroDivisionError
    assert names(tmp_path) == ["model"]
    assert names(path) == ["deep"]


def test_a_folder_replaces_the_old_one(tmp_path):
    path = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_folder(path) as aside:
            (aside / text).write_text(text)
    assert names(path) == ["two"]
    assert names(tmp_path) == ["model"]


def test_a_library_that_wraps_the_full_disk_is_understood(tmp_path):
    class SafetensorError(Exception):
        pass

    with pytest.raises(RunError, match="the disk is full"), atomic_folder(tmp_path / "model"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert names(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(DataError, match="no space left on device"), disk_errors(tmp_path):
        raise DataError("a caption says: no space left on device")
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("x")


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    for act in (make_folder, lambda path: atomic_write(path, "x")):
        with pytest.raises(RunError, match="a file of this name is in the way"):
            act(tmp_path / "runs" / "mini")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="choose a folder that you may write to"):
        make_folder(tmp_path / "runs")


def test_no_permission_is_said_with_the_remedy(tmp_path):
    with pytest.raises(RunError, match="choose a folder that you may write to"), disk_errors("x"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))


def test_leftovers_are_removed_and_a_cut_short_replacement_undone(tmp_path):
    (tmp_path / f".model{ASIDE}1-a").mkdir()
    old = tmp_path / f".model{ASIDE}1-a.old"
    old.mkdir()
    (old / "weights").write_text("whole")
    (tmp_path / f".a.txt{ASIDE}2-b").write_text("half")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "whole"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_writer_leaves_a_whole_folder(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from lucida.core.files import atomic_folder
        for count in range(10_000):
            with atomic_folder(Path(sys.argv[1]) / "model") as aside:
                for name in "abc":
                    (aside / name).write_text(f"{count}" * 1000)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "model").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.137)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["model"]
    contents = {path.read_text() for path in (tmp_path / "model").iterdir()}
    assert names(tmp_path / "model") == ["a", "b", "c"]
    assert len(contents) == 1
