"""The machine and the packages: what would fail or be slow before any recipe is at fault."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from lucida.apps.doctor.finding import Finding
from lucida.apps.plan.devices import time_product
from lucida.core.environment import usable_cores
from lucida.core.spec import Recipe
from lucida.data.sources.sidecar import cache_folder
from lucida.training.machine import describe_machine
from lucida.training.precision import choose_device, choose_precision, slowness

EXTRAS = {
    "peft": "adapters (lora)",
    "timm": "encoders named timm:…",
    "bitsandbytes": "weights in 4 or 8 bits",
}
"""Packages that only some recipes need."""
INSTALL = {"timm": "--no-deps timm (with its torchvision only next to a torch for CUDA)"}
"""What to say to pip, where it is not the name alone."""
LITTLE, NONE = 5e9, 5e8
"""Bytes of free disk below which there is a warning, and below which a run will not end well."""


def environment_checks(recipe: Recipe | None = None) -> Iterator[Finding]:
    """Findings about this machine; with a recipe also about what it needs."""
    yield versions()
    yield torchvision()
    yield from extras(recipe)
    yield device()
    yield precision(recipe)
    yield threads(recipe)
    yield disk(Path.cwd(), "disk, working folder")
    yield cache()


def versions() -> Finding:
    """Python and the packages that results depend on."""
    names = ("torch", "transformers", "tokenizers", "safetensors")
    found = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Finding("versions", "note", f"Python {sys.version.split()[0]}, {found}")


def torchvision() -> Finding:
    """A torchvision of another torch breaks transformers' imports far from its cause."""
    name = "torchvision"
    if importlib.util.find_spec("torchvision") is None:
        return Finding(name, "ok", "not installed, and not needed")
    # In its own process: a failed import leaves half a package behind in this one.
    tried = subprocess.run(
        [sys.executable, "-c", "import torchvision; print(torchvision.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return Finding(name, "ok", f"{tried.stdout.strip()} can be imported")
    last = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "no message"
    return Finding(
        name,
        "broken",
        f"cannot be imported: {last}",
        f"a build for torch {torch.__version__}, or none at all",
        "pip uninstall torchvision; Lucida needs none, not for timm either, and transformers then"
        " does not use it",
    )


def extras(recipe: Recipe | None) -> Iterator[Finding]:
    """Optional packages: broken when this recipe needs one that is missing."""
    needed = needs(recipe) if recipe is not None else {}
    for package, purpose in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        if package in needed and not there:
            yield Finding(
                f"extra {package}",
                "broken",
                "not installed",
                f"{package}, for {needed[package]}",
                f"pip install {INSTALL.get(package, package)}",
            )
        elif there:
            yield Finding(f"extra {package}", "ok", metadata.version(package))
        else:
            yield Finding(f"extra {package}", "note", f"not installed; only for {purpose}")


def needs(recipe: Recipe) -> dict[str, str]:
    """Package → what in this recipe needs it."""
    found = {}
    for stage in recipe.stages:
        if stage.lora is not None:
            found["peft"] = f"stages.{stage.name}.lora"
    vision = recipe.model.vision
    encoders = [] if vision is None else [vision, *vision.more]
    if any(encoder.path.startswith(("timm:", "timm/")) for encoder in encoders):
        found["timm"] = "model.vision"
    if recipe.model.language.quantize is not None:
        found["bitsandbytes"] = "model.language.quantize"
    return found


def device() -> Finding:
    """What training would run on."""
    machine = describe_machine()
    if machine.kind == "cpu":
        return Finding("device", "note", "CPU; no accelerator that torch can use")
    if machine.kind == "mps":
        return Finding("device", "note", f"{machine}: one process, fp32; nothing was tried on one")
    properties = torch.cuda.get_device_properties(0)
    count, memory = torch.cuda.device_count(), properties.total_memory / 2**30
    return Finding("device", "ok", f"{count} x {machine}, {memory:.0f} GiB")


def precision(recipe: Recipe | None) -> Finding:
    """The precision of matrix products, measured and not only looked up."""
    name, where = "precision", choose_device()
    chosen = choose_precision("auto" if recipe is None else recipe.precision, where)
    measured = str(chosen)
    if where.type == "cuda":
        full, half = time_product(torch.float32, where), time_product(torch.bfloat16, where)
        measured += f"; 1024 x 1024 products: bf16 {full / half:.1f} x as fast as fp32"
    if slowness(chosen.name, where):
        expected = f"{chosen.name} faster than fp32"
        return Finding(name, "warn", measured, expected, "set precision=auto or fp32")
    return Finding(name, "ok", measured)


def threads(recipe: Recipe | None) -> Finding:
    """More threads than cores slow each other down."""
    wanted = torch.get_num_threads() if recipe is None else recipe.threads
    wanted = wanted or torch.get_num_threads()
    cores = usable_cores()
    measured = f"{wanted} thread{'s' * (wanted != 1)} on {cores} usable core{'s' * (cores != 1)}"
    if wanted > cores:
        remedy = f"set threads={cores}, or OMP_NUM_THREADS={cores}"
        return Finding("threads", "warn", measured, f"at most {cores}", remedy)
    return Finding("threads", "ok", measured)


def disk(folder: Path, name: str) -> Finding:
    """Room for checkpoints or cached features."""
    free = shutil.disk_usage(folder).free
    measured = f"{free / 1e9:.1f} GB free in {folder}"
    if free >= LITTLE:
        return Finding(name, "ok", measured)
    remedy = "make room, or run from another disk; LUCIDA_CACHE moves the cache"
    return Finding(name, "broken" if free < NONE else "warn", measured, f"{LITTLE:.0e}", remedy)


def cache() -> Finding:
    """The folder of features and other things that can be computed again."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / ".doctor"
        trial.write_bytes(b"x")
        trial.unlink()
    except OSError as problem:
        return Finding(
            "cache",
            "warn",
            f"{folder}: {problem.strerror or problem}; every run makes its features again",
            "a folder that can be written",
            "set LUCIDA_CACHE to one",
        )
    return disk(folder, "cache")
