"""One training step on the miniature world: Lucida's way beside what transformers does by default.

Both sides have the same weights, questions and dtype (fp32 and bf16), and their losses must agree.

    transformers  every question is a row with its own picture, padded to the longest; logits for
                  every position; the loss of `labels`
    + features    the same, with the frozen encoder's features given instead of pixels
    lucida        questions are branches behind one picture, packed without padding, features
                  cached, logits at supervised positions only

CPU time of forward and backward with one thread; the sides alternate within every repetition. On
general data, against Trainer itself: peers.py.

    python benchmarks/training_step.py [--samples 8] [--repetitions 5]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from timing import alternate, ratio

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, Batch, Sample
from lucida.data.sources import open_source
from lucida.model.checkpoint import build
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel
from lucida.training.objective import supervised_loss


def main() -> None:
    """Time the sides and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("mini")
    model, processor = build(recipe.model)
    model.vision.requires_grad_(False)
    source = open_source(recipe.stages[0].mixture.sources["world"])
    samples = [source[index] for index in range(given.samples)]
    for dtype in (torch.float32, torch.bfloat16):
        report(model, sides(model, processor, samples), dtype, given.repetitions)


def sides(
    model: LucidaModel, processor: LucidaProcessor, samples: list[Sample]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Name of a side → its mean loss over supervised tokens."""
    alone = [
        processor.encode(Sample(s.origin, s.images, s.stem, (branch,)))
        for s in samples
        for branch in s.branches
    ]
    padded = collate(alone, False, processor.tokenizer.pad_token_id, processor.pixels)
    packed = collate([processor.encode(s) for s in samples], True, 0, processor.pixels)
    with torch.no_grad():
        cached = model.encode_images(packed.pixel_values)
        repeated = model.encode_images(padded.pixel_values)
    packed.pixel_values, packed.features = None, cached

    def lucida() -> torch.Tensor:
        total, count = supervised_loss(model, packed)
        return total / count

    return {
        "transformers": lambda: labelled(model, padded, {"pixel_values": padded.pixel_values}),
        "+ features": lambda: labelled(model, padded, {"features": repeated}),
        "lucida": lucida,
    }


def labelled(model: LucidaModel, batch: Batch, images: dict[str, torch.Tensor]) -> torch.Tensor:
    """transformers' loss: logits everywhere, labels shifted inside."""
    labels = torch.full_like(batch.target, IGNORED)
    labels[:, 1:] = batch.target[:, :-1]
    mask = (batch.segment > 0).long()
    return model(
        input_ids=batch.input_ids, attention_mask=mask, labels=labels, use_cache=False, **images
    ).loss


def report(model: LucidaModel, all_sides: dict, dtype: torch.dtype, repetitions: int) -> None:
    """Print seconds, ratio and loss of every side in one dtype."""
    losses: dict[str, float] = {}

    def run(name: str) -> None:
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = all_sides[name]()
        loss.backward()
        losses[name] = loss.item()

    times = alternate({name: partial(run, name) for name in all_sides}, repetitions)
    first = times["transformers"]
    rows = [
        [
            name,
            f"{statistics.median(timing.cpu):.3f}",
            ratio(first.cpu, timing.cpu),
            ratio(first.wall, timing.wall),
            f"{losses[name]:.5f}",
        ]
        for name, timing in times.items()
    ]
    columns = ["side", "CPU s (median)", "times faster, CPU", "times faster, wall", "loss"]
    table(f"training step, {str(dtype).removeprefix('torch.')}", columns, rows)
    allowed = 1e-4 if dtype == torch.float32 else 3e-2
    spread = max(losses.values()) - min(losses.values())
    if spread > allowed * max(losses.values()):
        raise SystemExit(f"the sides disagree: losses {losses}")


if __name__ == "__main__":
    main()
