"""Look inside a model from the terminal: a page, maps as PNG, and the figures that matter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lucida.core.files import atomic_write, make_folder
from lucida.core.progress import say

if TYPE_CHECKING:
    from lucida.eval.questions import Model
    from lucida.interpretability.inside import Look

PAGE = "look.html"


def main(
    run: Path,
    images: Sequence[Path],
    question: str,
    out: Path,
    answer: str | None = None,
    show: Sequence[str] | None = None,
    *,
    cells: int,
    cover: str,
    max_new_tokens: int,
) -> None:
    """Write what was found into the folder `out` and say the most important of it."""
    from lucida.interpretability.drawing import draw_look
    from lucida.interpretability.inside import KINDS, check_choices, look
    from lucida.interpretability.page import write_page

    check_choices(show or KINDS, cells, cover)
    make_folder(out)
    with open_model(run) as model:
        found = look(
            model,
            list(images),
            question,
            answer,
            show=tuple(show or KINDS),
            cells=cells,
            cover=cover,
            max_new_tokens=max_new_tokens,
        )
    atomic_write(out / PAGE, write_page(found))
    drawn = draw_look(found)
    for name, content in drawn.items():
        atomic_write(out / name, content)
    for line in describe(found):
        say(line)
    say(f"wrote {out / PAGE}" + "".join(f", {name}" for name in drawn))


@contextmanager
def open_model(folder: Path) -> Iterator[Model]:
    """A run or a folder in Lucida's layout; another checkpoint is imported first, into a folder
    that does not stay."""
    from lucida.eval.questions import load_model
    from lucida.model.config import LucidaConfig
    from lucida.model.folder import CONFIG, read_json

    file = folder / CONFIG
    kind = read_json(file).get("model_type") if file.is_file() else LucidaConfig.model_type
    if kind == LucidaConfig.model_type:
        yield load_model(folder)
        return
    from lucida.apps.export.read import read

    with tempfile.TemporaryDirectory(prefix="lucida-look-") as place:
        imported = Path(place) / "model"
        read(folder, imported)
        yield load_model(imported)


def describe(found: Look) -> Iterator[str]:
    """What was found, in a few lines."""
    yield f"answer: {found.answer or '(nothing)'}"
    pairs = zip(found.tokens, found.log_probabilities, strict=True)
    yield "log-probabilities: " + ", ".join(f"{token} {value:.2f}" for token, value in pairs)
    if found.covered is not None:
        yield (
            f"with every picture covered the answer goes from {found.log_probabilities.sum():.2f} "
            f"to {found.covered.sum():.2f}"
        )
    for number, seen in enumerate(found.pictures, 1):
        if seen.occlusion is None:
            continue
        drops = seen.occlusion.sum(-1)
        row, column = np.unravel_index(drops.argmax(), drops.shape)
        width, height = seen.image.size
        x, y = (
            round((place + 0.5) * length / count)
            for place, length, count in zip(
                (column, row), (width, height), drops.shape[::-1], strict=True
            )
        )
        name = f" of picture {number}" if len(found.pictures) > 1 else ""
        yield f"covering around ({x}, {y}){name} costs most: {drops.max():.2f}"
    if found.attention is not None:
        share = found.attention.sum(-1).mean()
        yield f"attention that goes to pictures, mean of layers, heads and tokens: {share:.0%}"
    if found.heads is not None:
        drops = found.heads.sum(-1)
        layer, head = np.unravel_index(drops.argmax(), drops.shape)
        yield f"the head that counts most: layer {layer + 1}, head {head + 1}: {drops.max():.2f}"
    yield from (f"note: {note}" for note in found.notes)
