"""What a linear probe reads off a frozen encoder's features of real pictures.

    lucida fetch real-mini
    python benchmarks/real.py [--encoder lucida:siglip-mini] [--category name]

The features of a picture are the mean over its patches. The probe (logistic regression, its weight
decay chosen on the validation part) learns the answers of train.csv and is asked those of test.csv;
the interval resamples pictures. The most usual answer stands beside it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from torch.nn import functional as F

from lucida.core.recipe import load_recipe
from lucida.data.images import file_source
from lucida.data.sample import ImageSource
from lucida.eval.statistics import bootstrap
from lucida.model.checkpoint import build

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="real/efficientnet-lite0")
    parser.add_argument("--data", type=Path, default=Path("real/stamps"))
    parser.add_argument("--category", default="kind")
    given = parser.parse_args()
    recipe = load_recipe("real-mini", [f"model.vision.path={given.encoder}"])
    model, processor = build(recipe.model)
    features = {}

    def collect(part: str) -> tuple[torch.Tensor, list[str], list[str]]:
        with (given.data / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["category"] == given.category]
        missing = sorted({row["image"] for row in rows} - features.keys())
        for start in range(0, len(missing), 16):
            names = missing[start : start + 16]
            pictures: list[ImageSource] = [file_source(given.data / name) for name in names]
            with torch.no_grad():
                encoded = model.encode_images(processor.pixels(pictures)).images()
                found = torch.cat(encoded).float().mean(1)
            features.update(zip(names, found, strict=True))
        names = [row["image"] for row in rows]
        return torch.stack([features[n] for n in names]), [row["answer"] for row in rows], names

    parts = {part: collect(part) for part in ("train", "validation", "test")}
    known = sorted(set(parts["train"][1]))
    tried = {decay: fit(parts["train"], known, decay) for decay in DECAYS}
    decay = max(tried, key=lambda d: sum(right(tried[d], parts["validation"], known)))
    scores = right(tried[decay], parts["test"], known)
    answers = parts["train"][1]
    usual = max(known, key=answers.count)
    majority = [float(answer == usual) for answer in parts["test"][1]]
    told = ((f"linear probe (decay {decay:g})", scores), (f"majority ({usual})", majority))
    for what, values in told:
        found = bootstrap(values, parts["test"][2])
        score = f"{100 * found.mean:5.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        print(f"{given.category:6} {given.encoder:26} {what:28} {score}")


def fit(part: tuple, known: list[str], decay: float):
    """A probe of standardised features: from features to logits of the known answers."""
    inputs, answers, _ = part
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-5
    labels = torch.tensor([known.index(answer) for answer in answers])
    matrix = torch.zeros(inputs.shape[1], len(known), requires_grad=True)
    bias = torch.zeros(len(known), requires_grad=True)
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=200, line_search_fn="strong_wolfe")
    seen = (inputs - mean) / deviation

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(seen @ matrix + bias, labels) + decay * matrix.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda given: ((given - mean) / deviation) @ matrix.detach() + bias.detach()


def right(probe, part: tuple, known: list[str]) -> list[float]:
    inputs, answers, _ = part
    chosen = probe(inputs).argmax(1).tolist()
    return [float(known[at] == answer) for at, answer in zip(chosen, answers, strict=True)]


if __name__ == "__main__":
    main()
