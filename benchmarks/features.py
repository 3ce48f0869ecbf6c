"""Reading cached features beside computing them, for SigLIP-B/16 at 224 pixels.

    live      decode the pictures' pixels, run the encoder (as a stage without the cache does)
    encoder   run the encoder alone, on pixels that are there already
    cache     read the features of the same pictures (files that the system has just written and
              still holds in memory; a cold disk gives its own rate for the bytes printed)

Random weights, bf16 where the processor multiplies it natively; both give the same features up to
the cache's half precision. Sides alternate. Also printed: bytes an image, and what happens at the
cap.

    python benchmarks/features.py [--images 32] [--repetitions 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from llava_twin import lucida_model, parts
from PIL import Image
from timing import alternate, ratio

from lucida.core.progress import table
from lucida.data.features import FeatureCache
from lucida.data.images import file_source
from lucida.data.policies import make_policy
from lucida.data.sample import ImageSource, Views
from lucida.data.views import draw, normalise
from lucida.training.precision import choose_device, choose_precision

LEAST = 20
"""Times that reading has to be faster than the encoder."""


def main() -> None:
    """Fill a cache in a temporary folder, time both sides, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = choose_device()
    precision = choose_precision("auto", device)
    vision, text = parts("google/siglip-base-patch16-224", "Qwen/Qwen2.5-0.5B")
    text.num_hidden_layers, text.vocab_size = 1, 1000  # the language model is not asked
    model = lucida_model(vision, text).to(device).requires_grad_(False)
    policy = make_policy("resize", vision.image_size, (0.5,) * 3, (0.5,) * 3)

    def compute(images: list[ImageSource]) -> Views:
        return encode(normalise([draw(images, (policy,))]))

    def encode(pixels: Views) -> Views:
        with precision.autocast():
            return model.encode_images(pixels).to("cpu", torch.float32)

    with tempfile.TemporaryDirectory(prefix="lucida-features-") as name:
        images = pictures(Path(name), given.images)
        pixels = normalise([draw(images, (policy,))])
        shape = (model.config.patches, model.config.vision_width)
        filled = FeatureCache(Path(name) / "cache", "spec", shape)
        filled.fill(images, compute)
        cache = FeatureCache(Path(name) / "cache", "spec", shape)
        apart = (cache.get(images, never).values - compute(images).values).abs().max().item()
        largest = compute(images).values.abs().max().item()
        if apart > 2e-3 * largest:
            raise SystemExit(f"cached and live features differ by {apart} of {largest}")
        sides = {
            "live": lambda: compute(images),
            "encoder": lambda: encode(pixels),
            "cache": lambda: cache.get(images, never),
        }
        times = alternate(sides, given.repetitions)
        rows = [
            [
                side,
                f"{given.images / statistics.median(timing.cpu):,.0f}",
                f"{given.images / statistics.median(timing.wall):,.0f}",
                ratio(timing.cpu, times["cache"].cpu),
                ratio(timing.wall, times["cache"].wall),
            ]
            for side, timing in times.items()
        ]
        columns = ["side", "images/CPU s", "images/s", "cache faster, CPU", "cache faster, wall"]
        table(f"features of SigLIP-B/16, {precision}", columns, rows)
        print(
            f"{cache}: {(cache.path / 'features.bin').stat().st_size / len(cache):,.0f} bytes each"
        )
        at_the_cap(Path(name) / "capped", shape, images, compute)
    encoder, read = (statistics.median(times[name].cpu) for name in ("encoder", "cache"))
    if encoder < LEAST * read:
        raise SystemExit(f"reading is only {encoder / read:.1f} times faster than the encoder")


def at_the_cap(folder: Path, shape: tuple[int, int], images: list[ImageSource], compute) -> None:
    """Half of the images find room; the others are computed at every look and counted."""
    # Half precision: 2 bytes a number.
    limit = len(images) // 2 * shape[0] * shape[1] * 2
    cache = FeatureCache(folder, "spec", shape, limit_bytes=limit)
    first = cache.get(images, compute)
    again = cache.get(images, compute)
    used = (cache.path / "features.bin").stat().st_size
    if used > limit or (again - first).abs().max() > 0.01 * first.abs().max():
        raise SystemExit("the cap does not hold")
    print(
        f"capped at {limit:,} bytes: {used:,} on the disk, {len(cache)} of {len(images)} images "
        f"kept, {cache.unstored} computed without room in two looks"
    )


def never(images: list[ImageSource]) -> Views:
    """Stands where everything has to be on the disk."""
    raise SystemExit(f"{len(images)} images are not in the cache")


def pictures(folder: Path, many: int) -> list[ImageSource]:
    """JPEG files of 640 x 480 with structure at every scale."""
    from loader import photo

    found = []
    for number in range(many):
        file = folder / f"{number}.jpg"
        Image.fromarray(photo(np.random.default_rng(number), 640, 480)).save(file, quality=90)
        found.append(file_source(file))
    return found


if __name__ == "__main__":
    main()
