"""Which parts Lucida can make from nothing, and the cards of those that ship with it."""

from __future__ import annotations

import json
from pathlib import Path

from lucida.core.errors import PartError
from lucida.core.progress import say
from lucida.core.registry import Table
from lucida.model.parts import FOLDER, part_names

BUILDERS = Table(
    "part",
    {
        "siglip-mini": "lucida.parts.vision:build_siglip",
        "clip-mini": "lucida.parts.vision:build_clip",
        "convnext-mini": "lucida.parts.vision:build_convnext",
        "supervised-mini": "lucida.parts.vision:build_supervised",
        "dino-mini": "lucida.parts.vision:build_dino",
        "siglip-vit-mini": "lucida.parts.vision:build_siglip_vit",
        "base-mini": "lucida.parts.language:build_base",
        "chat-mini": "lucida.parts.chat:build_chat",
    },
    error=PartError,
)


def build_part(name: str, folder: Path, **options: int) -> dict:
    """Make a part from nothing, on an accelerator if there is one, and write it to a new folder.

    `options` go to the builder: steps, seed. A folder that holds a part already is refused. Returns
    the card.
    """
    from lucida.training.precision import choose_device, choose_unscaled

    build = BUILDERS[name]
    if (folder / "config.json").exists():
        raise PartError(
            f"there is a part in this folder already: {folder}",
            remedy="name another folder with --out, or move the old part away",
        )
    device = choose_device()
    say(f"precision: {choose_unscaled(device)}")
    return build(folder, device=str(device), **options)


def cards() -> list[dict]:
    """The card of every part that ships with the package."""
    return [json.loads((FOLDER / name / "card.json").read_text()) for name in part_names()]


def card_rows() -> list[list[object]]:
    """One line of a table for each shipped part."""
    return [
        [
            card["name"],
            f"{card['parameters']:,}",
            card["what"],
            ", ".join(f"{name} {value}" for name, value in card["measured"].items()),
            card["made"],
        ]
        for card in cards()
    ]


def beside_shipped(name: str, card: dict) -> list[list[object]]:
    """What was measured on a part just made, each figure beside that of the part which ships.

    The same steps do not end in the same weights everywhere: sums in another order (threads, CPU,
    versions) make another model, and what a small model learns late it may not learn.
    """
    shipped = {each["name"]: each["measured"] for each in cards()}.get(name, {})
    return [[what, value, shipped.get(what, "")] for what, value in card["measured"].items()]
