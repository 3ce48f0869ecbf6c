"""What a stage reads: its training stream, its held-out samples, and features instead of pixels.

    mixture ─▶ sources ─┬─ training part ─▶ Loader ─▶ batches of every step
                        └─ held-out part ─▶ Loader ─▶ the validation batches, always the same

A source with splits (the miniature world) is validated on its own validation split; of any other,
one record in 20, at most 64 in all, is kept out of training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from lucida.core.dropped import Moment
from lucida.core.progress import say
from lucida.core.spec import MixtureSpec, Recipe, SourceSpec, WorldSourceSpec
from lucida.data.loader import Loader
from lucida.data.mixture import Mixture, Part, Source
from lucida.data.order import Bookmark
from lucida.data.sample import Batch, Tokens
from lucida.data.sources import open_source
from lucida.data.weights import capped, sample_limits, sample_weights
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.train.engine import Engine
from lucida.train.features import FrozenFeatures, pixels_of
from lucida.train.precision import Precision
from lucida.train.stage import StagePlan

HELD_OUT = 64
"""Samples behind one validation loss, up to the end of the last batch."""
APART = 20
"""A source without splits gives up at most one record in this many."""


@dataclass(frozen=True, slots=True)
class Spread(Part):
    """A source without every `apart`-th record, or with those alone."""

    apart: int
    held_out: bool

    def __len__(self) -> int:
        held = len(self.source) // self.apart
        return held if self.held_out else len(self.source) - held

    def _place(self, index: int) -> int:
        if self.held_out:
            return (index + 1) * self.apart - 1
        return index + index // (self.apart - 1)


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

    def newly_lost(self) -> Counter[tuple[str, str]]:
        """What this process cut or left out of the data since it was last asked: (source, what) →
        how many. Records that could not be used are in dropped.jsonl."""
        now: Counter[tuple[str, str]] = Counter()
        for name, many in self.loader.counts.items():
            source, _, what = name.rpartition("/")
            if what not in ("samples", "dropped"):
                now[source, what.replace("_", " ")] += many
        new, self._told = now - self._told, now
        return new

    def uncomputed(self) -> list[str]:
        """Features of a frozen encoder that could not be kept."""
        told = []
        cache = None if self.features is None else self.features.cache
        if cache is not None and cache.unstored:
            told.append(f"feature cache: no room for {cache.unstored} images; computed each time")
        return told

    def validation(self) -> list[Batch]:
        """The held-out batches, prepared at the first look; empty when there are none."""
        if self.held_out is not None and not self._validation:
            stream = self.held_out.batches()
            steps = math.ceil(HELD_OUT / self.held_out.batch.samples)
            self._validation = [batch for passes in islice(stream, steps) for batch in passes]
            stream.close()
        return self._validation


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
    encode = partial(processor.encode, loss=stage.loss)
    training, held_out = mixtures(stage.mixture, recipe.seed + index, encode)
    features = None
    if sees(model) and stage.batch.cache_features and vision_is_frozen(plan):
        features = FrozenFeatures(model, processor, precision, stage.batch)
    pixels = None
    if sees(model) and features is None:
        pixels = partial(pixels_of(processor, stage.batch), later=True)
    make = partial(
        Loader,
        encode=encode,
        pad_id=processor.tokenizer.pad_token_id,
        pixels=pixels,
        features=features,
        dropped=dropped,
        stage=stage.name,
        # Held-out records are few, so one bad one among them would be more than a share of them.
        records=len(training) + (0 if held_out is None else len(held_out)),
        on_error=stage.mixture.on_error,
        max_dropped=stage.mixture.max_dropped,
        rank=engine.rank,
        world=engine.world,
    )
    lengths = dropped.with_name(f"lengths-{stage.name}.npz")
    weighting = stage.objective.weighting
    loader = make(training, batch=stage.batch, lengths=lengths, weighting=weighting)
    validation = None
    if held_out is not None:
        in_a_pass = math.ceil(stage.batch.samples / stage.batch.accumulate)
        update = {"samples": min(in_a_pass, HELD_OUT), "accumulate": 1, "workers": 0}
        update |= {"tokens": None, "row": None, "order": "mixed"}
        validation = make(held_out, batch=stage.batch.model_copy(update=update))
    counted = stage.budget.steps is not None or stage.budget.epochs is not None
    steps = loader.steps(stage.budget) if counted else None
    # Asked only where there is an end: by tokens the order measures every record first.
    most = None if training.end is None else loader.order.end
    found = {"opening": told(training, "dropped"), "noted": told(training, "noted")}
    return Feed(loader, validation, steps, features, found, most)


def sees(model: LucidaModel) -> bool:
    """False for a blind model."""
    return model.vision is not None


def vision_is_frozen(plan: StagePlan) -> bool:
    """True when a stage leaves the whole vision encoder alone."""
    return not plan.touches("vision")


def mixtures(
    spec: MixtureSpec, seed: int, encode: Callable[..., Tokens] | None = None
) -> tuple[Mixture, Mixture | None]:
    """The training mixture and the held-out one, None when no source can spare a record.

    `encode` is needed where weights are not shares of samples, and for budgets of tokens.
    """
    training, held_out = {}, {}
    for name, source_spec in spec.sources.items():
        training[name], held_out[name] = parts(source_spec, name, spec.on_error == "skip")
    training = capped(training, spec.caps, seed)
    weights = {name: source.weight for name, source in spec.sources.items()}
    weights = sample_weights(weights, spec.by, training, encode)
    limits = sample_limits(spec.budgets, training, encode)
    stream = Mixture(training, weights, seed, limits)
    kept = {name: source for name, source in held_out.items() if len(source)}
    if not kept:
        return stream, None
    held_weights = {name: weights[name] for name in kept}
    return stream, Mixture(kept, held_weights, seed)


def parts(spec: SourceSpec, name: str, skip: bool = False) -> tuple[Source, Source]:
    """The training and the held-out part of a source; the world has a split of its own. `skip` as
    in `open_source`."""
    if isinstance(spec, WorldSourceSpec):
        other = {"split": "validation", "count": min(spec.count, HELD_OUT)}
        return open_source(spec), open_source(spec.model_copy(update=other))
    source = open_source(spec, skip)
    for reason, count in getattr(source, "dropped", {}).items():
        say(f"source {name}: {count:,} rows left out by its filters: {reason}")
    for what, count in getattr(source, "noted", {}).items():
        say(f"source {name}: {count:,} × {what}")
    apart = max(APART, math.ceil(len(source) / HELD_OUT))
    return Spread(source, apart, held_out=False), Spread(source, apart, held_out=True)


def told(mixture: Mixture, what: Literal["dropped", "noted"]) -> dict[str, dict[str, int]]:
    """Source → reason → rows that the source's own filters keep out (`dropped`), or what there is
    and is not read (`noted`)."""
    found = {}
    for name, source in mixture.sources.items():
        while isinstance(source, Part):
            source = source.source
        if reasons := dict(getattr(source, what, {})):
            found[name] = reasons
    return found
