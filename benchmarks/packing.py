"""Packing on the length profile of LLaVA-1.5's 665K mix: positions wasted, time and memory.

The lengths are synthesised. Known: the records of each part (the paper's table of the mix) and 576
visual tokens for a picture; lengths end at 2048, as in LLaVA's training. Assumed: a log-normal text
length for each part, with the median and the spread in `PARTS`, which follow from how many turns a
record of the part has. `--scale` multiplies every median, to see how much hangs on that.

    padded        batches of 16 as they come, each padded to its longest
    grouped       the same, of samples sorted by length within 800
    first-fit     rows filled in the order of arrival, every open row looked at (the naive way)
    best-fit      best fit decreasing, over windows of 16,384
    packed        `lucida.data.pack`, which closes rows where best fit leaves gaps, over the same
                  windows and over the whole list

    python benchmarks/packing.py [--samples 1000000] [--scale 1.0]

Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023, arXiv 2310.03744,
table 7.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from timing import held_at_most

from lucida.core.progress import table
from lucida.data.mixture import Mixture
from lucida.data.order import WINDOW
from lucida.data.pack import best_fit, pack, waste

VISUAL_TOKENS = 576
LONGEST = 2048
PARTS = {
    # name: (thousand records, median text tokens, spread of their logarithm, has a picture)
    "LLaVA-Instruct": (158, 230, 0.5, True),
    "ShareGPT": (40, 1200, 0.8, False),
    "VQAv2": (83, 130, 0.3, True),
    "GQA": (72, 200, 0.5, True),
    "OKVQA": (9, 35, 0.3, True),
    "OCR-VQA": (80, 110, 0.3, True),
    "A-OKVQA": (66, 75, 0.3, True),
    "TextCaps": (22, 60, 0.3, True),
    "RefCOCO": (48, 250, 0.7, True),
    "Visual Genome": (86, 350, 0.6, True),
}
ROWS = (2048, 4096, 8192, 16384)
NAIVE = 20_000
"""Lengths that the naive way is given: it takes time with their square."""


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    lengths = profile(given.samples, given.scale)
    mean, middle = lengths.mean(), np.median(lengths)
    print(f"{len(lengths):,} lengths: mean {mean:.0f}, median {middle:.0f}, most {lengths.max()}")
    padded = [
        ["padded, as they come", f"{padding(lengths, 16):.1%}"],
        ["padded, grouped by length", f"{padding(grouped(lengths, 800), 16):.1%}"],
        ["end to end in one row (batch.tokens without row)", "0.0%"],
    ]
    table("batches of 16: wasted positions", ["way", "wasted"], padded)
    columns = ["row", "first-fit, naive", "best-fit", "packed", "packed, whole", "least possible"]
    table("rows of a fixed size: wasted positions", columns, [row(lengths, size) for size in ROWS])
    report_cost(lengths)


def profile(many: int, scale: float, seed: int = 0) -> np.ndarray:
    """Lengths in the order of a shuffled mix, int64 [many]."""
    rng = np.random.default_rng(seed)
    shares = np.array([part[0] for part in PARTS.values()], dtype=float)
    which = rng.choice(len(PARTS), size=many, p=shares / shares.sum())
    medians, spreads = (np.array([part[at] for part in PARTS.values()]) for at in (1, 2))
    visual = np.array([VISUAL_TOKENS * part[3] for part in PARTS.values()])
    text = np.exp(np.log(medians[which] * scale) + spreads[which] * rng.standard_normal(many))
    return np.clip(text.round() + visual[which], 4, LONGEST).astype(np.int64)


def padding(lengths: np.ndarray, batch: int) -> float:
    """Share of the positions of padded batches that is padding."""
    whole = lengths[: len(lengths) - len(lengths) % batch].reshape(-1, batch)
    return 1 - whole.sum() / (whole.max(axis=1) * batch).sum()


def grouped(lengths: np.ndarray, pool: int) -> np.ndarray:
    """The lengths, sorted within pools of so many."""
    whole = lengths[: len(lengths) - len(lengths) % pool].reshape(-1, pool)
    return np.sort(whole, axis=1).flatten()


def first_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """The naive way: each sample into the first row that takes it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for item, length in enumerate(lengths.tolist()):
        number = next((row for row, left in enumerate(room) if left >= length), len(rows))
        if number == len(rows):
            rows.append([])
            room.append(capacity)
        rows[number].append(item)
        room[number] -= length
    return rows


def row(lengths: np.ndarray, size: int) -> list[str]:
    """A line of the table of fixed rows."""
    fitted = sum(len(best_fit(window, size)) for window in windows(lengths))
    packed = in_windows(lengths, size)
    whole = pack(lengths, size)
    least = -(-int(lengths.sum()) // size)
    few = lengths[:NAIVE]
    shares = [
        waste(few, first_fit(few, size), size),
        1 - lengths.sum() / (fitted * size),
        1 - lengths.sum() / (packed * size),
        waste(lengths, whole, size),
        1 - lengths.sum() / (least * size),
    ]
    return [str(size), *(f"{share:.2%}" for share in shares)]


def windows(lengths: np.ndarray) -> list[np.ndarray]:
    """The lengths, cut where a stream is."""
    return [lengths[at : at + WINDOW] for at in range(0, len(lengths), WINDOW)]


def in_windows(lengths: np.ndarray, size: int) -> int:
    """Rows of all windows."""
    return sum(len(pack(window, size)) for window in windows(lengths))


def report_cost(lengths: np.ndarray) -> None:
    """Time of planning, and the memory of the process that did it all."""
    naive = seconds(lambda: first_fit(lengths[:NAIVE], 4096))
    times = len(lengths) / NAIVE
    every = range(len(lengths))
    stream = Mixture({"one": every}, {"one": 1.0}, 0)
    rows = [
        ["packed, whole list", f"{seconds(lambda: pack(lengths, 4096)):.2f} s"],
        ["packed, windows", f"{seconds(lambda: in_windows(lengths, 4096)):.2f} s"],
        ["which record each draw is", f"{seconds(lambda: stream.draws(every)):.2f} s"],
        ["first-fit, naive, by the square of its time", f"{naive * times**2:,.0f} s"],
        ["memory of this process, at most", f"{held_at_most():.2f} GB"],
    ]
    table(f"planning {len(lengths):,} lengths into rows of 4096 (CPU time)", ["what", ""], rows)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of a piece of work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
