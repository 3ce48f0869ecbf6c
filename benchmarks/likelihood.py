"""Likelihoods of four candidate answers: Lucida beside transformers with the same weights.

    lmms-eval's way   one forward for each candidate, written and encoded anew, logits everywhere
    loop              transformers' forward, one for each candidate, logits everywhere
    padded batch      transformers' forward, the candidates of a question as one padded batch
    shared prefix     Lucida: pictures and questions once, candidates as twigs, many in one forward

One question a picture, then several, which share the picture. All ways must choose the same
candidates with equal log-likelihoods (within 1e-4 in fp32; for bf16 see asking_cases.py). CPU time
with one thread; the ways alternate in random order and ratios are taken within each repetition.

With `--grid 24` the pictures have 24 x 24 visual tokens, as LLaVA-1.5's have: the language model of
`mini` behind a SigLIP with random weights (two layers, 336 pixels). There one question a picture
cannot be much more than 4 times faster than the loop, which looks at each picture 4 times: nothing
is left to save but the looking.

    python benchmarks/likelihood.py [--case mini toy] [--questions 1 4] [--candidates 4] [--grid 24]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from asking_cases import CASES, TOLERANCE, Case, groups_of, of_lucida, time_ways
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from lucida.core.recipe import load_recipe
from lucida.core.spec import ModelSpec
from lucida.data.sample import Sample
from lucida.eval.likelihood import Likelihood, likelihoods
from lucida.model.checkpoint import build

ANSWERS = ["red", "blue", "two", "a large green square", "no", "three circles", "yes", "above"]


def main() -> None:
    """Time the ways and print the ratios, a table for each number of questions a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--grid", type=int, help="visual tokens along each side of a picture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in ["grid"] if given.grid else given.case:
        torch.manual_seed(0)
        case = wide(given.grid) if given.grid else CASES[name]()
        for questions in given.questions:
            compare(case, questions, given)


def wide(grid: int) -> Case:
    """`mini` with an encoder of random weights that sees so many patches along each side."""
    with TemporaryDirectory() as folder:
        model, processor = build(with_grid(load_recipe("mini").model, grid, Path(folder)))
    return Case(f"{grid} x {grid} tokens", model.eval(), processor, model, of_lucida(processor))


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


def compare(case: Case, questions: int, given: argparse.Namespace) -> None:
    """The ways for so many questions a picture; exits where they differ."""
    asked = [one for group in groups_of(given.pictures, questions) for one in group]
    texts = ANSWERS[: given.candidates]
    ways: dict[str, Callable[[], list]] = {
        "lmms-eval's way": lambda: [
            [case.lmms_likelihood(one, text) for text in texts] for one in asked
        ],
        "loop": lambda: [[case.padded(one, [text])[0] for text in texts] for one in asked],
        "padded batch": lambda: [case.padded(one, texts) for one in asked],
        "shared prefix": lambda: likelihoods(
            case.model, case.processor, asked, [texts] * len(asked)
        ),
    }
    title = f"{case.name}: {len(asked)} questions, {questions} a picture, {len(texts)} candidates"
    found = time_ways(ways, len(asked), given.repetitions, title)
    shared = found.pop("shared prefix")
    check(case, found, shared, asked)


def check(
    case: Case,
    found: dict[str, list[list[float]]],
    ours: list[list[Likelihood]],
    asked: list[Sample],
) -> None:
    """Exits unless every way gives what Lucida gives, per token within the tolerance."""
    mine = torch.tensor([[each.whole for each in one] for one in ours])
    tokens = torch.tensor([[each.tokens for each in one] for one in ours])
    told = []
    for name, values in found.items():
        theirs = torch.tensor(values)
        error = float(((theirs - mine) / tokens).abs().max())
        chosen = theirs.gather(1, mine.argmax(1, keepdim=True)).squeeze(1)
        behind = float((theirs.amax(1) - chosen).max())  # 0 where both choose the same
        told.append(f"{name} {error:.1e}")
        limit = TOLERANCE[case.peer.dtype]
        if error > limit or behind > limit * int(tokens.max()):
            raise SystemExit(f"`{name}` differs by {error:.1e} a token, choices by {behind:.1e}")
    print(f"largest difference of a log-likelihood per token: {', '.join(told)}")


if __name__ == "__main__":
    main()
