"""Short answers to questions about pictures: Lucida beside transformers with the same weights.

Several questions about each picture, answers of at most 4 tokens:

    lmms-eval's way   one request at a time by `generate`, written by the model's own processor
    one by one        transformers' `generate`, one question at a time
    left-padded       transformers' `generate`, all questions about a picture as one batch
    shared stem       Lucida: the picture once, its key-value cache for all its questions

With `--mixed` each question is about another picture, or about none, of all lengths; answers as
they come (at most 4 tokens), then answers of 24 tokens each (no end token is ever chosen):

    one by one        as above
    batch 1           Lucida, a question at a time
    token budget      Lucida, sorted by length and batched within a budget of positions

CPU time with one thread; the ways alternate in random order and ratios are taken within each
repetition. Cases and what "the same answers" means: asking_cases.py.

    python benchmarks/answering.py [--case mini toy] [--questions 8] [--mixed] [--repetitions 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from asking_cases import CASES, Case, agreed, groups_of, time_ways

from lucida.data.sample import Sample
from lucida.model.decode import write

Ways = dict[str, Callable[[], list[list[int]]]]


def main() -> None:
    """Time the ways and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pictures", type=int, help="default 8, with --mixed 24")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--mixed", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.case:
        torch.manual_seed(0)
        case = CASES[name]()
        groups = groups_of(given.pictures or (24 if given.mixed else 8), given.questions)
        if not given.mixed:
            asked = [one for group in groups for one in group]
            compare(case, asked, picture_ways(case, groups, 4), "at most 4", given.repetitions)
            continue
        asked = mixed(groups)
        compare(case, asked, mixed_ways(case, asked, 4), "at most 4", given.repetitions)
        case.never_end()
        compare(case, asked, mixed_ways(case, asked, 24), "24", given.repetitions)


def compare(case: Case, asked: list[Sample], ways: Ways, new: str, repetitions: int) -> None:
    """Run the ways, print how often faster than each of the others, and check the answers."""
    title = f"{case.name}: {len(asked)} questions, {new} new tokens"
    print(agreed(case, asked, time_ways(ways, len(asked), repetitions, title)))


def picture_ways(case: Case, groups: list[list[Sample]], new: int) -> Ways:
    """Ways to answer several questions about one picture."""
    asked = [one for group in groups for one in group]
    return {
        "lmms-eval's way": lambda: [case.as_lmms_eval(one, new) for one in asked],
        "one by one": lambda: [case.generated(case.inputs([one]), new)[0] for one in asked],
        "left-padded": lambda: [
            ids for group in groups for ids in case.generated(case.inputs(group), new)
        ],
        "shared stem": lambda: answered(case, asked, new),
    }


def mixed(groups: list[list[Sample]]) -> list[Sample]:
    """One question of each group; every third loses its picture and is of another length."""
    asked = []
    for number, group in enumerate(groups):
        one = group[number % len(group)]
        if number % 3 == 2:
            words = "Some words that stand before. " * (number % 7)
            (turn,) = one.branches[0]
            one = Sample(one.origin, (), (), ((replace(turn, parts=(words, *turn.parts)),),))
        asked.append(one)
    return asked


def mixed_ways(case: Case, asked: list[Sample], new: int) -> Ways:
    """Ways to answer questions that have nothing in common."""
    return {
        "one by one": lambda: [case.generated(case.inputs([one]), new)[0] for one in asked],
        "batch 1": lambda: [answered(case, [one], new)[0] for one in asked],
        "token budget": lambda: answered(case, asked, new),
    }


def answered(case: Case, asked: list[Sample], new: int) -> list[list[int]]:
    """Lucida's answers."""
    prompts = [case.processor.prompt(one) for one in asked]
    written = dict(write(case.model, case.processor, prompts, new))
    return [written[number].ids for number in range(len(prompts))]


if __name__ == "__main__":
    main()
