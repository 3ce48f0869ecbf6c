"""A Lucida model as an answerer: pictures once, shared prompts once, candidates as branches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lucida.eval.asking import LIKELIHOODS, Response
from lucida.eval.benchmark import Example, Protocol
from lucida.eval.metrics.boxes import Box

if TYPE_CHECKING:
    from lucida.core.spec import FewerTokensSpec
    from lucida.eval.likelihood import Likelihood
    from lucida.model.few_bits import Weights
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


class LucidaAnswerer:
    """Greedy answers, likelihoods and losses of a model in memory."""

    protocols: tuple[Protocol, ...] = ("generate", "likelihood", "loss")

    def __init__(
        self,
        model: LucidaModel,
        processor: LucidaProcessor,
        identity: dict | None = None,
        fewer: FewerTokensSpec | None = None,
    ) -> None:
        """fewer: how many visual tokens are left of each picture; None leaves all."""
        self.model = model
        self.processor = processor
        self.identity = identity or {}
        self.fewer = fewer

    def stream(
        self, examples: Sequence[Example], protocol: Protocol, max_new_tokens: int
    ) -> Iterator[tuple[int, Response]]:
        """Answers as batches are done."""
        if protocol == "generate":
            from lucida.model.decode import write
            from lucida.model.reduction import reduce_prompts

            prompts = [self.processor.prompt(example.sample) for example in examples]
            prompts = reduce_prompts(self.model, self.processor, prompts, self.fewer)
            for index, each in write(self.model, self.processor, prompts, max_new_tokens):
                text = self.processor.tokenizer.decode(each.ids, skip_special_tokens=True)
                yield index, Response(text)
        elif protocol == "likelihood":
            from lucida.eval.likelihood import score_candidates

            samples = [example.sample for example in examples]
            candidates = [example.candidates for example in examples]
            scored = score_candidates(
                self.model, self.processor, samples, candidates, fewer=self.fewer
            )
            for index, found in scored:
                yield index, chosen(candidates[index], found)
        else:
            from lucida.eval.loss import document_losses

            samples = [example.sample for example in examples]
            for index, (nats, tokens) in document_losses(self.model, self.processor, samples):
                yield index, Response(json.dumps({"nats": nats, "tokens": tokens}))

    def read_box(self, text: str, width: int, height: int) -> Box | None:
        """A box in bins of the square that the model sees, in pixels of the picture."""
        from lucida.data.boxes import parse_box

        # What the policy made of the picture: a padded, stretched or cropped square; with tiles,
        # all of it.
        framed = parse_box(text.strip(), self.processor.coordinate_bins)
        return framed and self.processor.image_policy.from_frame(framed, width, height)


def chosen(candidates: Sequence[str], found: Sequence[Likelihood]) -> Response:
    """The candidate whose whole answer is likeliest (of several the first), and all the numbers."""
    numbers = {name: [getattr(one, name) for one in found] for name in LIKELIHOODS}
    return Response(candidates[best(numbers["whole"])], {"likelihoods": numbers})


def best(numbers: Sequence[float]) -> int:
    """The place of the largest number."""
    return int(np.argmax(numbers))


def load_answerer(
    folder: Path, weights: Weights | None = None, fewer: FewerTokensSpec | None = None
) -> LucidaAnswerer:
    """The trained model of a run folder, on the best device there is. weights: as in `load`;
    fewer: as in `LucidaAnswerer`."""
    from lucida.model.checkpoint import load
    from lucida.training.precision import choose_device

    model, processor = load(folder, choose_device(), weights=weights)
    identity = {} if weights is None else {"held as": weights}
    if fewer is not None:
        identity["visual tokens"] = fewer.model_dump(mode="json")
    return LucidaAnswerer(model, processor, identity, fewer)
