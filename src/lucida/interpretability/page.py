"""What was found as one HTML page that needs nothing else.

Look ─write_page─▶ the pictures, and every map as numbers that the page draws itself
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from lucida.core.pages import render_page
from lucida.data.encoded import make_data_address
from lucida.interpretability.drawing import map_shape
from lucida.interpretability.inside import Look, Seen

MOST_PIXELS = 1280
"""Along the longer side of a picture in the page."""
MOST_WEIGHTS = 6_000_000
"""Attention weights of single heads that a page holds; of more it holds the means over heads."""
PLACES = 4
"""Digits of numbers in the page."""


def write_page(look: Look) -> str:
    """The page as text."""
    return render_page("interpretability/page.html", look=look, data=_as_script(_tell(look)))


def _as_script(value: object) -> Markup:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    # Else "</script>" in an answer would end the element.
    return Markup(text.replace("<", "\\u003c"))


def _tell(look: Look) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tokens": list(look.tokens),
        "log": _numbers(look.log_probabilities),
        "covered": None if look.covered is None else _numbers(look.covered),
        "pictures": [_tell_picture(seen) for seen in look.pictures],
        "attention": None,
        "heads": None if look.heads is None else _pack(look.heads),
        "lens": None,
    }
    if look.attention is not None:
        whole = look.attention.size <= MOST_WEIGHTS
        told["attention"] = {
            "mean": _pack(look.attention.mean(1)),
            "text": _pack(look.to_text.mean(1)),
            "rollout": _pack(look.rollout),
            "heads": _pack(look.attention, small=True) if whole else None,
        }
    if look.lens is not None:
        known = sorted(look.vocabulary)
        place = {word: k for k, word in enumerate(known)}
        told["lens"] = {
            "vocabulary": [look.vocabulary[word] for word in known],
            "words": _pack(np.vectorize(place.__getitem__, otypes=[np.int64])(look.lens.words)),
            "chances": _pack(look.lens.chances),
            "answer": _pack(look.lens.answer),
        }
    return told


def _tell_picture(seen: Seen) -> dict[str, Any]:
    places = seen.places
    rows, columns = map_shape(seen)
    return {
        "source": encode_picture(seen.image),
        "width": places.width,
        "height": places.height,
        "seen": _numbers(np.array(places.seen)),
        "map": [rows, columns],
        "first": seen.tokens.start,
        "boxes": [
            _numbers(box) if known else None
            for box, known in zip(places.boxes, places.known, strict=True)
        ],
        "view": places.view.tolist(),
        "names": list(places.names),
        "occlusion": None if seen.occlusion is None else _pack(seen.occlusion),
    }


def encode_picture(image: Image.Image) -> str:
    """A picture as a `data:` address, scaled down where it is large."""
    shown = image.copy()
    shown.thumbnail((MOST_PIXELS, MOST_PIXELS))
    form = "PNG" if max(shown.size) <= 256 else "JPEG"
    return make_data_address(shown, form, quality=88)


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), PLACES) for value in values]


def _pack(values: np.ndarray, small: bool = False) -> dict[str, Any]:
    """An array as the page reads it: little-endian float32, or with `small` bytes, each row (last
    axis) in 255ths of its largest value."""
    if not small:
        content = np.ascontiguousarray(values, "<f4").tobytes()
        return {"shape": list(values.shape), "data": base64.b64encode(content).decode()}
    most = values.max(-1, keepdims=True)
    shares = np.divide(values, most, out=np.zeros_like(values), where=most > 0)
    content = np.round(255 * shares).astype(np.uint8).tobytes()
    return {
        "shape": list(values.shape),
        "most": _pack(most[..., 0]),
        "data": base64.b64encode(content).decode(),
    }
