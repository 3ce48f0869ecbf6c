"""Short answers to several questions about one picture: three ways with the same model.

    one by one      transformers' `generate`, a question at a time (lmms-eval's default)
    left-padded     transformers' `generate`, all questions about a picture as one batch
    shared stem     Lucida: the picture once, its key-value cache for all its questions

The answers of all three must be the same. CPU time with one thread, fp32; the ways alternate.

With `--mixed` the questions are each about another picture, or about none, of all lengths:

    one by one      transformers' `generate`, as above
    batch 1         Lucida, a question at a time
    token budget    Lucida, sorted by length and batched within a budget of positions

    python benchmarks/answering.py [--pictures N] [--questions 8] [--repetitions 3] [--mixed]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.data.sample import Sample
from lucida.data.sources.world import WorldSource
from lucida.model.checkpoint import build
from lucida.model.decode import greedy
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

NEW = 4


def main() -> None:
    """Time the ways and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, help="default 8, with --mixed 96")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--mixed", action="store_true")
    given = parser.parse_args()
    given.pictures = given.pictures or (96 if given.mixed else 8)
    torch.set_num_threads(1)
    model, processor = build(load_recipe("mini").model)
    model.eval()
    source = WorldSource(["attribute", "counting", "presence"], "test", given.pictures * 4)
    groups = [questions_of(sample, given.questions) for sample in source]
    groups = [group for group in groups if len(group) == given.questions][: given.pictures]
    if given.mixed:
        ways = mixed_ways(model, processor, groups)
    else:
        ways = picture_ways(model, processor, groups)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for repetition in range(given.repetitions + 1):
        for name, way in ways.items():
            begun = time.process_time()
            answers[name] = way()
            if repetition:  # the first warms up
                taken[name].append(time.process_time() - begun)
    base = next(iter(ways))
    first = statistics.median(taken[base])
    rows = [
        [
            name,
            f"{statistics.median(times):.2f}",
            f"{min(times):.2f} to {max(times):.2f}",
            f"{first / statistics.median(times):.2f}",
        ]
        for name, times in taken.items()
    ]
    asked = len(answers[base])
    columns = ["way", "CPU s (median)", "range", "times faster"]
    table(f"{asked} questions about {len(groups)} pictures", columns, rows)
    for name, said in answers.items():
        if said != answers[base]:
            raise SystemExit(f"the answers of `{name}` differ from those of `{base}`")


Ways = dict[str, Callable[[], list[str]]]


def picture_ways(
    model: LucidaModel, processor: LucidaProcessor, groups: list[list[Sample]]
) -> Ways:
    """Three ways to answer several questions about one picture."""
    return {
        "one by one": lambda: [
            text for group in groups for one in group for text in generated(model, processor, [one])
        ],
        "left-padded": lambda: [
            text for group in groups for text in generated(model, processor, group)
        ],
        "shared stem": lambda: [
            text.strip()
            for text in greedy(model, processor, [one for g in groups for one in g], NEW)
        ],
    }


def mixed_ways(model: LucidaModel, processor: LucidaProcessor, groups: list[list[Sample]]) -> Ways:
    """Three ways to answer one question of each group; every third loses its picture."""
    asked = []
    for number, group in enumerate(groups):
        one = group[number % len(group)]
        if number % 3 == 2:
            words = "Some words that stand before. " * (number % 7)
            (turn,) = one.branches[0]
            one = Sample(one.origin, (), (), ((replace(turn, parts=(words, *turn.parts)),),))
        asked.append(one)
    return {
        "one by one": lambda: [
            text for one in asked for text in generated(model, processor, [one])
        ],
        "batch 1": lambda: [greedy(model, processor, [one], NEW)[0].strip() for one in asked],
        "token budget": lambda: [text.strip() for text in greedy(model, processor, asked, NEW)],
    }


def questions_of(sample: Sample, count: int) -> list[Sample]:
    """Each question of a sample by itself, its answer removed."""
    branches = sample.branches[:count]
    return [Sample(sample.origin, sample.images, sample.stem, (b[:1],)) for b in branches]


@torch.no_grad()
def generated(model: LucidaModel, processor: LucidaProcessor, questions: list[Sample]) -> list[str]:
    """What `generate` answers to a left-padded batch."""
    inputs = processor.batch([processor.prompt(question) for question in questions])
    rows = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    new = rows[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


if __name__ == "__main__":
    main()
