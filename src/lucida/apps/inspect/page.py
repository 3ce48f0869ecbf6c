"""A batch taken apart, as one HTML page that needs nothing else.

Look ──write──▶ page with pictures, tokens, mask and counts inside
"""

from __future__ import annotations

from pathlib import Path

from lucida.apps.drawn import Drawing, drawing
from lucida.apps.inspect.look import Look, Seen
from lucida.apps.inspect.terminal import SIGHT, mask_image
from lucida.core.files import atomic_write
from lucida.core.pages import render_page
from lucida.core.start import describe_origin

MASK_SIDE = 720
"""Pixels that a mask is enlarged towards."""
SIGHT_WORDS = (
    "unseen",
    "text sees text",
    "text sees image",
    "image sees text",
    "image sees image",
)


def write(look: Look, path: Path) -> Path:
    """Write the page; gives its path. RunError when it cannot be written."""
    atomic_write(path, page(look))
    return path


def page(look: Look) -> str:
    """The page as text."""
    pixel = max(1, MASK_SIDE // max(1, len(look.mask)))
    kinds = sorted(set(look.mask.ravel().tolist()) | {0})
    return render_page(
        "apps/inspect/page.html",
        recipe=look.recipe.name,
        stage=look.stage.name,
        facts=[
            ("weights", describe_origin(look.recipe.model)),
            ("template", look.stage.template),
            ("loss", look.stage.loss),
            ("mask", look.stage.attention_mask),
            ("image policy", look.recipe.model.image.policy),
            ("packing", "packed" if look.stage.batch.pack else "padded"),
        ],
        samples=[(seen, drawings(seen)) for seen in look.samples],
        mask=drawing(mask_image(look.mask, look.borders, pixel), ""),
        mask_samples=len(look.borders),
        mask_tokens=len(look.mask),
        mask_seen=100 * float((look.mask > 0).mean()),
        legend=[("#{:02x}{:02x}{:02x}".format(*SIGHT[kind]), SIGHT_WORDS[kind]) for kind in kinds],
        counts=[(name, f"{many:,}", look.shares.get(name)) for name, many in look.counts.items()],
        dropped=look.dropped,
    )


def drawings(seen: Seen) -> list[tuple[str, Drawing, list[Drawing]]]:
    """Of each picture of a sample: where it came from, as it came, and what the encoder gets."""
    found = []
    for shown in seen.images:
        size = "{} x {}".format(*shown.original.size)
        views = [
            drawing(view, f"view {number} of {len(shown.views)}, {view.width} x {view.height}")
            for number, view in enumerate(shown.views, start=1)
        ]
        found.append((shown.origin, drawing(shown.original, f"as it came, {size}"), views))
    return found
