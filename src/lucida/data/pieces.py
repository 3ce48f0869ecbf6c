"""A sample written piece by piece, each piece knowing what it is; `chat` makes arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lucida.core.errors import DataError
from lucida.core.spec import ImagePlaces, TemplateName
from lucida.data.boxes import box_tokens, format_box
from lucida.data.images import image_size
from lucida.data.policies import ImagePolicy
from lucida.data.sample import BoxPart, ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.templates import TEMPLATES, Frame, Layout, document_frame
from lucida.data.vocabulary import Ids, Vocabulary, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of ids with one meaning.

    `answer`: the model shall write it when only answers are supervised. `image`: the placeholders
    of this image of the sample (no ids at all in a blind model), None for text. `names`: the
    indices of `ids` that are no placeholders but name the tile that follows.
    """

    ids: Ids
    answer: bool = False
    image: int | None = None
    names: tuple[int, ...] = ()


Runs = Callable[[ImageSource], tuple[int | str, ...]]
"""What stands for an image: numbers of placeholders, and between them names of tiles."""


def image_piece(
    index: int, runs: Sequence[int | str], placeholder: int, words: Vocabulary
) -> Piece:
    """The piece of image number `index`: (2, "<b>", 1) becomes the ids I I <b> I, names (2,)."""
    ids: list[int] = []
    names: list[int] = []
    for run in runs:
        if isinstance(run, int):
            ids += [placeholder] * run
        else:
            name = words.literal(run)
            names += range(len(ids), len(ids) + len(name))
            ids += name
    return Piece(tuple(ids), image=index, names=tuple(names))


@dataclass(slots=True)
class _Spoken:
    """One turn after consecutive turns of a role were joined.

    `stem` and `branch` are the parts that each side says of it; `shared`: the stem begins it (and
    may be left without parts of it when images go to the start); `open`: the stem ends inside this
    turn, so each branch goes on with it or closes it.
    """

    role: str
    stem: list[Part] = field(default_factory=list)
    branch: list[Part] = field(default_factory=list)
    shared: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class Writing:
    """Everything but the sample that decides its pieces."""

    tokenizer: PreTrainedTokenizerBase
    template: TemplateName
    visual_tokens: int | Runs
    image_policy: ImagePolicy
    bins: int
    image_token_id: int | None
    images: ImagePlaces = "in_place"

    def __post_init__(self) -> None:
        if self.visual_tokens and self.image_token_id is None:
            raise ValueError("a model with visual tokens needs image_token_id")
        if self.template not in TEMPLATES:
            raise ValueError(f"no template {self.template!r}; known: {', '.join(TEMPLATES)}")

    def pieces(self, sample: Sample, prompt: bool) -> tuple[list[Piece], list[list[Piece]]]:
        """Pieces of the stem and of each branch; for a `prompt`, up to where an answer begins."""
        _check_images(sample)
        stem_turns, branches = sample.stem, sample.branches
        if not branches:  # a sample that is all stem is one ordinary conversation
            stem_turns, branches = (), (sample.stem,)
        shared = _same_roles(stem_turns)
        stem: list[Piece] | None = None
        written = []
        for turns in branches:
            conversation = _Conversation(self, sample)
            conversation.write(_joined(shared, turns), prompt)
            if stem is not None and conversation.stem != stem:
                raise DataError(
                    f"the template `{self.template}` writes the stem differently for two branches",
                    origin=sample.origin,
                    remedy="give each branch a sample of its own",
                )
            stem = conversation.stem
            written.append(conversation.branch)
        return stem or [], written


class _Conversation:
    """The pieces of a stem and one branch while they are being written."""

    def __init__(self, writing: Writing, sample: Sample) -> None:
        self.writing = writing
        self.sample = sample
        self.vocabulary = vocabulary(writing.tokenizer, writing.image_token_id)
        self.stem: list[Piece] = []
        self.branch: list[Piece] = []

    def write(self, spoken: list[_Spoken], prompt: bool) -> None:
        """Writes all turns; `spoken` loses a last answer when a prompt is wanted."""
        if prompt and spoken and spoken[-1].role == "assistant" and not spoken[-1].shared:
            spoken = spoken[:-1]
        document = any(turn.role == "text" for turn in spoken)
        if document and len(spoken) > 1:
            raise DataError(
                "a document and a conversation stand in one branch",
                given=", ".join(turn.role for turn in spoken),
                origin=self.sample.origin,
                remedy="use role `text` for all turns of a branch or for none",
            )
        layout = self._layout(spoken, document, prompt)
        begun = self._begin(layout)
        if self.writing.images == "at_start" and not document:
            self._images_first(spoken)
        for turn, frame in zip(spoken, layout.frames, strict=False):
            self._turn(turn, frame, begun)
            begun = 0
        if prompt and not document:
            self._text(self.branch, layout.frames[-1].before, begun=begun)

    def _layout(self, spoken: list[_Spoken], document: bool, prompt: bool) -> Layout:
        tokenizer = self.writing.tokenizer
        try:
            if document:
                frame = document_frame(tokenizer)
                return Layout((replace(frame, end="") if prompt else frame,))
            roles = tuple(turn.role for turn in spoken)
            if prompt:
                roles += ("assistant",)
            key = (tokenizer.chat_template, tokenizer.eos_token)
            return _layout(self.writing.template, tokenizer, roles, str(key))
        except DataError as error:
            raise DataError(str(error), origin=self.sample.origin) from error

    def _begin(self, layout: Layout) -> int:
        """Writes the start token, once: not when the template or its first text begins with it,
        unless images come in between. How many tokens of the first text were written so."""
        bos = self.vocabulary.bos
        opening = layout.frames[0].before if layout.frames else ""
        written = bos is not None and self.vocabulary.literal(opening)[:1] == (bos,)
        between = self.writing.images == "at_start" and bool(self.sample.images)
        if between if written else bos is not None and not layout.begins_itself:
            self.stem.append(Piece((bos,)))
        return int(written and between)

    def _images_first(self, spoken: list[_Spoken]) -> None:
        """Writes all images at once and takes them out of their turns."""
        for turn in spoken:
            if turn.role == "assistant":
                continue  # images in answers are refused, here as elsewhere
            turn.stem, shown = _without_images(turn.stem)
            turn.branch, more = _without_images(turn.branch)
            if more and len(self.sample.branches) > 1:
                raise DataError(
                    "an image of one of several branches cannot stand at the start of all",
                    origin=self.sample.origin,
                    remedy="give each branch a sample of its own, or set model.language.images to "
                    "in_place",
                )
            self._parts(self.stem, [*shown, *more])

    def _turn(self, turn: _Spoken, frame: Frame, begun: int = 0) -> None:
        """Writes one turn in the order that `Frame` describes, without `begun` first tokens."""
        answer = turn.role in ("assistant", "text")
        if turn.role == "assistant":
            self._check_answer(turn)
        first = self.stem if turn.shared else self.branch
        last = self.stem if turn.shared and not turn.open else self.branch
        images, said = _opening_images(turn.stem)
        more, asked = ([], turn.branch) if said else _opening_images(turn.branch)
        lead = frame.lead

        self._text(first, frame.before, begun=begun)
        self._text(first, frame.generated, answer)
        if (images or more) and frame.glue:  # "USER: <image>\nWhat": the space stands first
            self._text(first, lead)
            lead = ""
        self._parts(self.stem, images)
        self._parts(self.branch, more)
        if not frame.shows_text:
            self._parts(self.stem, [part for part in said if isinstance(part, ImagePart)])
            self._parts(self.branch, [part for part in asked if isinstance(part, ImagePart)])
        elif said or asked:
            glue = frame.glue if images or more else ""
            self._text(self.stem if said else self.branch, frame.opening + glue)
            self._parts(self.stem, _led(lead, said), answer)
            # What a branch adds to words of the stem begins on a line of its own.
            seam = "\n" if said and isinstance(said[-1], str) else ""
            self._parts(self.branch, _led(seam if said else lead, asked), answer)
        if turn.role != "text" or said or asked:
            self._text(last, frame.end, answer)
            self._text(last, frame.after)

    def _text(self, pieces: list[Piece], text: str, answer: bool = False, begun: int = 0) -> None:
        ids = self.vocabulary.literal(text)[begun:]
        if ids:
            pieces.append(Piece(ids, answer))

    def _parts(self, pieces: list[Piece], parts: Sequence[Part], answer: bool = False) -> None:
        for part in parts:
            if isinstance(part, ImagePart):
                # Added even when it is empty: a blind model's `after_image` begins here too.
                pieces.append(self._image(part.index))
                continue
            ids = self.vocabulary.words(part) if isinstance(part, str) else self._box(part)
            if ids:
                pieces.append(Piece(ids, answer))

    def _image(self, index: int) -> Piece:
        places, placeholder = self.writing.visual_tokens, self.writing.image_token_id or 0
        if isinstance(places, int):
            return Piece((placeholder,) * places, image=index)
        return image_piece(index, places(self.sample.images[index]), placeholder, self.vocabulary)

    def _box(self, part: BoxPart) -> Ids:
        images = self.sample.images
        if not 0 <= part.index < len(images):
            raise DataError(
                "a box lies in an image that the sample lacks",
                expected=f"an index below {len(images)}",
                given=part.index,
                origin=self.sample.origin,
            )
        width, height = image_size(images[part.index])
        box = (part.x0, part.y0, part.x1, part.y1)
        frame = self.writing.image_policy.to_frame(box, width, height)
        if not all(abs(value) < float("inf") for value in frame):
            raise DataError("a box has no place", given=box, origin=self.sample.origin)
        bins = self.writing.bins
        width = len(box_tokens(bins)[0])
        text = format_box(frame, bins)
        return self.vocabulary.box([text[i : i + width] for i in range(0, len(text), width)])

    def _check_answer(self, turn: _Spoken) -> None:
        parts = [*turn.stem, *turn.branch]
        if not parts:
            raise DataError(
                "an answer is empty",
                origin=self.sample.origin,
                remedy="fill it in, or drop the record with mixture.on_error=skip",
            )
        if any(isinstance(part, ImagePart) for part in parts):
            raise DataError(
                "an answer contains an image",
                origin=self.sample.origin,
                remedy="put images into user turns, or use role `text` for interleaved documents",
            )


@lru_cache(maxsize=1024)
def _layout(
    template: str, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...], key: str
) -> Layout:
    # `key` holds what may change inside a tokenizer that stays the same object.
    return TEMPLATES[template](tokenizer, roles)


def _check_images(sample: Sample) -> None:
    """Each image of the sample is shown exactly once."""
    turns = [turn for branch in (sample.stem, *sample.branches) for turn in branch]
    shown = [p.index for turn in turns for p in turn.parts if isinstance(p, ImagePart)]
    if len(shown) != len(sample.images):
        raise DataError(
            "images and their places in the text differ in number",
            expected=f"{len(sample.images)} places for {len(sample.images)} images",
            given=f"{len(shown)} places",
            origin=sample.origin,
            remedy="correct the record, or drop it with mixture.on_error=skip",
        )
    if sorted(shown) != list(range(len(sample.images))):
        raise DataError(
            "each image has to be shown exactly once",
            expected=f"the indices 0 to {len(sample.images) - 1} once each",
            given=shown,
            origin=sample.origin,
        )


def _joined(stem: list[tuple[str, list[Part]]], branch: Sequence[Turn]) -> list[_Spoken]:
    """The turns of a stem, already joined, and one branch, consecutive turns of one role joined.

    The stem's last turn stays open for the branch when a user or a document speaks. Images alone at
    the end of the stem belong to whoever speaks first in the branch, document or user.
    """
    later = _same_roles(branch)
    joined = [_Spoken(role, stem=parts, shared=True) for role, parts in stem if parts]
    if joined and joined[-1].role in ("user", "text"):
        end = joined[-1]
        end.open = True
        only_images = all(isinstance(part, ImagePart) for part in end.stem)
        speaker = later[0][0] if later else end.role
        if speaker == end.role or (only_images and speaker in ("user", "text")):
            end.role = speaker
            end.branch = later.pop(0)[1] if later else []
    return joined + [_Spoken(role, branch=parts) for role, parts in later]


def _same_roles(turns: Sequence[Turn]) -> list[tuple[str, list[Part]]]:
    """(role, parts) with consecutive turns of a role joined, texts joined, their ends stripped."""
    joined: list[tuple[str, list[Part]]] = []
    for turn in turns:
        parts = list(turn.parts)
        if joined and joined[-1][0] == turn.role:
            earlier = joined[-1][1]
            if earlier and parts and isinstance(earlier[-1], str) and isinstance(parts[0], str):
                earlier.append("\n")
            earlier.extend(parts)
        else:
            joined.append((turn.role, parts))
    return [(role, _tidy(parts, strip=role != "text")) for role, parts in joined]


def _tidy(parts: list[Part], strip: bool) -> list[Part]:
    if len(parts) == 1:  # nearly always
        part = parts[0].strip() if strip and isinstance(parts[0], str) else parts[0]
        return [part] if part != "" else []
    tidy: list[Part] = []
    for part in parts:
        if isinstance(part, str) and tidy and isinstance(tidy[-1], str):
            tidy[-1] += part
        else:
            tidy.append(part)
    if strip and tidy and isinstance(tidy[0], str):
        tidy[0] = tidy[0].lstrip()
    if strip and tidy and isinstance(tidy[-1], str):
        tidy[-1] = tidy[-1].rstrip()
    return [part for part in tidy if part != ""]


def _without_images(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The parts of a turn as if they had never shown an image, and the images."""
    images: list[Part] = [part for part in parts if isinstance(part, ImagePart)]
    if not images:
        return parts, images
    said = [part for part in parts if not isinstance(part, ImagePart)]
    return _tidy(said, strip=True), images


def _opening_images(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The images that open a turn, and the rest; white space between them is left out."""
    images = []
    for number, part in enumerate(parts):
        if isinstance(part, ImagePart):
            images.append(part)
        elif not (isinstance(part, str) and not part.strip()):
            rest = parts[number:]
            if images and isinstance(rest[0], str):
                rest = [rest[0].lstrip(), *rest[1:]]
            return images, rest
    return images, []


def _led(lead: str, parts: list[Part]) -> list[Part]:
    """The parts with white space in front that is tokenised together with the first word."""
    if not lead or not parts:
        return parts
    if isinstance(parts[0], str):
        return [lead + parts[0], *parts[1:]]
    return [lead, *parts]
