"""A sample written piece by piece, each piece knowing what it is; `chat` makes arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from lucida.core.errors import DataError
from lucida.core.spec import ImagePlaces, TemplateName
from lucida.data.boxes import box_tokens, format_box
from lucida.data.images import image_size
from lucida.data.policies import ImagePolicy
from lucida.data.sample import BoxPart, ImagePart, ImageSource, Part, Sample, is_blank
from lucida.data.spoken import (
    Spoken,
    join_turns,
    opening_images,
    put_lead,
    same_roles,
    without_images,
)
from lucida.data.templates import TEMPLATES, Frame, Layout, document_frame
from lucida.data.vocabulary import Ids, Vocabulary, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of ids with one meaning.

    `answer`: the model shall write it when only answers are supervised. `beside`: the same where of
    documents only the sentence behind each image is. `image`: the placeholders of this image of the
    sample (no ids at all in a blind model), None for text. `names`: the indices of `ids` that are
    no placeholders but name the tile that follows. `steps`: how far each id stands behind the one
    before it; None is 1 for all.
    """

    ids: Ids
    answer: bool = False
    beside: bool = False
    image: int | None = None
    names: tuple[int, ...] = ()
    steps: tuple[int, ...] | None = None


Ending = Literal["whole", "prompt", "asked", "open"]
"""Where the text of a conversation stops: behind its last turn; where its last answer would begin;
behind its last turn and what asks for another answer; inside its last turn."""

Run = int | tuple[int, ...] | str
"""A number of placeholders, or how far each of them stands behind the one before it, or a name."""

Runs = Callable[[ImageSource], tuple[Run, ...]]
"""What stands for an image: runs of placeholders, and between them names of tiles."""


def image_piece(index: int, runs: Sequence[Run], placeholder: int, words: Vocabulary) -> Piece:
    """The piece of image number `index`: (2, "<b>", 1) becomes the ids I I <b> I, names (2,); with
    (1, 0) for 2 the steps are 1 0 1 1."""
    ids: list[int] = []
    names: list[int] = []
    steps: list[int] = []
    for run in runs:
        # Names of tiles that were written since the last tuple stand one behind the other.
        steps += [1] * (len(ids) - len(steps))
        if isinstance(run, int):
            ids += [placeholder] * run
        elif isinstance(run, tuple):
            ids += [placeholder] * len(run)
            steps += run
        else:
            name = words.literal(run)
            names += range(len(ids), len(ids) + len(name))
            ids += name
    steps += [1] * (len(ids) - len(steps))
    moved = tuple(steps) if any(isinstance(run, tuple) for run in runs) else None
    return Piece(tuple(ids), image=index, names=tuple(names), steps=moved)


def count_positions(pieces: Sequence[Piece]) -> np.ndarray:
    """Where each id of these pieces, one behind the other, stands: int64, the first at 0."""
    if all(piece.steps is None for piece in pieces):
        return np.arange(sum(len(piece.ids) for piece in pieces))
    steps = [piece.steps or (1,) * len(piece.ids) for piece in pieces]
    # The first id steps from -1, so that it stands at 0.
    return np.cumsum(np.concatenate(steps, dtype=np.int64)) - 1


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

    def pieces(self, sample: Sample, ending: Ending) -> tuple[list[Piece], list[list[Piece]]]:
        """Pieces of the stem and of each branch, up to where `ending` says."""
        _check_images(sample)
        stem_turns, branches = sample.stem, sample.branches
        if not branches:  # a sample that is all stem is one ordinary conversation
            stem_turns, branches = (), (sample.stem,)
        shared = same_roles(stem_turns)
        stem: list[Piece] | None = None
        written = []
        for turns in branches:
            conversation = _Conversation(self, sample)
            # The stem is written anew with each branch, as a template may look at what follows; it
            # must come out the same, since its tokens are there once.
            conversation.write(join_turns(shared, turns), ending)
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
    """The pieces of a stem and one branch while they are being written.

    Every piece goes to the stem while all branches share it, and to the branch from then on. Under
    `vicuna`, with an image and "Look." in the stem and one question and answer in a branch:

        stem     <s>  "… USER:"  " "  I I  "\\n"  "Look."
        branch   "\\nWhat colour?"  " ASSISTANT:"  " red"  "</s>"
                  └ the seam          └ before       └ lead and text, end: the answer
    """

    def __init__(self, writing: Writing, sample: Sample) -> None:
        self.writing = writing
        self.sample = sample
        self.vocabulary = vocabulary(writing.tokenizer, writing.image_token_id)
        self.stem: list[Piece] = []
        self.branch: list[Piece] = []
        self.document = False
        # Whether the sentence of a document that is written stands right behind an image.
        self.behind = False

    def write(self, spoken: list[Spoken], ending: Ending) -> None:
        """Writes all turns; `spoken` loses a last answer when a prompt is wanted."""
        prompt = ending in ("prompt", "asked")
        if (
            ending == "prompt"
            and spoken
            and spoken[-1].role == "assistant"
            and not spoken[-1].shared
        ):
            spoken = spoken[:-1]
        self.document = document = any(turn.role == "text" for turn in spoken)
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
            self._turn(turn, frame, begun, ended=ending != "open" or turn is not spoken[-1])
            begun = 0
        if prompt and not document:
            self._text(self.branch, layout.frames[-1].before, begun=begun)

    def _layout(self, spoken: list[Spoken], document: bool, prompt: bool) -> Layout:
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
        # Where the first text begins with the start token, it is taken out of it only if images
        # come between the two; where it does not, it is written unless a tokenizer's own template
        # leaves it out on purpose.
        if between if written else bos is not None and not layout.begins_itself:
            self.stem.append(Piece((bos,)))
        return int(written and between)

    def _images_first(self, spoken: list[Spoken]) -> None:
        """Writes all images at once and takes them out of their turns."""
        for turn in spoken:
            if turn.role == "assistant":
                continue  # images in answers are refused, here as elsewhere
            turn.stem, shown = without_images(turn.stem)
            turn.branch, more = without_images(turn.branch)
            if more and len(self.sample.branches) > 1:
                raise DataError(
                    "an image of one of several branches cannot stand at the start of all",
                    origin=self.sample.origin,
                    remedy="give each branch a sample of its own, or set model.language.images to "
                    "in_place",
                )
            self._parts(self.stem, [*shown, *more])

    def _turn(self, turn: Spoken, frame: Frame, begun: int = 0, ended: bool = True) -> None:
        """Writes one turn in the order that `Frame` describes, without `begun` first tokens, and
        without its end where it is not `ended`."""
        if not ended and not frame.shows_text:
            raise DataError(
                f"the template `{self.writing.template}` does not show the turn to be continued",
                given=turn.role,
                origin=self.sample.origin,
            )
        answer = turn.role in ("assistant", "text")
        if turn.role == "assistant":
            self._check_answer(turn)
        # A turn that the stem begins opens in the stem; one that it leaves open ends in the branch.
        first = self.stem if turn.shared else self.branch
        last = self.stem if turn.shared and not turn.open else self.branch
        images, said = opening_images(turn.stem)
        # Images of the branch open the turn only as long as the stem has said nothing in it.
        more, asked = ([], turn.branch) if said else opening_images(turn.branch)
        lead = frame.lead

        self._text(first, frame.before, begun=begun)
        self._text(first, frame.generated, answer)
        if (images or more) and frame.glue:  # "USER: <image>\nWhat": the space stands first
            self._text(first, lead)
            lead = ""  # and is not written again in front of the text
        self._parts(self.stem, images)
        self._parts(self.branch, more)
        if not frame.shows_text:  # of what is said only the images among the words remain
            self._parts(self.stem, [part for part in said if isinstance(part, ImagePart)])
            self._parts(self.branch, [part for part in asked if isinstance(part, ImagePart)])
        elif said or asked:
            glue = frame.glue if images or more else ""
            self._text(self.stem if said else self.branch, frame.opening + glue)
            self._parts(self.stem, put_lead(lead, said), answer)
            # What a branch adds to words of the stem begins on a line of its own.
            seam = "\n" if said and isinstance(said[-1], str) else ""
            self._parts(self.branch, put_lead(seam if said else lead, asked), answer)
        if ended and (turn.role != "text" or said or asked):
            self._text(last, frame.end, answer)
            self._text(last, frame.after)

    def _text(self, pieces: list[Piece], text: str, answer: bool = False, begun: int = 0) -> None:
        ids = self.vocabulary.literal(text)[begun:]
        self._add(pieces, ids, answer)

    def _add(self, pieces: list[Piece], ids: Ids, answer: bool) -> None:
        if ids:
            some = self.document and self.sample.images  # that is, not all of it
            pieces.append(Piece(ids, answer, answer and (self.behind or not some)))

    def _parts(self, pieces: list[Piece], parts: Sequence[Part], answer: bool = False) -> None:
        sentence = ""  # has been met and not been written: another one follows
        for number, part in enumerate(parts):
            if isinstance(part, ImagePart):
                if self.writing.visual_tokens:
                    many = len(self.sample.images)
                    self._text(pieces, self.writing.image_policy.label(part.index, many))
                # Added even when it is empty: a blind model's `after_image` begins here too.
                pieces.append(self._image(part.index))
                self.behind = True
            elif isinstance(part, BoxPart):
                self._add(pieces, self._box(part), answer)
            # `_tidy` leaves two strings side by side only in documents, where the first of them is
            # the sentence that belongs to the image before it. They wait for each other to be
            # tokenised as one text.
            elif isinstance(parts[number + 1] if number + 1 < len(parts) else None, str):
                sentence = part
            elif sentence:
                own, rest = self._two_sentences(sentence, part)
                self._add(pieces, own, answer)
                self.behind, sentence = False, ""
                self._add(pieces, rest, answer)
            else:
                self._add(pieces, self.vocabulary.words(part), answer)

    def _two_sentences(self, first: str, then: str) -> tuple[Ids, Ids]:
        """The ids of both, tokenised as one text, so that they do not depend on what is supervised.
        A token that begins in the first sentence belongs to it."""
        whole, alone = self.vocabulary.words(first + then), self.vocabulary.words(first)
        # "kite." alone is [kite, .]. Written whole as [kite, ., It] the first sentence has two ids;
        # as [kite, ". It"] the ids differ at 1, and that one, in which both meet, is the first
        # sentence's.
        end = next((n for n, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), None)
        end = min(len(alone), len(whole)) if end is None else end + 1
        return whole[:end], whole[end:]

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
        # Not by `or`: nothing that is compared with nan is true.
        inside = part.x0 <= width and part.y0 <= height and part.x1 >= 0 and part.y1 >= 0
        if not (inside and all(abs(value) < float("inf") for value in frame)):
            raise DataError(
                "a box lies outside of its picture",
                expected=f"pixels of {width} x {height}",
                given=box,
                origin=self.sample.origin,
            )
        bins = self.writing.bins
        # From here on `width` is that of a token's text: "<b03><b05><b10><b12>" is cut into its
        # four.
        width = len(box_tokens(bins)[0])
        text = format_box(frame, bins)
        return self.vocabulary.box([text[i : i + width] for i in range(0, len(text), width)])

    def _check_answer(self, turn: Spoken) -> None:
        parts = [*turn.stem, *turn.branch]
        if is_blank(parts):
            raise DataError(
                "an answer is empty",
                origin=self.sample.origin,
                remedy="fill it in, or remove the record",
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
            remedy="correct the record",
        )
    if sorted(shown) != list(range(len(sample.images))):
        raise DataError(
            "each image has to be shown exactly once",
            expected=f"the indices 0 to {len(sample.images) - 1} once each",
            given=shown,
            origin=sample.origin,
        )
