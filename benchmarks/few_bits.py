"""What weights in fewer bits cost a run: bytes, processor time, right answers.

python benchmarks/few_bits.py RUN [--questions 60] [--tasks attribute,...] [--threads 1]

Each form answers the same questions of the miniature world's test split, greedily and in batches;
processor time is of one pass behind a short one. Needs `pip install 'lucida[quantize]'`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from asking_cases import ask_world, is_right

from lucida.model.checkpoint import load
from lucida.model.decode import greedy
from lucida.model.few_bits import WEIGHTS, count_bytes

TASKS = "attribute,counting,spatial-pointed,presence-adversarial"
TOKENS = 24


def main() -> None:
    """Load in each form, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asked = [example for _, example in ask_world(args.tasks, args.questions)]
    samples, plain = [example.sample for example in asked], None
    for weights in (None, *WEIGHTS):
        model, processor = load(args.run, weights=weights)
        with torch.inference_mode():
            greedy(model, processor, samples[:4], TOKENS)
            begun = time.process_time()
            said = greedy(model, processor, samples, TOKENS)
            seconds = time.process_time() - begun
        plain = plain or said
        right = sum(is_right(each, text) for each, text in zip(asked, said, strict=True))
        same = sum(a == b for a, b in zip(said, plain, strict=True))
        decoder = count_bytes(model.language.base_model.layers)
        print(
            f"{weights or 'as it is'}: decoder {decoder:,} bytes of {count_bytes(model):,}; "
            f"{seconds:.2f} s of processor time; {right} of {len(asked)} right, {same} as at first",
            flush=True,
        )


if __name__ == "__main__":
    main()
