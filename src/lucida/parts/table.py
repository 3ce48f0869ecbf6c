"""Which parts Lucida can make from nothing, and the cards of those that ship with it."""

from __future__ import annotations

import json
from pathlib import Path

from lucida.core.errors import PartError
from lucida.core.registry import Table
from lucida.model.parts import FOLDER, part_names

BUILDERS = Table(
    "part",
    {
        "siglip-mini": "lucida.parts.vision:build_siglip",
        "base-mini": "lucida.parts.language:build_base",
    },
    error=PartError,
)


def build_part(name: str, folder: Path | None = None, **options: object) -> dict:
    """Make a part from nothing and write it to `folder` (default: where the package looks for it).

    `options` go to the builder: steps, seed, device. A folder that already holds a part is refused,
    so that a shipped part is never overwritten by accident. Returns the card.
    """
    build = BUILDERS[name]
    target = folder or FOLDER / name
    if (target / "config.json").exists():
        raise PartError(
            f"there is a part in this folder already: {target}",
            remedy="name another folder with --out, or move the old part away",
        )
    return build(target, **options)


def cards() -> list[dict]:
    """The card of every part that ships with the package."""
    return [json.loads((FOLDER / name / "card.json").read_text()) for name in part_names()]
