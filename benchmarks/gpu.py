"""Everything that only a GPU can tell, in one command of at most nine minutes that fetches nothing.

    tests      those marked `gpu` (pytest -m gpu)
    training   a step beside transformers' Trainer (peers.py): SigLIP-so400m/384 with Qwen2.5-1.5B,
               and with Qwen2-7B where only the projector trains; random weights
    decoding   tokens a second of `generate` with one picture, batch 1 and 8, beside transformers'
    reading    pictures a second of the encoder alone

    python benchmarks/gpu.py [--out gpu.json] [--minutes 9] [--only decoding]

What was found is in the file after every part, so that a run that is cut off leaves what it had. A
part that fails says why, and the others still run. Without a GPU it says so and writes nothing;
`--toy` runs every part on the CPU with small shapes, to try the program itself (its figures mean
nothing). No figure of it is known yet: no GPU was at hand.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import torch
from llava_twin import Mix, llava_of, lucida_model, padded_batch, parts, toy_parts
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lucida.core.environment import describe
from lucida.core.files import atomic_write
from lucida.training.precision import choose_device, choose_precision

SO400M = "google/siglip-so400m-patch14-384"
SHAPES = {
    "1.5b": partial(parts, SO400M, "Qwen/Qwen2.5-1.5B-Instruct"),
    "7b": partial(parts, SO400M, "Qwen/Qwen2-7B-Instruct"),
}
NEW = 128
"""Tokens that are decoded for one figure."""
SHARES = {"tests": 0.25, "training 1.5b": 0.3, "training 7b": 0.2, "decoding": 0.2, "reading": 0.05}
"""Of the time, for each part."""


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--only", choices=list(SHARES), action="append")
    parser.add_argument("--toy", action="store_true", help="small shapes, on whatever is here")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.toy:
        print("skipped: this machine has no GPU that torch can use (--toy tries the program)")
        return
    measure_all(given.out, given.minutes, given.toy, given.only or list(SHARES))


def measure_all(out: Path, minutes: float, toy: bool, only: list[str]) -> dict:
    """The parts one after the other, each within its share of the time; what the file holds."""
    begun = time.monotonic()
    found: dict = {"environment": describe(" ".join(sys.argv)), "toy": toy, "device": name_device()}
    whole = sum(SHARES[name] for name in only)
    for name in only:
        left = 60 * minutes - (time.monotonic() - begun)
        seconds = min(left, 60 * minutes * SHARES[name] / whole)
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        started = time.monotonic()
        try:
            found[name] = PARTS[name](seconds, toy) if seconds > 5 else {"skipped": "no time left"}
        except Exception as problem:  # noqa: BLE001 - the other parts are still worth having
            traceback.print_exc()
            found[name] = {"error": f"{type(problem).__name__}: {problem}"}
        found[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        atomic_write(out, json.dumps(found, indent=1) + "\n")
        free()
    print(f"{out}: {time.monotonic() - begun:.0f} s")
    return found


def name_device() -> dict:
    """The GPU, or that there is none."""
    if not torch.cuda.is_available():
        return {"name": "cpu"}
    about = torch.cuda.get_device_properties(0)
    return {
        "name": about.name,
        "gigabytes": round(about.total_memory / 1e9, 1),
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
    }


def free() -> None:
    """Give back what a part has held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_tests(seconds: float, toy: bool) -> dict:
    """The tests marked `gpu`; without a GPU they are only collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--no-header", "-p"]
    command += ["no:cacheprovider", str(Path(__file__).parents[1] / "tests" / "gpu")]
    command += ["--collect-only"] if toy else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as problem:
        return {"status": "out of time", "tail": str(problem.stdout)[-2000:]}
    return {"status": done.returncode, "tail": done.stdout[-3000:]}


def train(shape: str, seconds: float, toy: bool) -> dict:
    """A step of ours and of the peer: samples and tokens a second, share of the peak, memory."""
    # 7B in fp32 with both programs' moments would be 240 GB: there the projector trains alone.
    language = shape == "1.5b"
    build = toy_parts if toy else SHAPES[shape]
    samples = 2 if toy else 16 if language else 8
    case = peers.Case(build, "mix", samples, language=language)
    result = peers.time_case(f"training {shape}", case, 1 if toy else 4, 5, seconds / 60)
    return {"samples a step": case.samples, "language trains": language, "sides": result.rows()}


def decode(seconds: float, toy: bool) -> dict:
    """Tokens a second of greedy `generate` behind one picture, and how long the first takes."""
    until = time.monotonic() + seconds
    found: dict = {}
    new = 8 if toy else NEW
    for shape, build in {"toy": toy_parts}.items() if toy else SHAPES.items():
        vision, text = build()
        models = make_both(vision, text)
        for many in (1, 8):
            inputs = prompts(vision, text, many)
            for side, model in models.items():
                if time.monotonic() > until:
                    found["stopped"] = "out of time"
                    return found
                found[f"{shape}, batch {many}, {side}"] = time_decoding(model, inputs, new)
        del models
        free()
    return found


def make_both(vision: PreTrainedConfig, text: PreTrainedConfig) -> dict[str, nn.Module]:
    """Lucida's model and transformers' with the same weights, for asking."""
    device = choose_device()
    dtype = choose_precision("auto", device).dtype
    torch.manual_seed(0)
    with device:
        ours = lucida_model(vision, text).to(dtype).eval()
        theirs = llava_of(ours, vision).to(dtype).eval()
    for model in (ours, theirs):
        model.generation_config.eos_token_id = None  # every answer has the same length
    return {"lucida": ours, "transformers": theirs}


def prompts(vision: PreTrainedConfig, text: PreTrainedConfig, many: int) -> dict[str, Tensor]:
    """A picture and a question for each row, all of one length."""
    patches = (vision.image_size // vision.patch_size) ** 2
    mix = Mix("vqa", patches, text.vocab_size)
    batch = padded_batch([mix.sample(0)] * many, vision.image_size)
    device = choose_device()
    names = ("input_ids", "attention_mask", "pixel_values")
    inputs = {name: batch[name].to(device) for name in names}
    inputs["pixel_values"] = inputs["pixel_values"].to(choose_precision("auto", device).dtype)
    return inputs


@torch.inference_mode()
def time_decoding(model: nn.Module, inputs: dict[str, Tensor], new: int) -> dict:
    """Seconds to the first token, and tokens a second of the others."""

    def once(tokens: int) -> float:
        peers.wait()
        begun = time.perf_counter()
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        peers.wait()
        return time.perf_counter() - begun

    once(2)
    first = statistics.median(once(1) for _ in range(3))
    whole = statistics.median(once(new + 1) for _ in range(2))
    rows = len(inputs["input_ids"])
    return {
        "first token s": round(first, 4),
        "tokens/s": round(rows * new / max(whole - first, 1e-9), 1),
        "memory GB": round(peers.peak_memory(), 2),
    }


@torch.inference_mode()
def read(seconds: float, toy: bool) -> dict:
    """Pictures a second of the frozen encoder, as the cache of features asks it."""
    vision, text = toy_parts() if toy else SHAPES["1.5b"]()
    device = choose_device()
    dtype = choose_precision("auto", device).dtype
    with device:
        encoder = lucida_model(vision, text).vision.to(dtype).eval()
    many = 2 if toy else 64
    pixels = torch.randn(many, 3, vision.image_size, vision.image_size).to(device, dtype)
    encoder(pixels)
    until, times = time.monotonic() + seconds / 2, []
    while not times or (time.monotonic() < until and len(times) < 20):
        peers.wait()
        begun = time.perf_counter()
        encoder(pixels)
        peers.wait()
        times.append(time.perf_counter() - begun)
    return {"batch": many, "pictures/s": round(many / statistics.median(times), 1)}


PARTS: dict[str, Callable[[float, bool], dict]] = {
    "tests": run_tests,
    "training 1.5b": partial(train, "1.5b"),
    "training 7b": partial(train, "7b"),
    "decoding": decode,
    "reading": read,
}

if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    main()
