"""Relative paths in a recipe file: looked for beside that file first, then in the working folder.

    DIR/recipe.yaml    path: train.json    ─▶ DIR/train.json, where it is there, else ./train.json

What is found beside the file is written out in full, so that the recipe means the same from any
folder; where that is the working folder anyway, it stays as it is written. Paths on the command
line, and those in the recipe of a run, are relative to the working folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lucida.core.document import Document
from lucida.core.errors import DataError
from lucida.core.spec import Spec

KEYS = ("path", "images", "from", "file", "data", "questions", "instances")
"""Keys of a recipe whose texts may be paths."""
WHERE = "a relative path of a recipe is looked for beside its file, then in the working folder"
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_MANY = re.compile(r"[*?\[{]")


def anchor_paths(document: Document, folder: Path) -> None:
    """Write out, in place, the relative paths of a recipe file that are found in its folder."""
    if (folder / "environment.json").is_file():
        return  # the recipe of a run, whose paths were relative to where it was begun
    if folder.resolve() != Path.cwd().resolve():
        _anchor(document.data, folder)


def _anchor(value: Any, folder: Path) -> None:
    if isinstance(value, list):
        for item in value:
            _anchor(item, folder)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if isinstance(item, str) and str(key).rpartition(".")[2] in KEYS:
            value[key] = find_beside(item, folder)
        else:
            _anchor(item, folder)


def find_beside(text: str, folder: Path) -> str:
    """The path in full where something stands there below the folder, else as it is written.

    Of a pattern (`*`, `{0..9}`) the part before it counts, of `RUN@STAGE` the run.
    """
    if not text or text[0] in "/~" or _ELSEWHERE.match(text) or Path(text).is_absolute():
        return text
    fixed = _MANY.split(text)[0]
    if fixed != text:
        fixed = fixed.rpartition("/")[0] or "."
    candidates = [fixed] if "@" not in fixed else [fixed, fixed.rpartition("@")[0]]
    if not any(_is_there(folder / each) for each in candidates):
        return text
    return os.path.normpath(folder.absolute() / text)


def check_there(spec: Spec, origin: str) -> None:
    """DataError when a source's relative path is found neither beside the recipe nor here; absolute
    ones, patterns and addresses are the reader's to refuse."""
    if getattr(spec, "kind", None) in ("world", "world-preferences", "hub"):
        return
    for key in KEYS:
        text = getattr(spec, key, None)
        if not isinstance(text, str) or _ELSEWHERE.match(text) or _MANY.search(text):
            continue
        if not Path(text).expanduser().is_absolute() and not _is_there(Path(text)):
            raise DataError(
                "there is no such file or folder",
                given=text,
                origin=f"{origin}, {key}",
                remedy=f"{WHERE}: {Path.cwd()}",
            )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
