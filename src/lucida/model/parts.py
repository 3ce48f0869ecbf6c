"""Pretrained parts that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from lucida.core.errors import PartError, suggestion

PREFIX = "lucida:"
FOLDER = Path(__file__).parent.parent / "parts_data"


def part_path(path: str) -> str:
    """The folder of the part `lucida:NAME`; any other path or Hub id as it is."""
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    folder = FOLDER / name
    if not (folder / "config.json").is_file():
        raise PartError(
            f"there is no part `{path}`", origin=FOLDER, remedy=suggestion(name, part_names())
        )
    return str(folder)


def part_names() -> list[str]:
    """The parts that are there, sorted."""
    return sorted(file.parent.name for file in FOLDER.glob("*/config.json"))
