"""Pictures and links that damaged records point at."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # `damaged`, whatever import mode pytest runs in

from damaged import stored


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "images"
    inner.mkdir()
    (inner / "a.png").write_bytes(stored(Image.new("RGB", (6, 4))))
    (tmp_path / "secret.png").write_bytes(stored(Image.new("RGB", (6, 4))))
    (inner / "out.png").symlink_to(tmp_path / "secret.png")
    (inner / "away").symlink_to(tmp_path)
    (inner / "loop.png").symlink_to(inner / "loop.png")
    (inner / "inside.png").symlink_to(inner / "a.png")
    return tmp_path
