"""Pictures for people: in characters on a terminal, as PNG within a page. Needs no model."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from rich.text import Text

from lucida.data.encoded import make_data_address

COLUMNS = 32
"""Width of a picture in the terminal; a character is one pixel wide and two high."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture inside a page, enlarged without smoothing where it is small."""

    data: str
    width: int
    words: str


def half_blocks(image: Image.Image, columns: int = COLUMNS) -> Text:
    """The picture in characters: each is an upper half block, its lower half the background."""
    width, height = image.size
    scale = columns / max(width, height)
    # An even number of rows: a character shows two of them, one above the other.
    size = (max(1, round(width * scale)), 2 * max(1, round(height * scale / 2)))
    pixels = image.convert("RGB").resize(size, Image.Resampling.BOX).load()
    drawn = Text()
    for y in range(0, size[1], 2):
        for x in range(size[0]):
            upper, lower = ("#{:02x}{:02x}{:02x}".format(*pixels[x, y + k]) for k in (0, 1))
            drawn.append("▀", f"{upper} on {lower}")
        if y + 2 < size[1]:
            drawn.append("\n")
    return drawn


def drawing(image: Image.Image, words: str) -> Drawing:
    """A picture as PNG within the page."""
    return Drawing(make_data_address(image, optimize=True), max(160, min(image.width, 320)), words)
