"""What a stage reads: its training stream, its held-out samples, and features instead of pixels.

recipe, stage ─open_stage─┬─ training part ─▶ Loader ─▶ batches of every step
                          └─ held-out part ─▶ Loader ─▶ the validation batches, always the same
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from lucida.core.dropped import Moment
from lucida.core.spec import Recipe
from lucida.data.loader import DropLimit, Loader
from lucida.data.mixture import Mixture, Part, Source
from lucida.data.order import Bookmark
from lucida.data.reader import OpenImages, draw_images
from lucida.data.sample import Batch
from lucida.data.stage import HELD_OUT, VALIDATION, StageData, open_stage
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.engine import Engine
from lucida.training.features import FrozenFeatures
from lucida.training.precision import Precision
from lucida.training.stage import StagePlan

KEPT = 512
"""Held-out samples that are kept in memory between two looks."""


@dataclass(slots=True)
class Feed:
    """The data of one stage, which lasts `steps`, or (`steps` None) until its tokens or its time
    are spent, but no longer than `most` steps, where budgets of all sources end it."""

    loader: Loader
    held_out: Loader | None
    steps: int | None
    features: FrozenFeatures | None
    told: dict[Moment, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Of each source, by reason: rows that its own filters keep out, and what it does not read."""
    most: int | None = None
    _validation: list[Batch] = field(default_factory=list)
    _told: Counter[tuple[str, str]] = field(default_factory=Counter)

    def batches(self, from_step: int, mark: Bookmark = (0, 0)) -> Iterator[list[Batch]]:
        """The passes of every step from `from_step` on; `mark` finds it without planning anew."""
        return self.loader.batches(from_step, mark)

    @property
    def names(self) -> tuple[str, ...]:
        """The sources of the training stream."""
        return self.loader.mixture.names

    @property
    def sources(self) -> dict[str, Source]:
        """What is read, by name: of the training stream, and a source that only validates."""
        held = {} if self.held_out is None else self.held_out.mixture.sources
        only = {name: source for name, source in held.items() if name == VALIDATION}
        return self.loader.mixture.sources | only

    def newly_lost(self) -> Counter[tuple[str, str]]:
        """What this process cut or left out of the data since it was last asked: (source, what) →
        how many. Records that could not be used are in dropped.jsonl."""
        now: Counter[tuple[str, str]] = Counter()
        for name, many in self.loader.counts.items():
            source, _, what = name.rpartition("/")
            if what not in ("samples", "dropped"):
                told = what if "`" in what else what.replace("_", " ")  # keys stay as they are
                now[source, told] += many
        new, self._told = now - self._told, now
        return new

    def uncomputed(self) -> list[str]:
        """Features of a frozen encoder that could not be kept."""
        told = []
        cache = None if self.features is None else self.features.cache
        if cache is not None and cache.unstored:
            told.append(f"feature cache: no room for {cache.unstored} images; computed each time")
        return told

    def validation(self) -> Iterator[Batch]:
        """The held-out batches; a few are prepared at the first look and kept, many are prepared
        anew at each."""
        if self._validation:
            yield from self._validation
        elif self.held_out is not None:
            with closing(self.held_out.batches()) as stream:
                for passes in islice(stream, self.looks):
                    yield from passes
                    if self.held_out_samples <= KEPT:
                        self._validation += passes

    @property
    def looks(self) -> int:
        """Steps of held-out samples behind a validation loss."""
        return math.ceil(self.held_out_samples / self.held_out.batch.samples)

    @property
    def held_out_samples(self) -> int:
        """Samples behind a validation loss: of a named validation all, else `HELD_OUT`, or as many
        as there are records, up to the end of the last batch."""
        mixture, samples = self.held_out.mixture, self.held_out.batch.samples
        if mixture.end is None:  # drawn by weight: more draws than records only repeat them
            return math.ceil(min(HELD_OUT, sum(mixture.sizes)) / samples) * samples
        # A last step with fewer samples than ranks would leave a rank without any: it is not taken,
        # and `describe_validation` says how many are.
        rest = mixture.end % samples
        return mixture.end - (rest if rest < self.held_out.world else 0)

    def describe_validation(self) -> str:
        """What the validation loss is of, in words."""
        if self.held_out is None:
            return "no validation: the sources are too small to hold samples out"
        mixture = self.held_out.mixture
        if mixture.names == (VALIDATION,):
            of = f"{mixture.sizes[0]:,} of validation.source"
        else:
            sizes = zip(mixture.names, mixture.sizes, strict=True)
            of = ", ".join(f"{size:,} of {name}" for name, size in sizes)
        many = f"{self.held_out_samples:,} samples"
        return f"validation loss: {many}, of records that do not train ({of})"


def stage_feed(
    recipe: Recipe,
    index: int,
    plan: StagePlan,
    model: LucidaModel,
    processor: LucidaProcessor,
    precision: Precision,
    dropped: Path,
    engine: Engine,
) -> Feed:
    """Open the sources of stage number `index`; nothing is read before its first batch.

    DataError when a source cannot be opened or is empty.
    """
    stage = recipe.stages[index]
    features, look = None, None
    if sees(model) and stage.batch.cache_features and vision_is_frozen(plan):
        features = FrozenFeatures(model, processor, precision, stage.batch)
        look = OpenImages() if stage.mixture.on_error == "skip" else None
    elif sees(model):
        look = partial(draw_images, partial(processor.draw, scaled=stage.batch.scaled))
    data, held_out = open_stage(recipe, index, processor.encode, look)
    # Held-out records are few, so one bad one among them would be more than a share of them.
    records = len(data.mixture) + (0 if held_out is None else len(held_out))
    make = partial(
        Loader,
        pad_id=processor.tokenizer.pad_token_id,
        features=features,
        rank=engine.rank,
        world=engine.world,
    )
    limit = partial(DropLimit, stage.mixture.max_dropped, records, dropped, stage.name)
    lengths = dropped.with_name(f"lengths-{stage.name}.npz")
    weighting = stage.objective.weighting
    loader = make(data, limit=limit(), lengths=lengths, weighting=weighting)
    validation = None
    if held_out is not None:
        # As much at a time as a training pass holds, which is known to fit; by samples, so that
        # every record comes exactly once, and in this process, since batches are few.
        in_a_pass = math.ceil(stage.batch.samples / stage.batch.accumulate)
        update = {"samples": min(in_a_pass, HELD_OUT), "accumulate": 1, "workers": 0}
        update |= {"tokens": None, "row": None, "order": "mixed"}
        batch = stage.batch.model_copy(update=update)
        kept = StageData(held_out, data.reader.encode, batch, skip=data.skip, look=look, rest=True)
        validation = make(kept, limit=limit())
    counted = stage.budget.steps is not None or stage.budget.epochs is not None
    steps = loader.steps(stage.budget) if counted else None
    # Asked only where there is an end: by tokens the order measures every record first.
    most = None if data.mixture.end is None else loader.order.end
    found = {"opening": left_out(data.mixture, "dropped"), "noted": left_out(data.mixture, "noted")}
    return Feed(loader, validation, steps, features, found, most)


def sees(model: LucidaModel) -> bool:
    """False for a blind model."""
    return model.vision is not None


def vision_is_frozen(plan: StagePlan) -> bool:
    """True when a stage leaves the whole vision encoder alone."""
    return not plan.touches("vision")


def left_out(mixture: Mixture, what: Literal["dropped", "noted"]) -> dict[str, dict[str, int]]:
    """Source → reason → rows that the source's own filters keep out (`dropped`), or what there is
    and is not read (`noted`)."""
    found = {}
    for name, source in mixture.sources.items():
        while isinstance(source, Part):  # a part of a source knows what all of it left out
            source = source.source
        if reasons := dict(getattr(source, what, {})):
            found[name] = reasons
    return found
