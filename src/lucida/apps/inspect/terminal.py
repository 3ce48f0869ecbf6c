"""A batch taken apart, on the terminal: pictures in half blocks, tokens in colour, the mask."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucida.apps.drawn import half_blocks
from lucida.apps.inspect.look import Look, Position, Seen
from lucida.core.start import describe_origin

BRANCHES = ("white", "cyan", "magenta", "blue", "bright_red")
"""Colours of the stem and of the branches after it, in turn."""
SIGHT = np.array(
    [(24, 26, 32), (120, 170, 220), (240, 180, 60), (200, 90, 160), (110, 190, 110)], np.uint8
)
"""Colours of a mask's cells: unseen, text sees text, text sees image, image sees text, image sees
image."""
MOST_POSITIONS = 90


def show(look: Look, console: Console, positions: int = MOST_POSITIONS) -> None:
    """Print everything; pictures only where there is a terminal."""
    stage = look.stage
    console.print(
        f"\nrecipe {look.recipe.name}, stage {stage.name}: template {stage.template}, "
        f"loss {stage.loss}, mask {stage.attention_mask}\n",
        style="bold",
    )
    console.print(f"weights: {describe_origin(look.recipe.model)}\n")
    for number, seen in enumerate(look.samples, start=1):
        where = f"sample {number}, row {seen.row} from {seen.source}: {seen.tokens.origin}"
        console.print(where, style="bold")
        show_pictures(seen, console)
        console.print(token_table(seen, positions))
        console.print()
    console.print(f"attention mask `{stage.attention_mask}`, the first {len(look.borders)} samples")
    if console.is_terminal:
        console.print(half_blocks(mask_image(look.mask, look.borders), 72))
    seen_share = float((look.mask > 0).mean())
    console.print(f"{len(look.mask)} positions, {100 * seen_share:.1f}% of pairs seen\n")
    console.print(count_table(look))
    for line in look.dropped:
        console.print(f"dropped: {line}", style="red")


def show_pictures(seen: Seen, console: Console) -> None:
    """Each picture, then what the encoder gets of it."""
    for number, shown in enumerate(seen.images, start=1):
        sizes = ", ".join(f"{view.width} x {view.height}" for view in shown.views)
        width, height = shown.original.size
        console.print(f"image {number}: {width} x {height} → {sizes}   {shown.origin}", style="dim")
        if console.is_terminal:
            row = Table.grid(padding=(0, 2))
            columns = 28 if len(shown.views) < 3 else 18
            row.add_row(*(half_blocks(view, columns) for view in (shown.original, *shown.views)))
            console.print(row)


def token_table(seen: Seen, most: int) -> Table:
    """The positions of a sample: what stands there, what is learned there, and its fields."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("#", "token", "learns", "segment", "branch", "position", "image"):
        table.add_column(name, justify="left" if name in ("token", "learns") else "right")
    for each in seen.positions[:most]:
        table.add_row(*row(each, seen.segment))
    if len(seen.positions) > most:
        table.add_row("", Text(f"… {len(seen.positions) - most} more (--tokens shows more)", "dim"))
    return table


def row(each: Position, segment: int) -> list[Text]:
    """One line of the table."""
    last = f"..{each.index + each.run - 1}" if each.run > 1 else ""
    many = f" x {each.run}" if each.run > 1 else ""
    colour = BRANCHES[(each.branch - 1) % (len(BRANCHES) - 1) + 1] if each.branch else BRANCHES[0]
    if each.image:
        colour = "yellow"
    spans = f"..{each.last}" if each.run > 1 else ""
    return [
        Text(f"{each.index}{last}", "dim"),
        Text(each.text + many, "bold green" if each.learnt else colour),
        Text(each.target or "", "bold black on green" if each.target else ""),
        Text(str(segment), "dim"),
        Text(str(each.branch), colour),
        Text(f"{each.position}{spans}"),
        Text(str(each.image or "")),
    ]


def count_table(look: Look) -> Table:
    """Counts of the whole batch, with shares where they mean something."""
    table = Table(box=None, show_header=False)
    shares = {name: f"{share:.1f}%" for name, share in look.shares.items()}
    for name, many in look.counts.items():
        table.add_row(name, Text(f"{many:,}", justify="right"), shares.get(name, ""))
    table.add_row("dropped", str(len(look.dropped)))
    return table


def mask_image(mask: np.ndarray, borders: list[int], pixel: int = 1) -> Image.Image:
    """The mask as a picture, `pixel` pixels a cell, with a line where each sample begins."""
    colours = SIGHT[mask.clip(0, len(SIGHT) - 1)]
    colours = colours.repeat(pixel, axis=0).repeat(pixel, axis=1)
    if pixel > 1:
        for border in borders[1:]:
            colours[border * pixel, :] = colours[:, border * pixel] = 255
    return Image.fromarray(colours)
