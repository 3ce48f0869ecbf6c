"""From a sample to its tokens: placeholders, labels, positions, truncation.

The sample is written piece by piece (`pieces`, after the literal texts of `templates`), and each
piece knows what it is, so labels need no search:

    piece        ids                      `answers`   `all`   `after_image`   `after_each_image`
    template     literal text             no          yes     behind first    no
    user, system text of the data         no          yes     behind first    no
    image        placeholders             no          no      no              no
    assistant    text and end token       yes         yes     behind first    yes
    document     text and end token       yes         yes     behind first    sentence behind each

`after_image` supervises a sample without any image like `all`. `after_each_image` supervises of a
document the one sentence right behind each image (VILA's "following text only"), its end token if
it ends with such a sentence, and a document without images whole. The string of a turn that follows
an `ImagePart` is the sentence; another string behind it begins the next one.

Worked example: the page "Hi.", image, "A kite.", "It flies.", image, "Bye.", with their targets.

    written             Hi.  I  I   A kite.  It flies.  I  I   Bye.  <eos>
    all                 x    .  .   x        x          .  .   x     x
    after_image         .    .  .   x        x          .  .   x     x
    after_each_image    .    .  .   x        .          .  .   x     x

Order: the start token if the tokenizer has one, the stem, then each branch, counting positions on
from the stem's end.

Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.2; Lin et al.,
VILA, 2023, arXiv 2312.07533, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lucida.core.errors import DataError, TooLongError
from lucida.core.spec import ImagePlaces, LossMode, TemplateName
from lucida.data.pieces import Ending, Piece, Runs, Writing, count_positions
from lucida.data.policies import ImagePolicy
from lucida.data.sample import IGNORED, ImageSource, Sample, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    sample: Sample,
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateName,
    visual_tokens: int | Runs,
    image_policy: ImagePolicy,
    bins: int,
    loss: LossMode,
    max_length: int,
    *,
    image_token_id: int | None,
    images: ImagePlaces = "in_place",
    counts: Counter[str] | None = None,
) -> Tokens:
    """The sample as tokens with their targets.

    Each image is `visual_tokens` copies of `image_token_id` in one run, or the runs that it gives
    for this image; with 0 (a blind model) images contribute nothing. `images`: where they stand, as
    in `LanguageSpec`.

    A sample longer than `max_length` first loses whole branches, the last first; a single branch
    that is still too long is cut at its end, and a cut that would fall into an image moves before
    it. `counts` then grows by `branches_dropped`, `samples_cut`, `tokens_cut`, `images_dropped`.

    DataError: images and their places differ in number, an answer is empty, the stem alone fills
    `max_length`, nothing is supervised, or the template cannot be followed.
    """
    writing = Writing(
        tokenizer, template, visual_tokens, image_policy, bins, image_token_id, images
    )
    stem, branches = writing.pieces(sample, "whole")
    stem, branches = _fit_pieces(sample, stem, branches, max_length, counts)
    tokens = _assemble(sample, stem, branches, loss)
    if not (tokens.target != IGNORED).any():
        raise DataError(
            f"nothing of this sample is supervised by the loss mode `{loss}`",
            origin=sample.origin,
            remedy="give it an answer, another `loss`, or a larger model.language.max_length",
        )
    return tokens


def encode_prompt(
    sample: Sample,
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateName,
    visual_tokens: int | Runs,
    image_policy: ImagePolicy,
    bins: int,
    max_length: int,
    *,
    image_token_id: int | None,
    images: ImagePlaces = "in_place",
    ending: Ending = "prompt",
) -> Tokens:
    """The sample up to where the model has to go on, or to another `ending`; nothing is cut.

    For a prompt a branch that ends with an answer loses it, and the template's generation prompt is
    written; a document ends without its end token. Nothing of it is a target; of another ending the
    answers are. DataError when the stem and its longest branch leave no room for an answer in
    `max_length` (for `whole`, when they do not fit).
    """
    writing = Writing(
        tokenizer, template, visual_tokens, image_policy, bins, image_token_id, images
    )
    stem, branches = writing.pieces(sample, ending)
    length = _length(stem) + max(_length(branch) for branch in branches)
    if length >= max_length + (ending == "whole"):
        raise TooLongError(
            "the prompt is longer than the context",
            expected=f"fewer than {max_length} tokens",
            given=length,
            origin=sample.origin,
            remedy="shorten it, show fewer images, or raise model.language.max_length",
        )
    return _assemble(sample, stem, branches, loss=None if ending == "prompt" else "answers")


def _length(pieces: list[Piece]) -> int:
    return sum(len(piece.ids) for piece in pieces)


def _fit_pieces(
    sample: Sample,
    stem: list[Piece],
    branches: list[list[Piece]],
    max_length: int,
    counts: Counter[str] | None,
) -> tuple[list[Piece], list[list[Piece]]]:
    """The pieces within `max_length`: fewer branches, then a shorter one; images stay whole."""
    total = _length(stem) + sum(map(_length, branches))
    if total <= max_length:
        return stem, branches
    counts = Counter() if counts is None else counts
    room = max_length - _length(stem)
    if room <= 0:
        raise DataError(
            "the stem (images and shared text) alone fills the context",
            expected=f"fewer than {max_length} tokens",
            given=_length(stem),
            origin=sample.origin,
            remedy="show fewer images or raise model.language.max_length",
        )
    kept = list(branches)
    lost: list[Piece] = []
    while len(kept) > 1 and sum(map(_length, kept)) > room:
        lost += kept.pop()
        counts["branches_dropped"] += 1
    if _length(kept[0]) > room:
        kept[0], tail = _cut_pieces(kept[0], room)
        lost += tail
        counts["samples_cut"] += 1
        counts["tokens_cut"] += _length(tail)
    counts["images_dropped"] += sum(piece.image is not None for piece in lost)
    return stem, kept


def _cut_pieces(pieces: list[Piece], room: int) -> tuple[list[Piece], list[Piece]]:
    """The pieces that fit into `room` positions, and the rest."""
    for number, piece in enumerate(pieces):
        if len(piece.ids) <= room:
            room -= len(piece.ids)
            continue
        # An image is shown whole or not at all: half of its placeholders would have no features to
        # hold.
        if piece.image is not None or not room:
            return pieces[:number], pieces[number:]
        head = replace(piece, ids=piece.ids[:room])
        tail = replace(piece, ids=piece.ids[room:])
        return [*pieces[:number], head], [tail, *pieces[number + 1 :]]
    return pieces, []


def _assemble(
    sample: Sample, stem: list[Piece], branches: list[list[Piece]], loss: LossMode | None
) -> Tokens:
    """Arrays from pieces. Images are numbered in the order in which they are shown."""
    ids: list[int] = []
    image: list[int] = []
    supervised: list[bool] = []
    lengths: list[int] = []
    images: list[ImageSource] = []
    # `all`, and `after_image` without images, take every text token from the start.
    everything = loss == "all" or (loss == "after_image" and not sample.images)
    seen_in_stem = any(piece.image is not None for piece in stem)
    for number, pieces in enumerate((stem, *branches)):
        before = len(ids)
        # `seen`: whether text from here on is supervised because of where it stands. Each branch
        # begins anew from what the stem has shown; what another branch showed is not seen here.
        seen = everything or (loss == "after_image" and number > 0 and seen_in_stem)
        for piece in pieces:
            count = len(piece.ids)
            ids += piece.ids
            if piece.image is None:
                image += [0] * count
                # `beside` of a conversation is `answer`: only documents tell the two apart.
                if loss == "answers":
                    wanted = piece.answer
                elif loss == "after_each_image":
                    wanted = piece.beside
                else:
                    wanted = seen
                supervised += [wanted] * count
                continue
            seen = seen or loss == "after_image"
            supervised += [False] * count
            if count:  # a blind model's image has no ids: neither a number nor pixels
                images.append(sample.images[piece.image])
                image += [len(images)] * count
                for name in piece.names:  # names of tiles are text, though written in its midst
                    image[name - count] = 0  # `name - count` counts back from the piece's end
        lengths.append(len(ids) - before)

    size = len(ids)
    input_ids = np.array(ids, dtype=np.int64)
    target = np.full(size, IGNORED, dtype=np.int64)
    if size > 1:  # the target at a position is the next token
        target[:-1] = np.where(np.array(supervised[1:], dtype=bool), input_ids[1:], IGNORED)
    ends = np.cumsum(lengths)
    if len(branches) > 1:  # what follows is another branch: no one position can predict it
        target[ends[ends > 0] - 1] = IGNORED
    branch = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    counted = [count_positions(pieces) for pieces in (stem, *branches)]
    behind = counted[0][-1:] + 1 if len(counted[0]) else 0  # every branch begins there
    return Tokens(
        origin=sample.origin,
        images=tuple(images),
        input_ids=input_ids,
        branch=branch,
        position=np.concatenate([counted[0], *(own + behind for own in counted[1:])]),
        image=np.array(image, dtype=np.int64),
        target=target,
    )
