"""The models that the benchmarks of evaluation ask, the usual ways to ask them, and what they ask.

    mini    the recipe's design, fp32: vocabulary of 736, 64 visual tokens. No Llava has such an
            encoder, so transformers' side is its `generate` and `forward` of the same model.
    toy     SigLIP of 4 layers (width 384) and Qwen2 of 6 (width 512, 8 heads, 2 of them with keys),
            vocabulary of 32,000, 256 visual tokens, bf16; transformers' side is its own Llava (and
            its own processor) with the same weights.

Weights are random. In fp32 answers must be equal and likelihoods within 1e-4. In bf16 sums depend
on their order: see `agreed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

import torch
from llava_twin import llava_of, lucida_model, toy_parts
from timing import alternate, ratio
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from lucida.core.progress import table
from lucida.core.recipe import load_recipe
from lucida.core.spec import EvaluationSpec
from lucida.data.sample import IGNORED, Sample
from lucida.data.sources.world import WorldSource
from lucida.eval.benchmark import Example
from lucida.eval.benchmarks import find_task
from lucida.eval.likelihood import append_candidate
from lucida.model.checkpoint import build
from lucida.model.conversion.llava import llava_config
from lucida.model.conversion.processors import llava_processor
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

Gives = TypeVar("Gives")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""How far a logit may be from the largest one where two ways choose different tokens, and a
log-likelihood from the other way's per token, in nats. Logits in bf16 are rounded by up to 0.4%."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, transformers' with the same weights, and what writes questions for either.

    their_inputs: a conversation as transformers' processor writes it, with its images.
    """

    name: str
    model: LucidaModel
    processor: LucidaProcessor
    peer: PreTrainedModel
    their_inputs: Callable[[list[dict], list], dict[str, Tensor]]

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A left-padded batch."""
        inputs = self.processor.batch([self.processor.prompt(sample) for sample in samples])
        return {name: self.cast(tensor) for name, tensor in inputs.items()}

    def cast(self, tensor: Tensor) -> Tensor:
        """Pixels in the precision of the model."""
        return tensor.to(self.peer.dtype) if tensor.is_floating_point() else tensor

    def never_end(self) -> None:
        """From now on every answer is as long as it may be."""
        ends = self.model.generation_config.eos_token_id
        for model in (self.model, self.peer):
            model.generation_config.suppress_tokens = [ends] if isinstance(ends, int) else ends

    @torch.no_grad()
    def generated(self, inputs: dict[str, Tensor], new: int) -> list[list[int]]:
        """What `generate` writes behind each row."""
        rows = self.peer.generate(**inputs, max_new_tokens=new, do_sample=False)
        ends = self.model.generation_config.eos_token_id
        return [until(row, ends) for row in rows[:, inputs["input_ids"].shape[1] :].tolist()]

    def as_lmms_eval(self, sample: Sample, new: int) -> list[int]:
        """One request as lmms-eval's `llava_hf` treats it (which takes no larger batch): the
        conversation written by the model's processor, its image read and encoded anew."""
        return self.generated(self.their_inputs(messages_of(sample), pictures_of(sample)), new)[0]

    @torch.no_grad()
    def padded(self, sample: Sample, texts: Sequence[str]) -> list[float]:
        """Log-likelihoods of candidates: one batch padded on the right, logits everywhere."""
        rows = [append_candidate(self.processor, sample, text) for text in texts]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.processor.tokenizer.pad_token_id)
        seen, target = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.from_numpy(row.input_ids)
            seen[number, : len(row)] = 1
            target[number, : len(row)] = torch.from_numpy(row.target)
        pixels = self.processor.pixel_values([source for row in rows for source in row.images])
        pixels = None if pixels is None else self.cast(pixels)
        logits = self.peer(input_ids=ids, attention_mask=seen, pixel_values=pixels).logits
        losses = cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
        return (-losses.view(len(rows), length).sum(1)).tolist()

    @torch.inference_mode()
    def lmms_likelihood(self, sample: Sample, text: str) -> float:
        """One candidate as lmms-eval's `llava_hf` treats it: the conversation written with and
        without the answer, one forward with labels, and the likeliest token at every position."""
        messages, pictures = messages_of(sample), pictures_of(sample)
        answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        inputs = self.their_inputs([*messages, answer], pictures)
        asked = self.their_inputs(messages, pictures)["input_ids"].shape[1]
        labels = inputs["input_ids"].clone()
        labels[:, :asked] = IGNORED
        output = self.peer(**inputs, labels=labels)
        output.logits.argmax(-1)  # "is it what the model would have said?"
        return -output.loss.item() * (labels.shape[1] - asked)


def until(ids: list[int], ends: int | list[int]) -> list[int]:
    """Ids before the first end token."""
    ends = [ends] if isinstance(ends, int) else ends
    return ids[: next((place for place, each in enumerate(ids) if each in ends), len(ids))]


def messages_of(sample: Sample) -> list[dict]:
    """A question as transformers' messages."""
    (turns,) = sample.branches
    (words,) = ["".join(turn.parts) for turn in turns]
    shown = [{"type": "image"} for _ in sample.images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": words}]}]


def pictures_of(sample: Sample) -> list:
    """The images of a question, read anew."""
    return [source.load() for source in sample.images]


def mini() -> Case:
    """The design of the recipe `mini`."""
    model, processor = build(load_recipe("mini").model)
    model.eval()
    return Case("mini", model, processor, model, of_lucida(processor))


def of_lucida(processor: LucidaProcessor) -> Callable[[list[dict], list], dict[str, Tensor]]:
    """Conversations by Lucida's processor, used as any of transformers'."""

    def inputs(messages: list[dict], pictures: list) -> dict[str, Tensor]:
        asked = messages[-1]["role"] == "user"
        return processor.apply_chat_template(
            messages,
            add_generation_prompt=asked,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"images": pictures},
        )

    return inputs


def toy() -> Case:
    """The small Llava. Its text is that of `mini`, which knows 736 of the 32,000 tokens."""
    dtype = torch.bfloat16
    _, known = build(load_recipe("mini").model)
    vision, text = toy_parts(grid=16)
    model = lucida_model(vision, text)
    model.config.image_token_id = known.image_token_id
    ends = known.end_tokens()
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = known.tokenizer.pad_token_id
    policy = replace(known.image_policy, policy="resize", size=vision.image_size)
    processor = LucidaProcessor(
        known.tokenizer, known.image_token, policy, "qa", model.config.visual_tokens
    )
    peer = llava_of(model.to(dtype), vision).to(dtype)
    peer.generation_config.eos_token_id = ends
    peer.generation_config.pad_token_id = known.tokenizer.pad_token_id
    model.eval(), peer.eval()
    theirs = llava_processor(llava_config(model), processor)

    def inputs(messages: list[dict], pictures: list) -> dict[str, Tensor]:
        asked = messages[-1]["role"] == "user"
        written = theirs.apply_chat_template(messages, add_generation_prompt=asked)
        made = theirs(text=written, images=pictures or None, return_tensors="pt")
        return made.to(dtype)

    return Case("toy", model, processor, peer, inputs)


CASES: dict[str, Callable[[], Case]] = {"mini": mini, "toy": toy}


def groups_of(pictures: int, questions: int) -> list[list[Sample]]:
    """So many questions about each of so many pictures, answers removed."""
    source = WorldSource(["attribute", "counting", "presence"], "test", pictures * 4)
    groups = [questions_of(sample, questions) for sample in source]
    return [group for group in groups if len(group) == questions][:pictures]


def questions_of(sample: Sample, count: int) -> list[Sample]:
    """Each question of a sample by itself, its answer removed."""
    branches = sample.branches[:count]
    return [Sample(sample.origin, sample.images, sample.stem, (b[:1],)) for b in branches]


def time_ways(
    ways: Mapping[str, Callable[[], Gives]], questions: int, repetitions: int, title: str
) -> dict[str, Gives]:
    """Prints the processor time of every way to ask so many questions, and how often it is faster
    than each of the others (but the last); what each gave."""
    found: dict[str, Gives] = {}

    def kept(name: str) -> Callable[[], None]:
        return lambda: found.__setitem__(name, ways[name]())

    times = alternate({name: kept(name) for name in ways}, repetitions)
    peers = list(ways)[:-1]
    rows = [
        [
            name,
            f"{1000 * statistics.median(times[name].cpu) / questions:.2f}",
            *("" if other == name else ratio(times[other].cpu, times[name].cpu) for other in peers),
        ]
        for name in ways
    ]
    columns = ["way", "CPU ms a question", *(f"faster than {name}" for name in peers)]
    table(title, columns, rows)
    return {name: found[name] for name in ways}


def ask_world(tasks: str, questions: int) -> list[tuple[str, Example]]:
    """The first questions of each of these tasks (`attribute,counting`) of the miniature world."""
    asked = []
    for name in tasks.split(","):
        examples = list(find_task(EvaluationSpec(), name).examples(questions))
        asked += [(name, example) for example in examples[:questions]]
    return asked


def is_right(example: Example, text: str) -> bool:
    """Is the text, or its last word, one of the right answers?"""
    words = text.strip().removesuffix(".").split()
    return text.strip() in example.answers or (bool(words) and words[-1] in example.answers)


@torch.no_grad()
def agreed(case: Case, asked: Sequence[Sample], answers: dict[str, list[list[int]]]) -> str:
    """How many answers of each way equal those of the first; exits where that cannot be rounding.

    Where two ways part, transformers' logits of both tokens have to be within `TOLERANCE`.
    """
    first, *others = answers
    ends = case.model.generation_config.eos_token_id
    end = ends if isinstance(ends, int) else ends[0]
    told = []
    for name in others:
        parted = 0
        for sample, one, other in zip(asked, answers[first], answers[name], strict=True):
            if one == other:
                continue
            parted += 1
            pairs = enumerate(zip_longest(one, other, fillvalue=end))
            place, (chosen, instead) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
            inputs = case.inputs([sample])
            ids = torch.cat([inputs["input_ids"], torch.tensor([one[:place]]).long()], 1)
            inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = case.peer(**inputs).logits[0, -1].float()
            gap = float(logits[chosen] - logits[instead])
            if abs(gap) > TOLERANCE[case.peer.dtype] * max(1.0, float(logits.abs().max())):
                raise SystemExit(f"`{name}` differs from `{first}`: {one} {other}, by {gap:.3f}")
        told.append(f"{name} {len(asked) - parted}/{len(asked)}")
    return f"answers equal to those of `{first}`: " + ", ".join(told)
