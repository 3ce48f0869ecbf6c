"""How surely near-duplicates are found: recall of changed copies, and different pictures that count
as the same.

    python benchmarks/near.py [FOLDER] [--count 250]

Pictures are scenes of the miniature world, or those of a folder and below (Debian's
`tuxpaint-stamps-default`, unpacked: /usr/share/tuxpaint/stamps), laid on white.
"""

from __future__ import annotations

import argparse
import io
import random
from pathlib import Path

from PIL import Image, ImageEnhance

from lucida.apps.data.near import make_fingerprint, near_pictures
from lucida.world.drawing import draw
from lucida.world.scenes import make_scene


def read_folder(folder: Path, count: int) -> list[Image.Image]:
    """Some pictures of a folder, always the same ones."""
    files = sorted(folder.rglob("*.png")) + sorted(folder.rglob("*.jpg"))
    random.Random(0).shuffle(files)
    found = []
    for file in files[:count]:
        image = Image.open(file).convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        found.append(ground.convert("RGB"))
    return found


def encode(image: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scale(image: Image.Image, across: float, down: float) -> Image.Image:
    size = max(8, round(image.width * across)), max(8, round(image.height * down))
    return image.resize(size, Image.Resampling.BICUBIC)


def brighten(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def cut(image: Image.Image, most: float, rng: random.Random) -> Image.Image:
    """The picture without up to `most` of it at every side."""
    left, top, right, bottom = (rng.choice([most, rng.uniform(0, most)]) for _ in range(4))
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(width - right * width),
         round(height - bottom * height))
    )  # fmt: skip


def main() -> None:
    """Prints a line for each change."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=250)
    given = parser.parse_args()
    rng = random.Random(0)
    changes = {
        "half the size": lambda image: scale(image, 0.5, 0.5),
        "a third by a half": lambda image: scale(image, 1 / 3, 0.5),
        "twice the size": lambda image: scale(image, 2, 2),
        "JPEG 75": lambda image: encode(image, 75),
        "JPEG 30": lambda image: encode(image, 30),
        "brightness x 0.7": lambda image: brighten(image, 0.7),
        "brightness x 1.3": lambda image: brighten(image, 1.3),
        "cut 3%": lambda image: cut(image, 0.03, rng),
        "cut 6%": lambda image: cut(image, 0.06, rng),
        "cut 10%": lambda image: cut(image, 0.10, rng),
        "cut 5%, half, JPEG 60, x 0.85": lambda image: brighten(
            encode(scale(cut(image, 0.05, rng), 0.5, 0.5), 60), 0.85
        ),
    }
    if given.folder is None:
        images = [draw(make_scene(0, "train", number)) for number in range(given.count)]
    else:
        images = read_folder(given.folder, given.count)
    prints = [make_fingerprint(image) for image in images]
    same = set(near_pictures(prints))
    pairs = len(images) * (len(images) - 1)
    print(f"{len(images)} pictures, {len(same)} of {pairs // 2} pairs count as the same")
    known = same | {(other, one) for one, other in same}
    for name, change in changes.items():
        found = set(near_pictures(prints, [make_fingerprint(change(image)) for image in images]))
        right = sum((number, number) in found for number in range(len(images)))
        wrong = sum(one != other and (one, other) not in known for one, other in found)
        print(f"{name:30} recall {right / len(images):.3f}, further pairs {wrong} of {pairs}")


if __name__ == "__main__":
    main()
