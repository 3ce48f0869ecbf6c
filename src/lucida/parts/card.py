"""The card beside a part: how it was made, from what, and what was measured on it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
import transformers

from lucida.model.checksums import seal


def write_card(folder: Path, **facts: object) -> dict:
    """Write `card.json` and the checksums into the part's finished folder; the card's content."""
    card = {
        "name": folder.name,
        **facts,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    seal(folder)
    return card
