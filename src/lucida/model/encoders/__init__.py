"""Vision encoders: any that transformers loads and the table of families knows."""

from lucida.model.encoders.encoder import VisionEncoder, load_encoder
from lucida.model.encoders.fusion import FusedEncoder, encoders_of
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing

__all__ = [
    "FusedEncoder",
    "Preprocessing",
    "VisionEncoder",
    "encoders_of",
    "load_encoder",
    "read_preprocessing",
]
