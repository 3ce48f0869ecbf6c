"""From files to batches: Lucida's loader beside transformers' processor in torch's DataLoader.

Both read the same LLaVA-style records and JPEG files, tokenise the same texts, give pixels of 384 a
side in two worker processes, and the pixels must agree.

    transformers     LlavaProcessor (SigLIP's image processor as it comes without torchvision)
    lucida           its loader, whole pictures: the same pixels
    lucida scaled    `batch.decoding=scaled`: large JPEGs at a fraction of their size, other pixels

for pictures of 640 x 480 and 2048 x 1536 with the spectrum of photographs (see `photo`).
CPU time is of one process that prepares batches one after the other; the clock's is with workers,
the first two batches left out. At the end `mini` trains without cached features: how long it waits.

    python benchmarks/loader.py [--images 128] [--repetitions 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import alternate, ratio
from torch.utils.data import DataLoader
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.core.spec import BatchSpec
from lucida.data.loader import Loader
from lucida.data.mixture import Mixture
from lucida.data.policies import make_policy
from lucida.data.reader import draw_images
from lucida.data.sources.llava import LlavaSource
from lucida.data.stage import StageData
from lucida.model.parts import part_path
from lucida.model.processing import LucidaProcessor

SIDE, PATCH, SAMPLES = 384, 14, 16
VISUAL = (SIDE // PATCH) ** 2
SIZES = {"640 x 480": (640, 480, 16), "2048 x 1536": (2048, 1536, 4)}
"""Width, height, and how many different pictures there are; records take them in turn."""
STEPS, FIRST = 24, 4
"""Steps of a training run, and how many of them are left out: nothing is prepared before them."""


def main() -> None:
    """Time both sides on both sizes, then the wait of training runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--large-images", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="lucida-loader-") as folder:
        for name, (width, height, files) in SIZES.items():
            many = given.images if width < 1000 else given.large_images
            data = records(Path(folder) / name, width, height, files)
            rows += compared(name, data, many, given.repetitions, given.workers)
        columns = ["pictures", "side", "images/CPU s", "faster, CPU", "images/s", "faster, wall"]
        table(f"{given.workers} workers", columns, rows)
        waited = waiting(Path(folder) / "640 x 480" / "data.json", Path(folder) / "runs")
        columns = ["pictures", "seconds a step", "of it waiting", "longest wait (ms)"]
        table("training `mini` without cached features", columns, waited)


def photo(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] whose amplitudes fall with 1 / frequency, as in photographs."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(down, across), 1 / max(width, height))
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((height, width))) * falling
        planes.append(np.fft.irfft2(noise, (height, width)))
    grey = planes[0]
    mixed = np.stack([grey + 0.3 * plane for plane in planes], axis=-1)
    return np.clip(128 + 50 * mixed / mixed.std(), 0, 255).astype(np.uint8)


def records(folder: Path, width: int, height: int, files: int) -> Path:
    """A LLaVA-style file of records and its pictures."""
    folder.mkdir()
    for number in range(files):
        image = Image.fromarray(photo(np.random.default_rng(number), width, height))
        image.save(folder / f"{number}.jpg", quality=90)
    size = sum(file.stat().st_size for file in folder.iterdir()) / files
    print(f"{width} x {height}: {size / 1000:,.0f} kB a picture")
    written = []
    for number in range(1024):
        turns = [
            {"from": "human", "value": "<image>\nWhat is in the picture, and where does it stand?"},
            {"from": "gpt", "value": "A bus stands on the left of the street. " * (number % 5 + 1)},
        ]
        written.append({"id": number, "image": f"{number % files}.jpg", "conversations": turns})
    file = folder / "data.json"
    file.write_text(json.dumps(written))
    return file


def tokenizer() -> PreTrainedTokenizerFast:
    """The shipped tokenizer, which knows the placeholder."""
    found = PreTrainedTokenizerFast.from_pretrained(part_path("lucida:base-mini"))
    found.add_special_tokens({"extra_special_tokens": ["<image>"]})
    return found


def lucida(file: Path, workers: int, decoding: str) -> Loader:
    """Lucida's loader of the file."""
    policy = make_policy("resize", SIDE, (0.5,) * 3, (0.5,) * 3)
    processor = LucidaProcessor(tokenizer(), "<image>", policy, "vicuna", VISUAL, max_length=2048)
    data = StageData(
        Mixture({"one": LlavaSource(file)}, {"one": 1.0}, 0),
        processor.encode,
        BatchSpec(samples=SAMPLES, workers=workers, decoding=decoding),
        look=partial(draw_images, partial(processor.draw, scaled=decoding == "scaled")),
    )
    return Loader(data, pad_id=0)


class Records:
    """The same records for transformers."""

    def __init__(self, file: Path, order: list[int]) -> None:
        self.folder, self.records = file.parent, json.loads(file.read_text())
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        record = self.records[self.order[index]]
        asked, told = (turn["value"] for turn in record["conversations"])
        image = Image.open(self.folder / record["image"]).convert("RGB")
        return image, f"USER: {asked} ASSISTANT: {told}</s>"


class Collate:
    """Pictures and texts of a batch → tensors, as transformers' documentation has it."""

    def __init__(self) -> None:
        pictures = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
        words = tokenizer()
        words.padding_side = "right"
        words.pad_token = words.pad_token or words.eos_token
        self.processor = LlavaProcessor(
            pictures, words, patch_size=PATCH, vision_feature_select_strategy="full"
        )

    def __call__(self, rows: list[tuple[Image.Image, str]]) -> dict[str, Any]:
        images, texts = zip(*rows, strict=True)
        return self.processor(
            images=list(images), text=list(texts), padding=True, return_tensors="pt"
        )


def compared(name: str, file: Path, images: int, repetitions: int, workers: int) -> list[list[str]]:
    """Rows of the table for one size of pictures."""
    steps = images // SAMPLES
    exact, scaled = (lucida(file, 0, way) for way in ("exact", "scaled"))
    passes = list(itertools.islice(exact.order.passes(), steps + 2))
    order = [exact.mixture.draw(n).index for rows in passes for row in rows for n in row]
    theirs, collate = Records(file, order), Collate()

    def prepare(loader: Loader) -> None:
        for rows in passes[:steps]:
            loader._preparation.prepare(rows)

    def process() -> None:
        for begin in range(0, images, SAMPLES):
            collate([theirs[n] for n in range(begin, begin + SAMPLES)])

    agree(exact._preparation.prepare(passes[0]).batch, collate([theirs[n] for n in range(SAMPLES)]))
    cpu = alternate(
        {
            "transformers": process,
            "lucida": partial(prepare, exact),
            "lucida scaled": partial(prepare, scaled),
        },
        repetitions,
        warm_up=0,
    )
    wall: dict[str, list[float]] = {side: [] for side in cpu}
    for _ in range(repetitions):
        streams = {
            "transformers": iter(
                DataLoader(theirs, SAMPLES, num_workers=workers, collate_fn=collate)
            ),
            "lucida": lucida(file, workers, "exact").batches(),
            "lucida scaled": lucida(file, workers, "scaled").batches(),
        }
        for side in list(streams):
            wall[side].append(clocked(streams.pop(side), steps))
    return [
        [
            name,
            side,
            f"{images / statistics.median(cpu[side].cpu):,.0f}",
            ratio(cpu["transformers"].cpu, cpu[side].cpu),
            f"{images / statistics.median(wall[side]):,.0f}",
            ratio(wall["transformers"], wall[side]),
        ]
        for side in cpu
    ]


def clocked(stream: Iterator, steps: int) -> float:
    """Seconds of so many batches behind the first two."""
    next(stream), next(stream)
    begun = time.perf_counter()
    for _ in range(steps):
        next(stream)
    taken = time.perf_counter() - begun
    if hasattr(stream, "close"):
        stream.close()
    return taken


def agree(ours: Any, theirs: dict[str, Any]) -> None:
    """Stops unless both sides gave the same pixels and as many placeholders."""
    apart = (torch.cat(ours.pixel_values.images()) - theirs["pixel_values"]).abs().max().item()
    if apart > 1e-5:
        raise SystemExit(f"the pixels differ by {apart}")
    placeholder = tokenizer().convert_tokens_to_ids("<image>")
    many = [int((ours.image > 0).sum()), int((theirs["input_ids"] == placeholder).sum())]
    if many[0] != many[1]:
        raise SystemExit(f"placeholders differ: {many}")


def waiting(file: Path, folder: Path) -> list[list[str]]:
    """Runs of `lucida.train` whose pictures are not cached: the share of time that steps wait for
    data, as every run writes it into its metrics (`data_wait`)."""
    from lucida.core.runs import RunFolder
    from lucida.training.loop import train_run

    pictures = f"stages.0.mixture.sources={{jpeg: {{kind: llava, path: '{file}'}}}}"
    rows = []
    for name, changes in {
        "mini's own pictures, no workers": ["stages.0.batch.workers=0"],
        "mini's own pictures, 2 workers": ["stages.0.batch.workers=2"],
        "JPEGs of 640 x 480, 2 workers": ["stages.0.batch.workers=2", pictures],
    }.items():
        changes += [f"stages.0.budget.steps={STEPS}", "stages.0.batch.cache_features=false"]
        recipe = load_recipe("mini", [*changes, "blind=null"])
        place = folder / str(len(rows))
        train_run(recipe, place)
        steps = [row for row in RunFolder(place).metrics.read() if "data_wait" in row][FIRST:]
        seconds = [recipe.stages[0].batch.samples / row["samples_per_second"] for row in steps]
        waited = [row["data_wait"] * took for row, took in zip(steps, seconds, strict=True)]
        told = [f"{statistics.median(seconds):.2f}", f"{sum(waited) / sum(seconds):.1%}"]
        rows.append([name, *told, f"{1000 * max(waited):.0f}"])
    return rows


if __name__ == "__main__":
    main()
