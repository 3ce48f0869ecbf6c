"""Maps drawn over the picture, as PNG: for papers, slides and mails.

occlusion.png   the picture, and what covering each part does to the answer
attention.png   attention rolled up over layers and heads, rolled out, and layer by layer
words.png       how likely each patch says the answer's first token, layer by layer
heads.png       how much worse the answer gets without each head
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lucida.interpretability.answer import END
from lucida.interpretability.inside import Look, Seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 480
"""Pixels along the longer side of a drawn picture."""
MOST_LAYERS = 12
"""Layers that are drawn one by one; of more, evenly chosen ones."""
GRID = 128
"""Cells along the longer side of the maps of visual tokens."""
WARM, COLD = (214, 83, 16), (33, 102, 201)
"""What lowers the answer's probability when it is covered, or draws attention; what raises it."""


def draw_look(look: Look) -> dict[str, bytes]:
    """Name → PNG. Of several pictures each has its own, numbered from 1."""
    drawn: dict[str, bytes] = {}
    for number, seen in enumerate(look.pictures, 1):
        suffix = f"-{number}" if len(look.pictures) > 1 else ""
        if seen.occlusion is not None:
            drawn[f"occlusion{suffix}.png"] = _draw_panels(look, _occlusion_panels(look, seen))
        if look.attention is not None and seen.places.known.any():
            drawn[f"attention{suffix}.png"] = _draw_panels(look, _attention_panels(look, seen))
        if look.lens is not None and seen.places.known.any():
            drawn[f"words{suffix}.png"] = _draw_panels(look, _word_panels(look, seen))
    if look.heads is not None:
        drawn["heads.png"] = _as_png(lambda figure: _draw_heads(look, figure), (6.4, 4.4))
    return drawn


Panel = tuple[str, np.ndarray]
"""A title, and the drawn picture [height, width, 3]."""


def _occlusion_panels(look: Look, seen: Seen) -> list[Panel]:
    plain = overlay(seen, None)
    drops = seen.occlusion.sum(-1)
    most = float(np.abs(drops).max())
    panels = [("the picture", plain), (f"covered: up to −{most:.2f} nats", overlay(seen, drops))]
    if 1 < len(look.tokens) <= 6:
        for place, token in enumerate(look.tokens):
            name = "the end" if token == END else f"“{token}”"
            panels.append((f"for {name}", overlay(seen, seen.occlusion[..., place], most)))
    return panels


def _attention_panels(look: Look, seen: Seen) -> list[Panel]:
    weights = look.attention[..., seen.tokens].mean((1, 2))  # [layers, tokens of the picture]
    shape = map_shape(seen)
    every, _ = seen.places.paint(weights, shape)
    rolled, _ = seen.places.paint(look.rollout[:, seen.tokens].mean(0), shape)
    share = look.attention.sum(-1).mean((1, 2))  # [layers], of all pictures
    panels = [
        (f"all layers: {share.mean():.0%} to the picture", overlay(seen, every.mean(0))),
        ("rolled out", overlay(seen, rolled)),
    ]
    for layer in choose_layers(len(every)):
        title = f"layer {layer + 1}: {share[layer]:.0%} to the picture"
        panels.append((title, overlay(seen, every[layer])))
    return panels


def _word_panels(look: Look, seen: Seen) -> list[Panel]:
    chances = look.lens.answer[:, seen.tokens, 0]
    maps = seen.places.average(chances, map_shape(seen))
    most = float(chances.max())
    said = "the end" if look.tokens[0] == END else f"“{look.tokens[0]}”"
    return [
        (
            f"{'layer ' + str(layer) if layer else 'before layer 1'}: {said} up to "
            f"{chances[layer].max():.0%}",
            overlay(seen, np.nan_to_num(maps[layer]), most),
        )
        for layer in choose_layers(len(maps))
    ]


def choose_layers(count: int) -> list[int]:
    """All layers, or so many evenly chosen ones, the first and the last among them."""
    if count <= MOST_LAYERS:
        return list(range(count))
    return sorted({round(k * (count - 1) / (MOST_LAYERS - 1)) for k in range(MOST_LAYERS)})


def map_shape(seen: Seen) -> tuple[int, int]:
    """Rows and columns of the map of a picture's tokens."""
    width, height = seen.image.size
    scale = min(1.0, GRID / max(width, height))
    return max(1, round(height * scale)), max(1, round(width * scale))


def overlay(seen: Seen, values: np.ndarray | None, most: float | None = None) -> np.ndarray:
    """The picture in grey under a map of any shape [rows, columns], what was not seen hatched;
    without values the picture itself. `most` is the value of the strongest colour."""
    width, height = seen.image.size
    scale = LONGEST / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Enlarged pictures keep their pixels as squares: nothing is shown that is not in them.
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    drawn = np.asarray(seen.image.resize(size, way), np.float64)
    if values is not None:
        grey = drawn.mean(-1, keepdims=True) * 0.55 + 90
        most = most or float(np.abs(values).max()) or 1.0
        field = Image.fromarray(np.clip(values / most, -1, 1).astype(np.float32))
        share = np.asarray(field.resize(size, Image.Resampling.NEAREST))[..., None]
        colour = np.where(share >= 0, np.array(WARM), np.array(COLD))
        drawn = grey + (colour - grey) * (0.9 * np.abs(share) ** 0.8)
    return _hatch(drawn, seen, scale).astype(np.uint8)


def _hatch(drawn: np.ndarray, seen: Seen, scale: float) -> np.ndarray:
    """Lines over what the model was not shown."""
    high, wide = drawn.shape[:2]
    x0, y0, x1, y1 = (value * scale for value in seen.places.seen)
    down, across = np.mgrid[:high, :wide]
    hidden = (across + 0.5 < x0) | (across + 0.5 > x1) | (down + 0.5 < y0) | (down + 0.5 > y1)
    lines = hidden & ((down + across) % 12 < 3)
    drawn = np.where(hidden[..., None], drawn * 0.45 + 40, drawn)
    return np.where(lines[..., None], 205.0, drawn)


def _draw_panels(look: Look, panels: Sequence[Panel]) -> bytes:
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        figure.suptitle(_fit(f"{look.question}  →  {look.answer}", 90), parse_math=False)
        places = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (title, image) in zip(places, panels, strict=False):
            axes.imshow(image)
            axes.set_title(_fit(title, 44), fontsize=8, parse_math=False)
        for axes in figure.axes:
            axes.set_axis_off()

    tall = max(image.shape[0] / image.shape[1] for _, image in panels)
    return _as_png(draw, (2.7 * columns, (2.6 * tall + 0.35) * rows + 0.5))


def _draw_heads(look: Look, figure: Figure) -> None:
    drops = look.heads.sum(-1)
    most = float(np.abs(drops).max()) or 1.0
    axes: Axes = figure.subplots()
    drawn = axes.imshow(drops, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    layers, heads = drops.shape
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    for axis, count in ((axes.xaxis, heads), (axes.yaxis, layers)):
        step = -(-count // 16)
        axis.set_ticks(range(0, count, step), [str(k + 1) for k in range(0, count, step)])
    if layers * heads <= 144:
        for layer, head in np.ndindex(layers, heads):
            value = drops[layer, head]
            colour = "white" if abs(value) > 0.6 * most else "black"
            axes.text(
                head,
                layer,
                f"{round(value, 2) + 0.0:.2f}",
                ha="center",
                va="center",
                color=colour,
                size=8,
            )
    figure.colorbar(drawn, label="drop of the answer's log-probability, nats")
    title = _fit(f"without each head: {look.question}  →  {look.answer}", 70)
    axes.set_title(title, fontsize=9, parse_math=False)


def _fit(text: str, most: int) -> str:
    """A text that is no wider than its figure, without what no font can draw."""
    shown = "".join(sign if sign.isprintable() else "·" for sign in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _as_png(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    draw(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()
