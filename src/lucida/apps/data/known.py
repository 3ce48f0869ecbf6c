"""What a trained model knows of its records: the loss of each, and which answers it would give.

    RUN ─▶ sources of its stages ─▶ records ─▶ loss of the answers, right word for word or not
             hardest: largest loss, or largest difference to another run (DeltaLoss)
             blind:   questions that the run's blind model answers without the picture

An answer is right word for word when each of its tokens is the likeliest behind the true ones
before it, which is the answer that greedy decoding writes. Records that trained count as well: a
model knows them better than new ones.

Reference: Liu et al., NVILA, 2024, arXiv 2412.04468, section 3.2 (DeltaLoss: of two models the
records on which the larger one does better).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lucida.apps.data.guess import Opened, open_sources
from lucida.apps.data.show import lay_out, write_groups
from lucida.core.errors import DataError, RunError
from lucida.core.files import atomic_write
from lucida.core.progress import Progress, say
from lucida.core.runs import RunFolder
from lucida.data.collate import collate
from lucida.eval.statistics import bootstrap
from lucida.model.checkpoint import load
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.precision import choose_device

TOGETHER = 8
"""Records of one forward."""


@dataclass(frozen=True, slots=True)
class Known:
    """A record of source number `source`: nats of all its supervised tokens and how many these are;
    for each question of it whether the answer is right word for word."""

    source: int
    number: int
    nats: float
    tokens: int
    right: tuple[bool, ...]

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens


def open_run(run: Path) -> list[Opened]:
    """The sources that a run trained on. RunError: it is no run."""
    RunFolder(run).check()
    return open_sources(str(run), [])


def chosen(sources: Sequence[Opened], most: int) -> list[tuple[int, int]]:
    """Numbers of sources and records: of each source at most so many, spread over all of it."""
    places = []
    for which, each in enumerate(sources):
        size = len(each.source)
        numbers = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))
        places += [(which, int(number)) for number in numbers]
    return places


def measure(
    folder: Path, sources: Sequence[Opened], places: Sequence[tuple[int, int]]
) -> list[Known]:
    """What the model of a run folder knows of these records; those that it cannot read, or in which
    nothing is supervised, are left out and told. DataError: none is left."""
    model, processor = load(folder, choose_device())
    found: list[Known] = []
    failed: list[DataError] = []
    with Progress(f"measure {folder}", len(places), "record") as progress:
        for which, each in enumerate(sources):
            stage = each.recipe.resolve(each.stage)
            own = processor.for_stage(stage)
            numbers = [number for source, number in places if source == which]
            for start in range(0, len(numbers), TOGETHER):
                some, rows = [], []
                for number in numbers[start : start + TOGETHER]:
                    try:
                        rows.append(own.encode(each.source[number], stage.loss))
                        some.append((which, number))
                    except DataError as problem:
                        failed.append(problem)
                found += forward(model, own, rows, some)
                progress.advance(min(TOGETHER, len(numbers) - start))
    if not found:
        raise failed[0] if failed else DataError("nothing is supervised here", origin=folder)
    if failed:
        say(f"note: {len(failed):,} records cannot be read, and are left out; {failed[0]}")
    if (bare := len(places) - len(failed) - len(found)) > 0:
        say(f"note: {bare:,} records are left out, because nothing in them is supervised")
    return found


@torch.no_grad()
def forward(
    model: LucidaModel, processor: LucidaProcessor, rows: list, places: list[tuple[int, int]]
) -> Iterator[Known]:
    """Encoded records side by side, each by itself for the mask."""
    if not rows:
        return
    pixels = processor.pixels if model.vision is not None else None
    # One row of all: segments count from 1 in the order of `rows`, branches within each from 1 (0
    # is what they share).
    batch = collate(rows, pack=True, pad_id=processor.tokenizer.pad_token_id, pixels=pixels)
    batch = batch.to(model.device)
    # [length, width]; logits only where something is supervised: [supervised, vocabulary].
    hidden = model.hidden(batch, model.mask_for(processor))[0]
    where = (batch.target[0] >= 0).nonzero().squeeze(1)
    wanted = batch.target[0, where]
    logits = model.logits(hidden[where]).float()
    nats = F.cross_entropy(logits, wanted, reduction="none").cpu()
    right = (logits.argmax(-1) == wanted).cpu()
    segment, branch = batch.segment[0, where].cpu(), batch.branch[0, where].cpu()
    for number, (which, record) in enumerate(places, start=1):
        mine = segment == number
        if not mine.any():  # nothing of it is asked for
            continue
        whole = [bool(right[mine & (branch == one)].all()) for one in branch[mine].unique()]
        yield Known(which, record, float(nats[mine].sum()), int(mine.sum()), tuple(whole))


@dataclass(frozen=True)
class Hardest:
    """Records, the hardest first, with a number each and what that is."""

    what: str
    rows: list[tuple[float, Known]]


def find_hardest(run: Path, against: Path | None, most: int) -> tuple[list[Opened], Hardest]:
    """Records of a run's sources by their loss, or by how much smaller another run's loss is."""
    sources = open_run(run)
    places = chosen(sources, most)
    mine = measure(run, sources, places)
    if against is None:
        return sources, Hardest("loss a token", rank([(each.loss, each) for each in mine]))
    RunFolder(against).check()
    theirs = {(each.source, each.number): each for each in measure(against, sources, places)}
    both = [(each, theirs.get((each.source, each.number))) for each in mine]
    pairs = [(each.loss - other.loss, each) for each, other in both if other is not None]
    return sources, Hardest(f"loss a token above that of {against}", rank(pairs))


def rank(pairs: list[tuple[float, Known]]) -> list[tuple[float, Known]]:
    """The largest first; equal ones by their place."""
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1].source, pair[1].number))


def write_hardest(sources: Sequence[Opened], found: Hardest, shown: int, page: Path) -> None:
    """The page with the first `shown` and their pictures, and beside it all as JSON lines."""
    lines = [
        json.dumps({"source": sources[one.source].name, "record": one.number,
                    "score": round(value, 5), "loss": round(one.loss, 5), "tokens": one.tokens})
        for value, one in found.rows
    ]  # fmt: skip
    atomic_write(page.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
    laid = [
        lay_out(sources[one.source], one.number,
                f"{value:.3f} ({sources[one.source].name}, record {one.number})")
        for value, one in found.rows[:shown]
    ]  # fmt: skip
    title = f"{found.what}: the hardest of {len(found.rows):,} records"
    write_groups([(title, [], laid)], page)


@dataclass(frozen=True)
class BlindShare:
    """Of a source's questions the share that are answered word for word without the picture, with
    its 95% interval (by records), and with it."""

    name: str
    questions: int
    blind: float
    low: float
    high: float
    seeing: float


def find_blind(run: Path, most: int) -> tuple[list[Opened], list[BlindShare], list[Known]]:
    """The shares of each source, and the records of which the blind model answers everything.

    RunError: the run has no blind model.
    """
    blind = run / "blind"
    if not list(blind.glob("*.safetensors")):
        raise RunError(
            "this run has no blind model to compare with",
            origin=run,
            remedy="give its recipe `blind: {steps: N}`",
        )
    sources = open_run(run)
    places = chosen(sources, most)
    without, seeing = measure(blind, sources, places), measure(run, sources, places)
    shares = []
    for which, each in enumerate(sources):
        own = [one for one in without if one.source == which]
        scores = [float(right) for one in own for right in one.right]
        if not scores:
            continue
        clusters = [one.number for one in own for _ in one.right]
        interval = bootstrap(scores, clusters)
        seen = [right for one in seeing if one.source == which for right in one.right]
        shares.append(
            BlindShare(each.name, len(scores), interval.mean, interval.low, interval.high,
                       float(np.mean(seen)))
        )  # fmt: skip
    solved = [one for one in without if all(one.right)]
    return sources, shares, sorted(solved, key=lambda one: (one.loss, one.source, one.number))


def write_blind(
    sources: Sequence[Opened], shares: Sequence[BlindShare], solved: Sequence[Known], shown: int,
    page: Path,
) -> None:  # fmt: skip
    """A page: the shares, and the records that are surest without the picture."""
    laid = [
        lay_out(sources[one.source], one.number,
                f"loss {one.loss:.3f} ({sources[one.source].name}, record {one.number})")
        for one in solved[:shown]
    ]  # fmt: skip
    title = "Answered without the picture, the surest first"
    write_groups([(title, describe_blind(shares), laid)], page)


def describe_blind(shares: Sequence[BlindShare]) -> list[str]:
    """A line for each source."""
    return [
        f"{each.name}: {100 * each.blind:.1f}% of {each.questions:,} questions are answered word "
        f"for word without the picture (95%: {100 * each.low:.1f} to {100 * each.high:.1f}), "
        f"{100 * each.seeing:.1f}% with it"
        for each in shares
    ]
