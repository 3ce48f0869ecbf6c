"""Pictures that records name: in a folder that they must not leave, or as bytes.

"coco/7.jpg" + folder ─checked─▶ ImageSource      bytes, tar member ─▶ ImageSource
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from lucida.core.errors import DataError
from lucida.data.encoded import encoded_source, is_address, looks_encoded
from lucida.data.images import bytes_source, file_source
from lucida.data.sample import ImageSource

__all__ = [
    "ENDINGS", "PictureFolder", "bytes_source", "encoded_source", "file_source", "pictures_beside"
]  # fmt: skip

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class PictureFolder:
    """Pictures below `root`. A path that leaves it, by name or by a symbolic link, is refused
    unless `allow_outside`; a picture that is missing raises `DataError` with the record."""

    def __init__(self, root: Path, allow_outside: bool = False) -> None:
        if not root.is_dir():
            remedy = "set `images` of the source"
            raise DataError("the image folder does not exist", origin=root, remedy=remedy)
        self.root, self.allow_outside = root, allow_outside
        self._resolved = root.resolve()

    def picture(self, name: str, origin: str) -> ImageSource:
        """The picture of that name; it is looked at but not read."""
        if is_address(name) or looks_encoded(name):
            return encoded_source(name, origin)
        return file_source(self.path(name, origin), record=origin)

    def path(self, name: str, origin: str) -> Path:
        """Where a file of that name stands. DataError: it is no name, or leaves the folder."""
        if not name or "\0" in name or any("\ud800" <= sign <= "\udfff" for sign in name):
            remedy = "write the path of a picture, or drop the record"
            raise DataError("bad image path", given=repr(name), origin=origin, remedy=remedy)
        if name[:8].lower().startswith(("http://", "https://")):
            remedy = "download it and write its path; nothing is fetched while training"
            raise DataError("the image is an address", given=name, origin=origin, remedy=remedy)
        path = self.root / name
        if not self.allow_outside and self._leaves(name, path):
            raise DataError(
                "the image path leaves the image folder",
                expected=f"a path below {self.root}",
                given=name,
                origin=origin,
                remedy="write paths relative to `images` of the source, without .. and links to "
                "elsewhere, or set `allow_outside`",
            )
        return path

    def _leaves(self, name: str, path: Path) -> bool:
        written = PureWindowsPath(name)
        if PurePosixPath(name).is_absolute() or written.drive or written.root:
            return True
        if ".." in written.parts:
            return True
        try:
            return not path.resolve().is_relative_to(self._resolved)
        except (OSError, RuntimeError):  # a link to itself: opening it says so
            return False


def pictures_beside(
    files: list[Path], images: str | Path | None, allow_outside: bool
) -> PictureFolder:
    """The pictures that records of `files` name: below `images`, or beside the first file."""
    return PictureFolder(files[0].parent if images is None else Path(images), allow_outside)
