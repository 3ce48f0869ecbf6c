"""What is no text in UTF-8, told by the first bytes of a file."""

from __future__ import annotations

from pathlib import Path

from lucida.core.errors import DataError


def refuse_other_encodings(start: bytes, path: Path) -> None:
    """Names what is no text, or text in another encoding, before it fails record by record."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(start) > 3 and start[1:4:2] == b"\0\0"):
        remedy = "convert the file to UTF-8"
        raise DataError("not UTF-8 (UTF-16 or UTF-32)", origin=path, remedy=remedy)
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")):
        remedy = "unpack it first"
        raise DataError("the data file is compressed", origin=path, remedy=remedy)
    if start.startswith(b"version https://git-lfs"):
        remedy = "run `git lfs pull` in its repository"
        raise DataError("this is a Git LFS pointer, not data", origin=path, remedy=remedy)
