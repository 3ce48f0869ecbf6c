"""Order, state and dealing to ranks at 10^9 samples and 1,000 ranks, simulated without data.

The real `Mixture` and `Order` run over sources that are only a length, with the sizes of web-scale
sets and weights unlike their sizes. Nothing is shortened but the places that are looked at: the
beginning, and windows far into the stream.

    python benchmarks/scale.py [--samples 1000000000] [--ranks 1000]
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from timing import held_at_most

from lucida.core.progress import table
from lucida.core.spec import BatchSpec
from lucida.data.lengths import Lengths
from lucida.data.mixture import Mixture
from lucida.data.order import WINDOW, Order

SHARES = {"captions": 0.62, "pages": 0.3, "text": 0.0799, "questions": 0.0001}
"""Share of the records."""
WEIGHTS = {"captions": 4.0, "pages": 4.0, "text": 1.0, "questions": 1.0}
ROW = 8192
STEPS = 8
"""Steps that are dealt out to ranks."""
LOOKED_AT = 1 << 20
"""Draws that are made at a place of the stream."""


def main() -> None:
    """Print what was asked for and what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--ranks", type=int, default=1000)
    given = parser.parse_args()
    sources = {name: range(round(given.samples * share)) for name, share in SHARES.items()}
    begun, before = time.perf_counter(), held_at_most()
    mixture = Mixture(sources, WEIGHTS, seed=0)
    first = mixture.draw(0)
    rows = [["start: mixture and its first draw", f"{1e3 * (time.perf_counter() - begun):.2f} ms"]]
    rows += [["memory of the mixture", f"{1e3 * max(0.0, held_at_most() - before):.1f} MB"]]
    rows += [["state of the stream", "one integer: the step's number"], ["first draw", str(first)]]
    rows += anywhere(mixture, given.samples)
    rows += once(mixture)
    title = f"{given.samples:.0e} samples in {len(sources)} sources"
    table(title, ["what", "found"], rows + dealt_by_samples(mixture, given.ranks))
    packed(given.ranks, given.samples)


def anywhere(mixture: Mixture, samples: int) -> list[list[str]]:
    """Proportions and time at the beginning, in the middle and far behind the first epoch."""
    rows = []
    wanted = np.array([WEIGHTS[name] for name in mixture.names]) / sum(WEIGHTS.values())
    for place in (0, samples // 2, 7 * samples):
        begun = time.process_time()
        which, _, _ = mixture.draws(range(place, place + LOOKED_AT))
        each = (time.process_time() - begun) / LOOKED_AT
        got = np.bincount(which, minlength=len(wanted)) / LOOKED_AT
        off = np.abs(got - wanted).max()
        rows += [
            [f"2^20 draws from {place:.1e} on", f"{1e6 * each:.2f} µs each, shares off {off:.1e}"]
        ]
    begun = time.process_time()
    for number in range(10_000):
        mixture.draw(7 * samples + 99_991 * number)
    each = (time.process_time() - begun) / 10_000
    return [*rows, ["a single draw at a far, unrelated place", f"{1e6 * each:.0f} µs"]]


def once(mixture: Mixture) -> list[list[str]]:
    """Does the smallest source come exactly once in an epoch, and a large part of another one?"""
    rows = []
    smallest = int(np.argmin(mixture.sizes))
    size, share = mixture.sizes[smallest], mixture.slots[smallest] / sum(mixture.slots)
    seen = np.zeros(size, dtype=np.int64)
    need = int(size / share) + 2 * sum(mixture.slots)
    which, index, _ = mixture.draws(range(need))
    np.add.at(seen, index[which == smallest][:size], 1)
    exact = "every record exactly once" if (seen == 1).all() else "NOT once each"
    rows += [[f"epoch of {mixture.names[smallest]} ({size:,})", exact]]
    largest = int(np.argmax(mixture.sizes))
    found = index[which == largest]
    again = len(found) - len(np.unique(found))
    rows += [[f"{len(found):,} draws of {mixture.names[largest]}", f"{again} repeated"]]
    return rows


def dealt_by_samples(mixture: Mixture, ranks: int) -> list[list[str]]:
    """Samples of each rank, and whether ranks together are the stream."""
    batch = BatchSpec(samples=4 * ranks)
    order, loads = Order(mixture, batch), np.zeros(ranks, dtype=np.int64)
    everything = []
    for (row,) in itertools.islice(order.passes(10**5), STEPS):
        hands = [row[rank::ranks] for rank in range(ranks)]
        loads += [len(hand) for hand in hands]
        everything += itertools.chain.from_iterable(hands)
    begin = 10**5 * batch.samples
    whole = sorted(everything) == list(range(begin, begin + STEPS * batch.samples))
    return [
        [f"step 100,000 on, {ranks} ranks: samples a rank", f"{loads.min()} to {loads.max()}"],
        ["all ranks together", "the stream, each sample once" if whole else "NOT the stream"],
    ]


def packed(ranks: int, samples: int) -> None:
    """Rows for 1,000 ranks: start-up, balance, and what planning costs at full size."""
    records = min(samples, 1 << 22)
    rng = np.random.default_rng(0)
    tokens = np.clip(np.exp(6.4 + 0.5 * rng.standard_normal(records)), 1, 4096).astype(np.int32)
    lengths = Lengths({"all": tokens}, {"all": np.ones(records, dtype=bool)})
    stream = Mixture({"all": range(records)}, {"all": 1.0}, seed=0)
    order = Order(stream, BatchSpec(tokens=ROW * ranks, row=ROW), lengths)
    begun = time.perf_counter()
    passes = order.passes()
    steps = [next(passes)]
    first = time.perf_counter() - begun
    begun = time.process_time()
    steps += itertools.islice(passes, STEPS - 1)
    each = (time.process_time() - begun) / sum(len(row) for step in steps[1:] for row in step)
    loads = np.zeros(ranks)
    for rows in steps:
        for rank in range(ranks):
            loads[rank] += sum(held(stream, tokens, row) for row in rows[rank::ranks])
    filled = loads.sum() / (STEPS * ranks * ROW)
    far = Order(stream, order.batch, lengths)
    begun = time.perf_counter()
    wanted = next(far.passes(400))
    anew = time.perf_counter() - begun
    begun = time.perf_counter()
    again = next(Order(stream, order.batch, lengths).passes(400, far.bookmark(400)))
    resumed = time.perf_counter() - begun
    found = [
        [f"first step of {ranks} rows of {ROW}", f"planned in {first:.2f} s"],
        ["planning, CPU time for each sample", f"{1e6 * each:.1f} µs on every rank"],
        ["tokens of a rank in 8 steps", f"{loads.min():,.0f} to {loads.max():,.0f}"],
        ["positions filled", f"{filled:.2%}"],
        ["finding step 400 without a bookmark, all windows planned", f"{anew:.1f} s"],
        ["resuming there, or at any step, by the checkpoint's bookmark", f"{resumed:.2f} s"],
        ["the same rows", "yes" if again == wanted else "NO"],
        ["table of lengths", f"{5 * samples / 1e9:.1f} GB for all records (5 bytes each)"],
        [
            "most memory of this process",
            f"{1e3 * held_at_most():.0f} MB ({records:,} lengths, windows of {WINDOW})",
        ],
    ]
    table("token budgets, packed", ["what", "found"], found)


def held(stream: Mixture, tokens: np.ndarray, row: list[int]) -> int:
    """Tokens in a row."""
    return int(tokens[stream.draws(row)[1]].sum())


if __name__ == "__main__":
    main()
