"""Files as a publisher's layout has them, with pictures of one colour."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image


def write(root: Path, path: str, content: object) -> Path:
    """A file below the root: bytes, text, or anything else as JSON."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_text(text, encoding="utf-8")
    return file


def lines(*values: object) -> str:
    """Records as JSONL."""
    return "".join(json.dumps(value) + "\n" for value in values)


def png(colour: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    """A picture of one colour."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def picture(root: Path, *paths: str) -> None:
    """Pictures of one colour each, at these paths."""
    for number, path in enumerate(paths):
        write(root, path, png(("red", "green", "blue")[number % 3], (8 + number, 6)))
