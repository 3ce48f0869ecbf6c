"""From messages and images to tensors: what a saved model needs to be asked something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from lucida.core.errors import DataError
from lucida.core.spec import (
    ImagePlaces,
    LossMode,
    MaskName,
    Positions,
    ProjectorSpec,
    StageSpec,
    TemplateName,
)
from lucida.data.chat import encode, encode_prompt
from lucida.data.images import image_size
from lucida.data.pieces import Ending, Piece, Run, Runs, count_positions, image_piece
from lucida.data.policies import ImagePolicy, describe_policy, read_policy
from lucida.data.sample import IGNORED, ImageSource, Sample, Tokens, Turn, Views
from lucida.data.views import Drawn, draw, normalise
from lucida.data.vocabulary import vocabulary
from lucida.model import conversing
from lucida.model.arrangement import Arrangement
from lucida.model.language import name_placeholder
from lucida.model.messages import Message, Picture, pictures_of_texts
from lucida.model.saved import SavedProcessor


class LucidaProcessor(SavedProcessor, ProcessorMixin):
    """Tokenizer, image policy and chat template of one model, saved and loaded together.

        messages, images ─sample_of─▶ Sample ─prompt─▶ Tokens ─batch─▶ input_ids, attention_mask,
                                                                       pixel_values

    `encode` and `prompt` are `lucida.data.chat` with this model's settings, so a question is
    written exactly as in training. A blind model's processor has 0 visual tokens and drops images.
    """

    attention_mask: MaskName | None = None
    """What answers are given under while a stage trains (`for_stage`); None: the model's own mask.
    It is not saved."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_token: str = "<image>",
        image_policy: ImagePolicy | dict | None = None,
        template: TemplateName = "qa",
        visual_tokens: int = 0,
        coordinate_bins: int = 32,
        max_length: int = 2048,
        chat_template: str | None = None,
        more_policies: Sequence[ImagePolicy | dict] = (),
        projector: ProjectorSpec | dict | None = None,
        unit_patches: int = 1,
        image_places: ImagePlaces = "in_place",
        positions: Positions = "1d",
    ) -> None:
        """visual_tokens: of one view. more_policies: of further encoders, which see the same parts
        of a picture. projector, unit_patches: as in `Arrangement`. image_places: as `images` in
        `LanguageSpec`, which has `positions` too."""
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_token = image_token
        self.image_policy = read_policy(image_policy)
        self.more_policies = tuple(map(read_policy, more_policies))
        self.projector = (
            TypeAdapter(ProjectorSpec).validate_python(projector)
            if isinstance(projector, Mapping)
            else projector
        )
        self.unit_patches = unit_patches
        self.template = template
        self.image_places = image_places
        self.positions = positions
        self.visual_tokens = visual_tokens
        self.coordinate_bins = coordinate_bins
        self.max_length = max_length
        name_placeholder(tokenizer, image_token)
        tokenizer.padding_side = "left"

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder of a visual token."""
        return self.tokenizer.image_token_id

    def to_dict(self) -> dict[str, Any]:
        """What is saved beside the tokenizer: plain values."""
        values = super().to_dict()
        if self.image_policy is not None:
            values["image_policy"] = describe_policy(self.image_policy)
        values["more_policies"] = [describe_policy(policy) for policy in self.more_policies]
        if self.projector is not None:
            values["projector"] = self.projector.model_dump(mode="json")
        return values

    @property
    def arrangement(self) -> Arrangement:
        """Where the visual tokens of an image stand."""
        return Arrangement(
            self.image_policy,
            self.visual_tokens,
            self.projector,
            self.unit_patches,
            self.positions,
        )

    @property
    def places(self) -> int | Runs:
        """What the text keeps for an image: a number, or what each image asks for."""
        square = self.visual_tokens and self.image_policy.one_square
        if not self.visual_tokens or (square and self.positions == "1d"):
            return self.visual_tokens
        return self.runs

    def runs(self, source: ImageSource) -> tuple[Run, ...]:
        """Runs of placeholders of an image, and the names of its tiles between them."""
        return self.arrangement.placed(*image_size(source))

    def for_stage(self, stage: StageSpec) -> LucidaProcessor:
        """A copy that writes the template of a stage, resolved as by `Recipe.resolve`, and is
        answered under its mask.

        DataError when the tokenizer cannot follow the template.
        """
        other = copy(self)
        other.template, other.attention_mask = stage.template, stage.attention_mask
        other.end_tokens()
        return other

    def encode(self, sample: Sample, loss: LossMode = "answers", **more: Any) -> Tokens:
        """A sample with its targets, as in training; `more` goes to `lucida.data.chat.encode`."""
        return encode(
            sample,
            self.tokenizer,
            self.template,
            self.places,
            self.image_policy,
            self.coordinate_bins,
            loss,
            self.max_length,
            image_token_id=self.image_token_id,
            images=self.image_places,
            **more,
        )

    def prompt(self, sample: Sample, ending: Ending = "prompt") -> Tokens:
        """A sample up to where the model has to answer, or to another ending (`data.pieces`)."""
        return encode_prompt(
            sample,
            self.tokenizer,
            self.template,
            self.places,
            self.image_policy,
            self.coordinate_bins,
            self.max_length,
            image_token_id=self.image_token_id,
            images=self.image_places,
            ending=ending,
        )

    def draw(self, sources: Sequence[ImageSource], scaled: bool = False) -> Drawn | None:
        """Images as the encoders are shown them, not yet normalised; None without images or without
        eyes. `scaled` allows large JPEGs to be decoded at a fraction of their size."""
        if not sources or not self.visual_tokens:
            return None
        return draw(sources, (self.image_policy, *self.more_policies), scaled)

    def pixels(self, sources: Sequence[ImageSource], scaled: bool = False) -> Views | None:
        """Pixels as the model takes them, or None without images or without eyes; see `draw`."""
        drawn = self.draw(sources, scaled)
        return None if drawn is None else normalise([drawn])

    def pixel_values(self, sources: Sequence[ImageSource]) -> torch.Tensor | Views | None:
        """Pixels under their name in transformers: [images, 3, side, side] for one encoder that
        sees one square, as everybody there expects it; otherwise `Views`."""
        views = self.pixels(sources)
        if views is None or self.more_policies or not self.image_policy.one_square:
            return views
        return torch.cat(views.images())

    def batch(self, prompts: Sequence[Tokens]) -> BatchFeature:
        """Prompts of one branch each as tensors for `generate`, padded on the left."""
        for prompt in prompts:
            if len(prompt) and int(prompt.branch.max()) > 1:
                raise DataError(
                    "a prompt with several branches cannot be one row",
                    expected="1 branch",
                    given=int(prompt.branch.max()),
                    origin=prompt.origin,
                    remedy="use lucida.model.decode.greedy, which asks them behind one stem",
                )
        length = max(len(prompt) for prompt in prompts)
        ids = np.full((len(prompts), length), self.tokenizer.pad_token_id)
        seen = np.zeros((len(prompts), length), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = prompt.input_ids
            seen[row, length - len(prompt) :] = 1
        data = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(seen)}
        pixels = self.pixel_values([source for prompt in prompts for source in prompt.images])
        if pixels is not None:
            data["pixel_values"] = pixels
        return BatchFeature(data)

    def __call__(
        self,
        images: Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **options: Any,
    ) -> BatchFeature:
        """Text that is written out already, with `<image>` where an image is shown, as tensors.

        Tokens such as `<|im_start|>` in the text count as tokens; the start token is added when
        the text lacks it. For questions use `apply_chat_template`, which writes the template.
        Images are a flat list in reading order, or one list for each text; DataError where their
        number is not that of the places, in sum for a flat list, else text by text.
        """
        options.pop("padding", None)  # rows are always padded to the longest
        if text is None or return_tensors != "pt" or options:
            raise DataError(
                "the processor takes text, images and return_tensors='pt'",
                given=sorted(options) or f"text={text!r}, return_tensors={return_tensors!r}",
            )
        texts = [text] if isinstance(text, str) else list(text)
        places = [written.count(self.image_token) for written in texts]
        prompts = []
        for written, shown in zip(texts, pictures_of_texts(images, places), strict=True):
            prompts.append(self.raw(written, shown))
        return self.batch(prompts)

    def piece(self, source: ImageSource) -> Piece:
        """The ids that stand for an image, and which of them name tiles."""
        places = self.places
        runs = (places,) if isinstance(places, int) else places(source)
        words = vocabulary(self.tokenizer, self.image_token_id)
        return image_piece(0, runs, self.image_token_id, words)

    def raw(
        self,
        text: str,
        images: tuple[ImageSource, ...],
        answers: Sequence[tuple[int, int]] = (),
    ) -> Tokens:
        """Tokens of text that is written out already; those that overlap with `answers`, spans of
        its characters, are targets."""
        ids: list[int] = []
        image: list[int] = []
        answer: list[bool] = []
        pieces: list[Piece] = []
        place = 0
        for number, words in enumerate(text.split(self.image_token)):
            if number and self.visual_tokens:
                piece = self.piece(images[number - 1])
                pieces.append(piece)
                ids += piece.ids
                image += [number] * len(piece.ids)
                for name in piece.names:
                    image[name - len(piece.ids)] = 0  # from the end: the piece was just added
            answer += [False] * (len(ids) - len(answer))
            # Part by part, as templates are written: no token spans an image's place.
            written = self.tokenizer.encode(words, add_special_tokens=False) if words else []
            pieces.append(Piece(tuple(written)))
            ids += written
            image += [0] * len(written)
            if answers:
                answer += overlaps(self.tokenizer, words, place, answers)
            place += len(words) + len(self.image_token)
        answer += [False] * (len(ids) - len(answer))
        start = self.tokenizer.bos_token_id
        if start is not None and ids[:1] != [start]:
            ids, image, answer = [start, *ids], [0, *image], [False, *answer]
            pieces = [Piece((start,)), *pieces]
        values = np.array(ids, dtype=np.int64)
        return Tokens(
            origin="text",
            images=images,
            input_ids=values,
            branch=np.ones_like(values),
            position=count_positions(pieces),
            image=np.array(image, dtype=np.int64),
            target=np.where([*answer[1:], False], np.append(values[1:], 0), IGNORED),
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "auto",
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: dict | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> BatchFeature | torch.Tensor | list | str:
        """One conversation or several in this model's template: transformers' arguments, defaults
        and results (`ProcessorMixin.apply_chat_template`).

        Text, `<image>` where an image is shown; with `tokenize` ids [rows, length], and with
        `return_dict` also `attention_mask`, `pixel_values` and, if asked for, `assistant_masks` (1
        for what the model writes, end tokens included). Ready for `generate` with
        `add_generation_prompt=True, tokenize=True, return_dict=True`. `chat_template`: the name of
        another of Lucida's templates, or a Jinja text. `processor_kwargs`: `images` for places
        without a picture, `padding` (here True by default), `max_length`, `padding_side`. DataError
        for tools, documents and options that would have no effect.
        """
        writer, jinja = conversing.named_template(self, chat_template)
        variables, rest = conversing.variables_of(jinja, kwargs)
        flags = {
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "return_assistant_tokens_mask": return_assistant_tokens_mask,
        }
        unused = {"load_audio_from_video": load_audio_from_video}
        unused |= {"sanitize_control_tokens": sanitize_control_tokens and jinja is not None}
        conversing.check_flags(flags, unused, jinja)
        if return_tensors != "auto":
            rest["return_tensors"] = return_tensors
        options = conversing.read_options(processor_kwargs, rest)
        found, several = conversing.batches(conversation, jinja is None)
        images = conversing.pictures_beside(found, several, options, tokenize)
        if jinja is not None and not tokenize:
            texts = conversing.render_conversations(self, jinja, found, flags | variables)[0]
        elif jinja is not None:
            prompts = conversing.read(self, jinja, found, images, flags | variables)
        else:
            prompts = conversing.written(writer, found, images, conversing.ending_of(flags))
            texts = [] if tokenize else [writer.text(prompt) for prompt in prompts]
        if not tokenize:
            return texts if several else texts[0]
        masked = return_assistant_tokens_mask and return_dict
        batch = conversing.batch_of(self, prompts, options, masked)
        return batch if return_dict else batch["input_ids"]

    def text(self, tokens: Tokens) -> str:
        """What stands in a prompt, each image as one `<image>`."""
        pieces, start = [], 0
        for number, source in enumerate(tokens.images if self.visual_tokens else (), 1):
            ids = self.piece(source).ids
            before = ids.index(self.image_token_id)  # what names the first tile stands before it
            place = int(np.argmax(tokens.image == number)) - before
            pieces.append(self.tokenizer.decode(tokens.input_ids[start:place].tolist()))
            start = place + len(ids)
        pieces.append(self.tokenizer.decode(tokens.input_ids[start:].tolist()))
        return self.image_token.join(pieces)

    def end_tokens(self) -> list[int]:
        """Ids that end an answer in this template: what the model learns to write behind it."""
        answer = (Turn("user", ("a",)), Turn("assistant", ("a",)))
        target = self.encode(Sample("end token", (), (), (answer,))).target
        last = int(target[target != IGNORED][-1])
        return list(dict.fromkeys([last, self.tokenizer.eos_token_id]))


def overlaps(
    tokenizer: PreTrainedTokenizerBase, text: str, place: int, spans: Sequence[tuple[int, int]]
) -> list[bool]:
    """For each token of a text that begins at `place`: does it share a character with a span?"""
    if not text:
        return []
    given = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = [(place + begin, place + end) for begin, end in given["offset_mapping"]]
    return [any(a < end and b > begin for begin, end in spans) for a, b in pairs]
