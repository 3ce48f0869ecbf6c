"""Memory that `lucida plan` foretells against what training steps really hold, on this CPU.

    python benchmarks/plan.py

Mid-size models of random weights (a SigLIP and a Llama) train two steps each in a process of their
own, on scenes of the miniature world. Measured: the largest resident memory during the second step,
less what the process held before the model was made. Foretold: `plan`'s memory at once.

Recorded on 2 cores of an x86 CPU, torch 2.13, fp32, 16 samples a step:

    language and projector      foretold 1731 MiB   measured 1682 MiB   +3.0%
    projector only              foretold 1192 MiB   measured 1157 MiB   +3.0%
    all, layers computed again  foretold  699 MiB   measured  730 MiB   -4.3%
    language, products kept     foretold 1239 MiB   measured 1195 MiB   +3.7%
    gated layers                foretold 1330 MiB   measured 1425 MiB   -6.6%
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

MIB = 2**20
VISION = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
}
LANGUAGE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
CASES = {
    "language and projector": ["stages.sft.train={projector: 1e-3, language: 1e-3}"],
    "projector only": ["stages.sft.train={projector: 1e-3}"],
    "all, layers computed again": [
        "stages.sft.train={projector: 1e-3, language: 1e-3, vision: 1e-4}",
        "stages.sft.batch.checkpointing=full",
    ],
    "language, products kept": [
        "stages.sft.train={projector: 1e-3, language: 1e-3}",
        "stages.sft.batch.checkpointing=selective",
    ],
    "gated layers": [
        "stages.sft.train={projector: 1e-3, cross_attention: 1e-3}",
        "model.cross_attention={every: 2, heads: 8}",
    ],
}


def parts(folder: Path) -> None:
    """Write the two random models as Hugging Face folders."""
    import torch
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        SiglipVisionConfig,
    )

    from lucida.model.parts import part_path

    torch.manual_seed(0)
    AutoModel.from_config(SiglipVisionConfig(**VISION)).save_pretrained(folder / "vision")
    values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 64, "width": 64}}
    (folder / "vision/preprocessor_config.json").write_text(json.dumps(values))
    tokenizer = AutoTokenizer.from_pretrained(part_path("lucida:base-mini"))
    config = LlamaConfig(**LANGUAGE, vocab_size=len(tokenizer), pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")


def recipe_of(folder: Path, changes: list[str]):
    """The recipe `mini` with these parts, in fp32."""
    from lucida.core.recipe import load_recipe

    return load_recipe(
        "mini",
        [
            f"model.vision.path={folder}/vision",
            f"model.language.path={folder}/language",
            "precision=fp32",
            "stages.sft.batch.samples=16",
            "stages.sft.batch.cache_features=false",
            *changes,
        ],
    )


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the mark was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not say {field}")


def measure(folder: Path, changes: list[str]) -> int:
    """Bytes that two steps hold at most, beyond what was there before the model."""
    import gc

    from lucida.data.collate import collate
    from lucida.data.sources import open_source
    from lucida.model.checkpoint import build
    from lucida.training.kernels import quicken
    from lucida.training.layers import equip
    from lucida.training.objective import supervised_loss
    from lucida.training.optim import make_optimizer
    from lucida.training.stage import apply_plan, plan_stage

    recipe = recipe_of(folder, changes)
    before = resident("VmRSS")
    model, processor = build(recipe.model)
    stage = recipe.stages[0]
    what = plan_stage(model, stage.train, "benchmark")
    apply_plan(model, what.trained)
    quicken(model.language)
    equip(model, stage.batch.checkpointing, compiled=False)
    optimizer = make_optimizer(what.trained, stage.optim, model)
    (source,) = (open_source(each) for each in stage.mixture.sources.values())
    every = len(source) // 16
    samples = [processor.encode(source[every * index]) for index in range(16)]
    batch = collate(samples, True, processor.tokenizer.pad_token_id, processor.pixels)
    for _ in range(2):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        loss, count = supervised_loss(model, batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return resident("VmHWM") - before


def main() -> None:
    """Every case, foretold and measured."""
    from lucida.apps.plan.devices import GIB, Device
    from lucida.apps.plan.estimate import plan_recipe

    folder = Path(mkdtemp(prefix="lucida-plan-"))
    # Freed memory goes back to the system at once, so that what is resident is what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    device = Device("CPU", "fp32", 1e11, 0.5, 8 * GIB, gpu=False)
    try:
        parts(folder)
        for name, changes in CASES.items():
            memory = plan_recipe(recipe_of(folder, changes), device)["stages"][0]["memory"]
            done = subprocess.run(
                [sys.executable, __file__, str(folder), json.dumps(changes)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            measured, told = int(done.stdout.split()[-1]), memory["single"]["peak"]
            print(
                f"{name:30} foretold {told / MIB:7.0f} MiB   measured {measured / MIB:7.0f} MiB   "
                f"{told / measured - 1:+.1%}"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(Path(sys.argv[1]), json.loads(sys.argv[2])))
    else:
        main()
