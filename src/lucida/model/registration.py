"""Makes transformers' Auto classes know Lucida's model."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from lucida.model.config import LucidaConfig
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel


def register() -> None:
    """Register configuration, model and processor; calling it again changes nothing.

    Afterwards `AutoModelForImageTextToText.from_pretrained(run)` and
    `AutoProcessor.from_pretrained(run)` load a saved model, and pipelines find it.
    """
    AutoConfig.register(LucidaConfig.model_type, LucidaConfig, exist_ok=True)
    AutoModelForImageTextToText.register(LucidaConfig, LucidaModel, exist_ok=True)
    AutoProcessor.register(LucidaConfig, LucidaProcessor, exist_ok=True)
