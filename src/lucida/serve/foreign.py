"""Models of others behind the same addresses: whatever transformers loads (`hf:FOLDER`).

Each prompt is answered by transformers' own `generate`, one after the other: what it makes of
positions, caches and pictures differs from model to model and is left to it. The tokens are chosen
here, as for Lucida's models, so that options, stops and log-probabilities mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lucida.core.errors import ModelError
from lucida.data.sample import Sample
from lucida.eval.answerers.transformers_model import TransformersAnswerer
from lucida.serve.job import Job, Token, choose_tokens, tell_token
from lucida.serve.spelling import Spelling


@dataclass(frozen=True, eq=False)
class ForeignPrompt:
    """A prompt as a foreign model takes it. inputs: its processor's tensors, rows of one."""

    inputs: dict[str, Any]
    origin: str = "conversation"

    @property
    def input_ids(self) -> Any:
        """The tokens [length], numpy int64."""
        return self.inputs["input_ids"][0].cpu().numpy()

    def __len__(self) -> int:
        return self.inputs["input_ids"].shape[1]


class ForeignProcessor:
    """The processor of a foreign model, with what the addresses ask of Lucida's."""

    image_token_id = -1
    """Token ids that may not be asked for: none."""

    def __init__(self, answerer: TransformersAnswerer) -> None:
        self.answerer = answerer
        self.tokenizer = answerer.processor.tokenizer

    def prompt(self, sample: Sample) -> ForeignPrompt:
        """A conversation in the model's own template. ModelError where its processor refuses it."""
        if len(sample.branches) != 1:
            raise ModelError("a conversation has one branch", given=len(sample.branches))
        return ForeignPrompt(self.answerer.inputs([self.answerer.prompt(sample)], [sample]))

    def raw(self, text: str, images: Sequence[Any]) -> ForeignPrompt:
        """A text as it is."""
        inputs = self.tokenizer(text, return_tensors="pt").to(self.answerer.model.device)
        return ForeignPrompt({name: inputs[name] for name in ("input_ids", "attention_mask")})

    def of_ids(self, ids: Any) -> ForeignPrompt:
        """Token ids as they are."""
        rows = torch.from_numpy(ids)[None].to(self.answerer.model.device)
        return ForeignPrompt({"input_ids": rows, "attention_mask": torch.ones_like(rows)})


class OneByOne:
    """Answers prompts with a foreign model, each to its end."""

    jobs: Sequence[Job] = ()
    may_join = True

    def __init__(self, processor: ForeignProcessor, spelling: Spelling) -> None:
        self.model, self.processor, self.spelling = processor.answerer.model, processor, spelling
        ends = self.model.generation_config.eos_token_id
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())

    def __len__(self) -> int:
        return 0

    def join(self, jobs: Sequence[Job]) -> None:
        """Answer these."""
        for job in jobs:
            self.answer(job)

    def answer(self, job: Job) -> None:
        """Write one answer to its end."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        def choose(ids: Tensor, scores: Tensor) -> Tensor:
            """Called with the scores of the next token: leaves only the one that is chosen."""
            if job.done:
                return scores
            # `generate` shall take this token: as it is greedy here, all others become impossible.
            token = choose_tokens(scores, [job], self.ends, self.spelling)[0]
            return torch.full_like(scores, -torch.inf).index_fill_(
                1, torch.tensor([token], device=scores.device), 0.0
            )

        def is_over(ids: Tensor, scores: Any, **more: Any) -> Tensor:
            return torch.full((len(ids),), job.done, device=ids.device)

        self.model.generate(
            **job.prompt.inputs,
            max_new_tokens=job.most,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([is_over]),
        )
        if not job.done:
            job.end("length")

    def score(self, job: Job) -> None:
        """Tell the log-probability of each token of a prompt; the first has none (nan)."""
        ids = job.prompt.input_ids
        logits = self.model(**job.prompt.inputs).logits[0]
        top, special = job.options.top or 0, self.spelling.special
        job.tokens = [
            Token(self.spelling.bytes_of(int(ids[0])), float("nan"), (), int(ids[0]) in special)
        ]
        for place, word in enumerate(ids[1:].tolist()):
            logs = logits[place].float().log_softmax(-1)
            job.tokens.append(tell_token(word, logs, top, self.spelling, word in special))
        job.end("length")
