"""Any image-text-to-text model that transformers can load, as an answerer.

    hf:FOLDER ──AutoModelForImageTextToText, AutoProcessor──▶ chat template, left-padded `generate`

The prompt is the model's own chat template around the benchmark's words; nothing is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.core.errors import ModelError
from lucida.data.images import image_size
from lucida.data.sample import BoxPart, ImagePart, ImageSource, Sample, Turn
from lucida.eval.answerers.lucida_model import LucidaAnswerer, chosen
from lucida.eval.answerers.written_box import (
    FAMILIES,
    MARKER,
    Unit,
    check_unit,
    read_written_box,
    write_box,
)
from lucida.eval.asking import Response
from lucida.eval.benchmark import Example, Protocol
from lucida.eval.metrics.boxes import Box

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16
"""Questions in one left-padded batch."""


class TransformersAnswerer:
    """Greedy answers and candidate likelihoods of a transformers model in memory."""

    protocols: tuple[Protocol, ...] = ("generate", "likelihood")

    def __init__(
        self, model: Any, processor: Any, name: str, rows: int = ROWS, boxes: str | None = None
    ) -> None:
        """boxes: the unit of the boxes that it writes (`written_box.UNITS`); None goes by the kind
        of model where that is known, else by the form of what it writes."""
        known = FAMILIES.get(getattr(model.config, "model_type", ""), "form")
        self.boxes: Unit = known if boxes is None else check_unit(boxes)
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.rows = rows
        self.identity = {"model": name, "template": getattr(processor, "chat_template", None)}
        tokenizer = processor.tokenizer
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self.silent = {number for number, token in special if not MARKER.match(token)}
        """Ids that are left out of an answer: special tokens, but for those that write a box."""

    def stream(
        self, examples: Sequence[Example], protocol: Protocol, max_new_tokens: int
    ) -> Iterator[tuple[int, Response]]:
        """Answers batch by batch, those with as many pictures and as many words together."""
        if protocol == "likelihood":
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
            # Processors stack the pictures of a batch, so each row has equally many.
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
    ) -> Iterator[tuple[int, Response]]:
        import torch

        inputs = self.inputs([prompts[i] for i in batch], [examples[i].sample for i in batch])
        with torch.no_grad():
            rows = self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
        # Padded on the left, so that all prompts end, and all answers begin, in one column.
        rows = rows[:, inputs["input_ids"].shape[1] :]
        for index, row in zip(batch, rows, strict=True):
            said = [number for number in row.tolist() if number not in self.silent]
            yield index, Response(self.processor.tokenizer.decode(said))

    def prompt(self, sample: Sample) -> str:
        """The sample in the model's own chat template, up to where the answer begins."""
        if getattr(self.processor, "chat_template", None) is None:
            raise ModelError(
                "this model's processor has no chat template",
                origin=self.name,
                remedy="add chat_template.jinja to its folder",
            )
        return self.processor.apply_chat_template(
            messages(sample, self.boxes), add_generation_prompt=True, tokenize=False
        )

    def inputs(
        self, texts: list[str], samples: Sequence[Sample], side: str = "left"
    ) -> dict[str, Tensor]:
        """Tensors of several prompts, each with its own pictures, padded on one side."""
        self.processor.tokenizer.padding_side = side
        pictures = [[source.load() for source in list_images(sample)] for sample in samples]
        shown = pictures if any(pictures) else None
        if shown is not None and not all(pictures):
            raise ModelError("prompts with and without pictures cannot share a batch")
        begins = self.processor.tokenizer.bos_token
        try:
            inputs = self.processor(
                images=shown,
                text=texts,
                padding=True,
                return_tensors="pt",
                # A template that writes the start token itself must not get a second one.
                add_special_tokens=not (begins and texts[0].startswith(begins)),
            )
        except (ValueError, IndexError) as problem:  # such as a question that writes `<image>`
            raise ModelError(
                f"the model's processor refuses these prompts: {problem}",
                origin=", ".join(sample.origin for sample in samples[:3]),
                remedy="each picture needs one place in its own prompt; leave the task out",
            ) from problem
        return inputs.to(self.model.device, self.model.dtype)

    def likelihoods(self, example: Example) -> list:
        """Of every candidate, as one padded batch: prompt and candidate, logits at the candidate.

        The end token is counted as the last token of each candidate.
        """
        import torch

        from lucida.eval.likelihood import Likelihood

        prompt = self.prompt(example.sample)
        tokenizer = self.processor.tokenizer
        end = tokenizer.eos_token or ""
        # An answer is a word of its own behind the prompt.
        gap = "" if prompt[-1:].isspace() else " "
        texts = [prompt + gap + candidate + end for candidate in example.candidates]
        inputs = self.inputs(texts, [example.sample] * len(texts), side="right")
        # Right as long as no token spans the border of prompt and candidate.
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
        """A box in the unit of this model (`written_box`)."""
        return read_written_box(text, width, height, self.boxes)


def turns_of(sample: Sample) -> list[Turn]:
    """The stem and the first branch, which is all that a foreign model is asked."""
    return [*sample.stem, *(sample.branches[0] if sample.branches else ())]


def list_images(sample: Sample) -> list[ImageSource]:
    """The pictures in the order in which the turns show them, one for each place."""
    parts = [part for turn in turns_of(sample) for part in turn.parts]
    return [sample.images[part.index] for part in parts if isinstance(part, ImagePart)]


def messages(sample: Sample, boxes: Unit) -> list[dict[str, Any]]:
    """The sample as Hugging Face messages; consecutive turns of one speaker are one message. Boxes
    of demonstrations are written in the model's own unit."""
    written: list[dict[str, Any]] = []
    for turn in turns_of(sample):
        role = "user" if turn.role == "text" else turn.role
        if not written or written[-1]["role"] != role:
            written.append({"role": role, "content": []})
        for part in turn.parts:
            if isinstance(part, ImagePart):
                written[-1]["content"].append({"type": "image"})
            else:
                words = box_words(part, sample, boxes) if isinstance(part, BoxPart) else part
                written[-1]["content"].append({"type": "text", "text": words})
    return written


def box_words(part: BoxPart, sample: Sample, boxes: Unit) -> str:
    """A box of a demonstration as the words of a model with this unit."""
    width, height = image_size(sample.images[part.index])
    return write_box((part.x0, part.y0, part.x1, part.y1), width, height, boxes)


def load_answerer(path: str, boxes: str | None = None) -> TransformersAnswerer | LucidaAnswerer:
    """The model of a folder or Hub id, on the best device there is; ModelError when it is none.

    One that Lucida saved, imported or exported is asked like a run's, and writes boxes as tokens of
    its own, so that `boxes` is for others.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from lucida.model.folder import check_folder
    from lucida.model.loading import complete, quiet_loading, refusing
    from lucida.model.processing import LucidaProcessor
    from lucida.model.registration import register
    from lucida.training.precision import choose_device

    register()
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
        if boxes is not None:
            raise ModelError(
                "this model writes boxes as tokens, whose unit is known",
                given=f"boxes {boxes}",
                origin=path,
                remedy="leave --boxes out",
            )
        answerer = LucidaAnswerer(model, processor, {"model": path})
    else:
        answerer = TransformersAnswerer(model, processor, path, boxes=boxes)
    if Path(path).is_dir():
        from lucida.eval.store import weights_hash

        answerer.identity["weights"] = weights_hash(Path(path))
    return answerer
