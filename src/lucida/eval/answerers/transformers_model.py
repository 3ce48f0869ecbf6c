"""Any image-text-to-text model that transformers can load, as an answerer.

    hf:FOLDER ──AutoModelForImageTextToText, AutoProcessor──▶ chat template, left-padded `generate`

The prompt is the model's own chat template around the benchmark's words; nothing is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.core.errors import ModelError
from lucida.data.sample import ImagePart, Sample
from lucida.eval.answerers.lucida_model import LucidaAnswerer, chosen
from lucida.eval.answerers.written_box import read_written_box
from lucida.eval.asking import Said
from lucida.eval.benchmark import Example, Way
from lucida.eval.metrics.boxes import Box

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16
"""Questions in one left-padded batch."""


class TransformersAnswerer:
    """Greedy answers and candidate likelihoods of a transformers model in memory."""

    ways: tuple[Way, ...] = ("generate", "likelihood")

    def __init__(self, model: Any, processor: Any, name: str, rows: int = ROWS) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.rows = rows
        self.identity = {"model": name, "template": getattr(processor, "chat_template", None)}
        if processor.tokenizer.pad_token_id is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def stream(
        self, examples: Sequence[Example], way: Way, max_new_tokens: int
    ) -> Iterator[tuple[int, Said]]:
        """Answers batch by batch, those with as many pictures and as many words together."""
        if way == "likelihood":
            for index, example in enumerate(examples):
                yield index, chosen(example.candidates, self.likelihoods(example))
            return
        prompts = [self.prompt(example.sample) for example in examples]
        order = sorted(
            range(len(examples)), key=lambda i: (len(examples[i].sample.images), len(prompts[i]))
        )
        batch: list[int] = []
        for index in order:
            pictures = len(examples[index].sample.images)
            if batch and (
                len(batch) == self.rows or pictures != len(examples[batch[0]].sample.images)
            ):
                yield from self._answered(batch, examples, prompts, max_new_tokens)
                batch = []
            batch.append(index)
        if batch:
            yield from self._answered(batch, examples, prompts, max_new_tokens)

    def _answered(
        self, batch: list[int], examples: Sequence[Example], prompts: list[str], new: int
    ) -> Iterator[tuple[int, Said]]:
        import torch

        inputs = self.inputs([prompts[i] for i in batch], [examples[i].sample for i in batch])
        with torch.no_grad():
            rows = self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
        rows = rows[:, inputs["input_ids"].shape[1] :]
        for index, row in zip(batch, rows, strict=True):
            yield index, Said(self.processor.tokenizer.decode(row, skip_special_tokens=True))

    def prompt(self, sample: Sample) -> str:
        """The sample in the model's own chat template, up to where the answer begins."""
        if getattr(self.processor, "chat_template", None) is None:
            raise ModelError(
                "this model's processor has no chat template",
                origin=self.name,
                remedy="add chat_template.jinja to its folder",
            )
        return self.processor.apply_chat_template(
            messages(sample), add_generation_prompt=True, tokenize=False
        )

    def inputs(
        self, texts: list[str], samples: Sequence[Sample], side: str = "left"
    ) -> dict[str, Tensor]:
        """Tensors of several prompts, each with its own pictures, padded on one side."""
        self.processor.tokenizer.padding_side = side
        pictures = [[source.load() for source in sample.images] for sample in samples]
        shown = pictures if any(pictures) else None
        if shown is not None and not all(pictures):
            raise ModelError("prompts with and without pictures cannot share a batch")
        begins = self.processor.tokenizer.bos_token
        return self.processor(
            images=shown,
            text=texts,
            padding=True,
            return_tensors="pt",
            # A template that writes the start token itself must not get a second one.
            add_special_tokens=not (begins and texts[0].startswith(begins)),
        ).to(self.model.device, self.model.dtype)

    def likelihoods(self, example: Example) -> list:
        """Of every candidate, as one padded batch: prompt and candidate, logits at the candidate.

        The end token is counted as the last token of each candidate.
        """
        import torch

        from lucida.eval.likelihood import Likelihood

        prompt = self.prompt(example.sample)
        tokenizer = self.processor.tokenizer
        end = tokenizer.eos_token or ""
        gap = "" if prompt[-1:].isspace() else " "
        texts = [prompt + gap + candidate + end for candidate in example.candidates]
        inputs = self.inputs(texts, [example.sample] * len(texts), side="right")
        alone = self.inputs([prompt], [example.sample])["input_ids"].shape[1]
        ids, seen = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            logits = self.model(**inputs).logits.float().log_softmax(-1)
        found = []
        for row in range(len(texts)):
            # Padded on the right: a plain forward counts positions from the row's first column.
            places = torch.arange(alone, int(seen[row].sum()))
            scores = logits[row, places - 1, ids[row, places]].double()
            found.append(Likelihood(float(scores[0]), float(scores.sum()), len(places)))
        return found

    def read_box(self, text: str, width: int, height: int) -> Box | None:
        """Four numbers in words, as shares of the picture, of 1000, or in pixels."""
        return read_written_box(text, width, height)


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The sample as Hugging Face messages; consecutive turns of one speaker are one message."""
    written: list[dict[str, Any]] = []
    for turn in [*sample.stem, *(sample.branches[0] if sample.branches else ())]:
        role = "user" if turn.role == "text" else turn.role
        if not written or written[-1]["role"] != role:
            written.append({"role": role, "content": []})
        for part in turn.parts:
            if isinstance(part, ImagePart):
                written[-1]["content"].append({"type": "image"})
            else:
                words = part if isinstance(part, str) else box_words(part)
                written[-1]["content"].append({"type": "text", "text": words})
    return written


def box_words(part: Any) -> str:
    """A box of a demonstration in the pixels of its picture, as words."""
    return "[" + ", ".join(f"{value:.0f}" for value in (part.x0, part.y0, part.x1, part.y1)) + "]"


def load_answerer(path: str) -> TransformersAnswerer | LucidaAnswerer:
    """The model of a folder or Hub id, on the best device there is; ModelError when it is none.

    One that Lucida saved, imported or exported is asked like a run's.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from lucida.model.folder import check_folder
    from lucida.model.loading import complete, quiet_loading, refusing
    from lucida.model.processing import LucidaProcessor
    from lucida.train.precision import choose_device

    if Path(path).is_dir():
        check_folder(Path(path))
    what = "this is no image-text-to-text model that transformers can load"
    try:
        with quiet_loading(), refusing(path, what):
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
            model, report = AutoModelForImageTextToText.from_pretrained(
                path,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `complete` refuses them, with the file's name
            )
    except OSError as problem:  # of a place that is not here
        first = str(problem).strip().splitlines()[0]
        raise ModelError(
            f"{what}: {first}",
            origin=path,
            remedy="give the folder of a whole model with its processor, or a Hub id",
        ) from problem
    complete(report, path, beyond=model.state_dict())
    model = model.to(choose_device()).eval()
    if isinstance(processor, LucidaProcessor):
        answerer = LucidaAnswerer(model, processor, {"model": path})
    else:
        answerer = TransformersAnswerer(model, processor, path)
    if Path(path).is_dir():
        from lucida.eval.store import weights_hash

        answerer.identity["weights"] = weights_hash(Path(path))
    return answerer
