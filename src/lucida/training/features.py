"""Features of a frozen encoder instead of pixels: computed once, kept, and given to every step.

    images ─▶ cache ─┬─ held ───────────────────────────────▶ features
                     └─ missing ─▶ pixels ─▶ encoder ─▶ kept ─┘

What is computed of an image has the same bits whatever company it is computed in,
so that a cache that was deleted, or filled by another run, changes nothing.
"""

from __future__ import annotations

import hashlib
import shutil

import torch

from lucida.core.progress import say
from lucida.core.spec import BatchSpec
from lucida.data.features import FeatureCache, ViewCache
from lucida.data.sample import ImageSource, Views
from lucida.data.sources.sidecar import cache_folder, writable_cache
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.precision import Precision
from lucida.training.state import fingerprint

GROUP = 16
"""Squares that the encoder sees at a time: always exactly this many, the last one again where there
are fewer. Tiles and pictures of their own shape are seen one picture at a time."""
STORED_AT_ONCE = 256
"""Squares between two waits for the disk."""
VIEWS_AT_ONCE = 16
"""The same for pictures of several views or large shapes, whose pixels take more memory."""


class FrozenFeatures:
    """Features of a frozen encoder, kept in the user's cache between steps, runs and processes.

    The cache opens at the first call: when this is made, an earlier stage may still train the
    encoder.
    """

    def __init__(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        precision: Precision,
        batch: BatchSpec | None = None,
    ) -> None:
        self.model, self.processor, self.precision = model, processor, precision
        self.batch = batch or BatchSpec()
        self.cache: FeatureCache | None = None

    def __call__(self, images: list[ImageSource]) -> Views:
        if self.cache is None:
            self.cache = self.open()
            say(str(self.cache))
        square = self.model.arrangement.policy.one_square
        return self.cache.get(images, self.compute, STORED_AT_ONCE if square else VIEWS_AT_ONCE)

    def open(self) -> FeatureCache:
        """The cache of exactly these weights, image policy and precision."""
        folder = writable_cache(cache_folder() / "features")
        config, vision = self.model.config, self.model.config.model_spec.vision
        # All that the bits of a feature depend on: other weights, pixels, layers, devices or
        # products are other files.
        facts = (
            fingerprint(self.model.vision.state_dict().items()),
            *(encoder.to_json_string() for encoder in config.vision_configs),
            repr(config.layers),
            vision.model_dump_json(exclude={"path": True, "more": {"__all__": {"path"}}}),
            repr((self.processor.image_policy, *self.processor.more_policies)),
            str(self.precision.device.type),
            self.precision.name,
        )
        if self.batch.decoding != "exact":
            facts = (*facts, self.batch.decoding)
        spec_hash = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        shape, policy = (config.patches, config.vision_width), self.model.arrangement.policy
        limit = shutil.disk_usage(folder).free // 2
        if self.batch.cache_limit is not None:
            limit = int(self.batch.cache_limit * 1e9)
        if policy.one_square:
            return FeatureCache(folder, spec_hash, shape, limit_bytes=limit)
        if policy.own_shape:
            shape = (1, config.vision_width)
        return ViewCache(folder, spec_hash, shape, limit_bytes=limit)

    def compute(self, images: list[ImageSource]) -> Views:
        """Features of images; squares `GROUP` at a time, others one at a time."""
        pixels = self.processor.pixels(images, self.batch.scaled)
        together = GROUP if self.model.arrangement.policy.one_square else 1
        # Three squares, sixteen at a time: 0 1 2 2 2 …. Kernels for other numbers of pictures add
        # up in another order, and the bits would depend on the company.
        numbers = [*range(len(pixels)), *[len(pixels) - 1] * (-len(pixels) % together)]
        groups = [numbers[n : n + together] for n in range(0, len(numbers), together)]
        with torch.no_grad(), self.precision.autocast():
            found = [self.model.encode_images(pixels.select(group)) for group in groups]
        return Views.joined(found).select(range(len(pixels)))
