"""Tiny models that a Llava can hold, and others by a change."""

from __future__ import annotations

import tiny

RESIZE = {"policy": "resize"}


def make(vision="clip", language="llama", template="qa", image=RESIZE, layer=-2, **more):
    language = {"path": tiny.language_folder(language), "max_length": 200, "template": template}
    vision = {"path": tiny.encoder_folder(vision), "feature_layer": layer}
    return tiny.tiny_model(vision, language, image=image, **more)
