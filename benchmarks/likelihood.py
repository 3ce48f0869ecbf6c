"""Likelihoods of four candidate answers: three ways with the same model.

    loop            one forward for each candidate, logits everywhere (lmms-eval's `loglikelihood`)
    padded batch    transformers' forward, the candidates of a question as one padded batch
    shared prefix   Lucida: pictures and questions once, candidates as twigs, many in one forward

Two cases: one question a picture, and several, which share the picture. All ways must choose the
same candidates with log-likelihoods within 1e-4. CPU time with one thread, fp32; the ways
alternate.

With `--grid 24` the pictures have 24 x 24 visual tokens, as LLaVA-1.5's have: the language model of
`mini` behind a SigLIP with random weights (two layers, 336 pixels). There one question a picture
cannot be much more than 4 times faster than the loop, which looks at each picture 4 times: nothing
is left to save but the looking.

    python benchmarks/likelihood.py [--pictures 8] [--questions 1 4] [--candidates 4] [--grid 24]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.core.spec import ModelSpec
from lucida.data.sample import Sample, Tokens
from lucida.data.sources.world import WorldSource
from lucida.eval.likelihood import continued, likelihoods
from lucida.model.checkpoint import build
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

ANSWERS = ["red", "blue", "two", "a large green square", "no", "three circles", "yes", "above"]


def main() -> None:
    """Time the ways and print the ratios, a table for each number of questions a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--grid", type=int, help="visual tokens along each side of a picture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = load_recipe("mini").model
    with TemporaryDirectory() as folder:
        if given.grid:
            spec = with_grid(spec, given.grid, Path(folder))
        model, processor = build(spec)
    model.eval()
    for questions in given.questions:
        compare(model, processor, questions, given)


def with_grid(spec: ModelSpec, grid: int, folder: Path) -> ModelSpec:
    """The design with an encoder of random weights that sees so many patches along each side."""
    side = 14 * grid
    config = SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=14,
    )
    SiglipVisionModel(config).save_pretrained(folder)
    size = {"height": side, "width": side}
    SiglipImageProcessor(size=size).save_pretrained(folder)
    values = spec.model_dump(mode="json")
    values["vision"] = {"path": str(folder)}
    return ModelSpec.model_validate(values)


def compare(
    model: LucidaModel, processor: LucidaProcessor, questions: int, given: argparse.Namespace
) -> None:
    """The ways for so many questions a picture; exits where they differ."""
    source = WorldSource(["attribute", "counting", "presence"], "test", given.pictures * 4)
    groups = [questions_of(sample, questions) for sample in source]
    asked = [one for group in groups if len(group) == questions for one in group]
    asked = asked[: given.pictures * questions]
    texts = ANSWERS[: given.candidates]
    ways: dict[str, Callable[[], list[list[float]]]] = {
        "loop": lambda: [
            [padded(model, processor, one, [text])[0] for text in texts] for one in asked
        ],
        "padded batch": lambda: [padded(model, processor, one, texts) for one in asked],
        "shared prefix": lambda: [
            [each.whole for each in one]
            for one in likelihoods(model, processor, asked, [texts] * len(asked))
        ],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for repetition in range(given.repetitions + 1):
        for name, way in ways.items():
            begun = time.process_time()
            found[name] = torch.tensor(way())
            if repetition:  # the first warms up
                taken[name].append(time.process_time() - begun)
    report(
        f"{len(asked)} questions, {questions} a picture, {len(texts)} candidates each", taken, asked
    )
    for name, values in found.items():
        error = float((values - found["loop"]).abs().max())
        same = bool((values.argmax(1) == found["loop"].argmax(1)).all())
        if error > 1e-4 or not same:
            raise SystemExit(f"`{name}` differs from `loop` by {error:.1e}")


def report(title: str, taken: dict[str, list[float]], asked: list[Sample]) -> None:
    """Medians, ranges, and how often faster than each of the two usual ways."""
    loop, batch = (statistics.median(taken[name]) for name in ("loop", "padded batch"))
    rows = [
        [
            name,
            f"{1000 * statistics.median(times) / len(asked):.2f}",
            f"{1000 * min(times) / len(asked):.2f} to {1000 * max(times) / len(asked):.2f}",
            f"{loop / statistics.median(times):.2f}",
            f"{batch / statistics.median(times):.2f}",
        ]
        for name, times in taken.items()
    ]
    columns = [
        "way",
        "CPU ms a question (median)",
        "range",
        "faster than loop",
        "than padded batch",
    ]
    table(title, columns, rows)


def questions_of(sample: Sample, count: int) -> list[Sample]:
    """Each question of a sample by itself, its answer removed."""
    branches = sample.branches[:count]
    return [Sample(sample.origin, sample.images, sample.stem, (b[:1],)) for b in branches]


@torch.no_grad()
def padded(
    model: LucidaModel, processor: LucidaProcessor, sample: Sample, texts: list[str]
) -> list[float]:
    """Log-likelihoods by transformers' forward: padded on the right, logits everywhere."""
    rows: list[Tokens] = [continued(processor, sample, text) for text in texts]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), processor.tokenizer.pad_token_id)
    seen, target = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.from_numpy(row.input_ids)
        seen[number, : len(row)] = 1
        target[number, : len(row)] = torch.from_numpy(row.target)
    pixels = processor.pixels([source for row in rows for source in row.images])
    logits = model(input_ids=ids, attention_mask=seen, pixel_values=pixels).logits
    losses = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (-losses.view(len(rows), length).sum(1)).tolist()


if __name__ == "__main__":
    main()
