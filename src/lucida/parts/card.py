"""The card beside a part: how it was made, from what, and what was measured on it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
import transformers


def write_card(folder: Path, **facts: object) -> dict:
    """Write `card.json` into the part's folder and give its content."""
    card = {
        "name": folder.name,
        **facts,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card
