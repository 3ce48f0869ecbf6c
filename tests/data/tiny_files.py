"""Small pictures and tars, and sources opened as a recipe names them."""

import io
import tarfile

from PIL import Image
from pydantic import TypeAdapter

from lucida.core.spec import SourceSpec
from lucida.data.sources import open_source


def png(colour="red", size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, members):
    """A tar with these contents by name; its path."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def opened(kind, path, skip=False, **fields):
    spec = TypeAdapter(SourceSpec).validate_python({"kind": kind, "path": str(path), **fields})
    return open_source(spec, skip)
