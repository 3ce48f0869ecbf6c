"""Who sees whom: attention masks as predicates over the fields of a batch.

A predicate takes the fields of a query position and of a key position and says whether the query
may attend to the key. All masks share one rule:

    same segment  and  key's branch is 0 or the query's own  and  key not after the query

(A branch may go on in twigs, which see it and not one another: `TWIG`.)

Those that look ahead, at keys after the query, do so within an image or within the prompt, never
past the first token that the loss asks for: else an answer could be read off by way of an image.
What a model writes behind a prompt sees all that stands before it (on its stem and branch) under
every mask: caches keep no fields. A new mask is one function and one line in `MASKS`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, arange

from lucida.core.errors import ModelError
from lucida.core.registry import Table
from lucida.data.sample import IGNORED, Batch

ASK_WHOLE = ("prefix", "mutual")
"""Our masks of which `is_asked_whole` holds."""

CAUSAL_TEXT = ("causal", "image_block", "all_images", "mutual", "diagonal")
"""Ours under which text without images is causal; of another package's masks that is not known."""

TWIG = 2**16
"""Twig t of branch b has the branch number t * TWIG + b. It sees the stem, branch b and itself: how
the candidate answers to one of several questions stand behind it (eval/likelihood.py)."""


class Fields(NamedTuple):
    """What a mask may ask about a position. All five have the same shape, or broadcast together.

    segment: which packed sample, 0 = padding. branch: 0 = the shared stem. order: index within the
    row. image: 0 = text, k = visual token of the segment's k-th image. prompt: 1 up to the position
    that predicts the first answer token (on its branch), 0 behind it.
    """

    segment: Tensor
    branch: Tensor
    order: Tensor
    image: Tensor
    prompt: Tensor

    def queries(self) -> Fields:
        """The fields with a new last axis, to be compared with `keys()`."""
        return Fields(*(field.unsqueeze(-1) for field in self))

    def keys(self) -> Fields:
        """The fields with a new second last axis."""
        return Fields(*(field.unsqueeze(-2) for field in self))


def reachable(query: Fields, key: Fields) -> Tensor:
    """The same segment, and the stem, the query's own branch, or the branch that it is a twig of.

    Worked example: a stem, two branches, two twigs of the first branch.

        branch            0 1 T+1 2T+1 2  (keys; T is `TWIG`)
                    0     x . .   .    .
                    1     x x .   .    .
                    T+1   x x x   .    .
                    2T+1  x x .   x    .
                    2     x . .   .    x
    """
    together = (query.segment == key.segment) & (query.segment > 0)
    own = (key.branch == query.branch) | (key.branch == query.branch % TWIG)
    return together & ((key.branch == 0) | own)


def causal(query: Fields, key: Fields) -> Tensor:
    """Each position sees the earlier ones of its segment, on the stem and on its own branch.

    Worked example, one segment: image of two visual tokens, then two isolated questions.

        token         I  I  a  b  a  b          I I a b a b   (keys)
        branch        0  0  1  1  2  2      I   x . . . . .
        order         0  1  2  3  4  5      I   x x . . . .
        image         1  1  0  0  0  0      a   x x x . . .
                                            b   x x x x . .
                                            a   x x . . x .
                                            b   x x . . x x
    """
    return reachable(query, key) & (key.order <= query.order)


def image_block(query: Fields, key: Fields) -> Tensor:
    """As `causal`, and the visual tokens of one image also see the later ones of the same image.

    Worked example, as above but with two images (of two and one visual tokens) and one question:

        token         I  I  J  a  b             I I J a b     (keys)
        image         1  1  2  0  0         I   x x . . .     the first sees the second
                                            I   x x . . .
                                            J   x x x . .     a later image sees the earlier one
                                            a   x x x x .
                                            b   x x x x x

    Reference: Improved Alignment of Modalities in Large Vision Language Models, 2025,
    arXiv 2503.19508.
    """
    # Branches need not be asked: an image stands whole on one of them, and no other of the segment
    # has its number. Segment 0 is: an attention mask of zeros may hide placeholders too.
    same_image = (query.segment == key.segment) & (query.image == key.image) & (query.image > 0)
    return causal(query, key) | (same_image & (query.segment > 0))


def all_images(query: Fields, key: Fields) -> Tensor:
    """As `image_block`, and the images of a prompt see each other, the later ones too.

    Worked example: a text token between two images of two visual tokens, a question, an answer.

        token         I  I  t  J  J  q  a       I I t J J q a (keys)
        image         1  1  0  2  2  0  0   I   x x . x x . . the first image sees the second
        prompt        1  1  1  1  1  1  0   I   x x . x x . .
                                            t   x x x . . . .
                                            J   x x x x x . .
                                            J   x x x x x . .
                                            q   x x x x x x .
                                            a   x x x x x x x

    The second image has read `t`, so through the first image whoever predicts `t` would know it:
    images that stand behind a supervised token are seen by no earlier image.
    """
    both = (query.image > 0) & (key.image > 0) & (query.prompt > 0) & (key.prompt > 0)
    return image_block(query, key) | (reachable(query, key) & both)


def prefix(query: Fields, key: Fields) -> Tensor:
    """All positions of the prompt, images and text, see each other; answers are causal.

    Worked example: an image of two visual tokens, a question of two tokens, an answer of two.

        token         I  I  q  :  a  b          I I q : a b   (keys)
        image         1  1  0  0  0  0      I   x x x x . .
        prompt        1  1  1  1  0  0      I   x x x x . .
        target        -  -  -  a  b  -      q   x x x x . .
                                            :   x x x x . .   it predicts a and sees none of it
                                            a   x x x x x .
                                            b   x x x x x x

    The prompt ends where the first answer begins: later turns are causal in training. While a model
    is generating, all that it was given at once is the prompt. A sample of several branches has no
    one prompt (`check_branches`).

    Reference: Beyer et al., PaliGemma: A versatile 3B VLM for transfer, 2024, arXiv 2407.07726,
    section 3.2.1.
    """
    both = (query.prompt > 0) & (key.prompt > 0)
    return image_block(query, key) | (reachable(query, key) & both)


def mutual(query: Fields, key: Fields) -> Tensor:
    """As `image_block`, and images also see the text of the prompt behind them; text is causal.

    Worked example, as for `prefix`:

        token         I  I  q  :  a  b          I I q : a b   (keys)
        image         1  1  0  0  0  0      I   x x x x . .   the image reads the question
        prompt        1  1  1  1  0  0      I   x x x x . .
                                            q   x x x . . .
                                            :   x x x x . .
                                            a   x x x x x .
                                            b   x x x x x x

    The prompt is that of `prefix`, and so is what is said there about branches and generation.

    Reference: Wang et al., Seeing is Understanding: Unlocking Causal Attention into
    Modality-Mutual Attention for Multimodal LLMs, 2025, arXiv 2503.02597, section 3.
    """
    looking = (query.image > 0) & (query.prompt > 0) & (key.prompt > 0)
    return image_block(query, key) | (reachable(query, key) & looking)


def diagonal(query: Fields, key: Fields) -> Tensor:
    """Visual tokens see themselves only; text is causal and sees all of them.

    Worked example, as for `prefix`:

        token         I  I  q  :  a  b          I I q : a b   (keys)
        image         1  1  0  0  0  0      I   x . . . . .
                                            I   . x . . . .
                                            q   x x x . . .
                                            :   x x x x . .
                                            a   x x x x x .
                                            b   x x x x x x

    Reference: Kuo et al., D-Attn: Decomposed Attention for Large Vision-and-Language Models, 2025,
    arXiv 2502.01906, section 3.
    """
    return causal(query, key) & ((query.image == 0) | (query.order == key.order))


MASKS = Table(
    "attention mask",
    {
        "causal": "lucida.model.masks:causal",
        "image_block": "lucida.model.masks:image_block",
        "all_images": "lucida.model.masks:all_images",
        "prefix": "lucida.model.masks:prefix",
        "mutual": "lucida.model.masks:mutual",
        "diagonal": "lucida.model.masks:diagonal",
    },
    group="lucida.masks",
)


def is_asked_whole(name: str) -> bool:
    """Whether an image sees what is asked about it under this mask, so that two questions can
    neither share its states nor stand behind it as branches. A mask of another package says so by
    an attribute `asked_whole`."""
    return name in ASK_WHOLE or bool(getattr(MASKS[name], "asked_whole", False))


def fields_of(batch: Batch) -> Fields:
    """The mask fields of a batch, each of shape [rows, length].

    A segment with one branch has no stem: nothing shares it, so it is one conversation.
    """
    length = batch.segment.shape[1]
    order = arange(length, device=batch.segment.device).expand_as(batch.segment)
    # [rows, segments + 1]: has a segment more than one branch? Where it has not, stem and branch
    # are told apart by nothing (branch 1 throughout, 0 is padding), so that `prompts` takes both as
    # one path.
    several = batch.branch.new_zeros(batch.segment.shape[0], int(batch.segment.max()) + 1)
    several = several.scatter_reduce(1, batch.segment, batch.branch, "amax") > 1
    branch = torch.where(several.gather(1, batch.segment), batch.branch, batch.segment.clamp(max=1))
    prompt = prompts(batch.segment, branch % TWIG, batch.target != IGNORED)
    return Fields(batch.segment, branch, order, batch.image, prompt)


def prompts(
    segment: Int[Tensor, "rows length"],
    branch: Int[Tensor, "rows length"],
    supervised: Bool[Tensor, "rows length"],
) -> Int[Tensor, "rows length"]:
    """1 where no position before is supervised, on the stem or on the same branch, else 0.

    Worked example: a stem of two positions, two branches of three.

        branch        0 0 1 1 1 2 2 2
        supervised    . . . x x x . .
        prompt        1 1 1 1 0 1 0 0
    """
    rows = len(segment)
    branches = int(branch.max()) + 1
    # A path is a (segment, branch) of a row; the stem is branch 0 of its segment. Numbers of paths
    # index the tables below, [rows, size].
    path = segment * branches + branch
    stem = segment * branches
    size = (int(segment.max()) + 1) * branches
    asked = supervised.long()
    # Supervised positions of the row in front of each, whatever they belong to. A path stands
    # together, so what has come since its first position is its own. (Twigs stand apart from their
    # branch; the masks that ask text about the prompt take no branches at all: `check_branches`.)
    before = asked.cumsum(1) - asked
    start = before.new_full((rows, size), before.shape[1])
    start = start.scatter_reduce(1, path, before, "amin")
    total = before.new_zeros(rows, size).scatter_add(1, path, asked)
    own = before - start.gather(1, path)
    # All of the stem stands in front of a branch, so it counts whole there; on the stem itself
    # `own` has what came before.
    shared = total.gather(1, stem) * (branch > 0)
    return ((own + shared == 0) & (segment > 0)).long()


def check_branches(batch: Batch, name: str) -> None:
    """Refuse several branches under a mask that lets an image see what is asked about it.

    They could be kept apart (no branch is ever seen by another), but then images would not see the
    questions in training and would see them when the model is asked one.
    """
    if is_asked_whole(name) and bool((batch.branch > 1).any()):
        raise ModelError(
            f"under the attention mask `{name}` an image sees the question, and here several"
            " isolated questions share one image",
            expected="samples of one branch",
            given=f"{int(batch.branch.max())} branches",
            origin=next(iter(batch.origins), None),
            remedy="give each question a sample of its own (`questions: 1` for the world), or"
            " choose another model.attention_mask",
        )


def dense_mask(fields: Fields, name: str) -> Bool[Tensor, "rows 1 length length"]:
    """The whole mask, True where a query (second last axis) may attend to a key (last axis).

    Padding attends to itself and to nothing else, so that no softmax row is empty (NaN). Costs
    rows x length² bytes: for tests and small batches; training uses `attention.Layout`.
    """
    query, key = fields.queries(), fields.keys()
    allowed = MASKS[name](query, key)
    padding = (query.segment == 0) & (query.order == key.order)
    return (allowed | padding).unsqueeze(1)


def picture(fields: Fields, name: str, row: int = 0, labels: list[str] | None = None) -> str:
    """The mask of one row for the terminal: a line for each query, a column for each key.

    `#` image sees image, `=` image sees text, `o` text sees image, `x` text sees text, `.` nothing.
    labels: one word for each position, written in front of its line; without them `I1` stands for
    the first image's visual tokens and `t` for text. The same as an array: `cells`.
    """
    kinds = cells(fields, name, row)
    if labels is None:
        labels = [f"I{number}" if number else "t" for number in fields.image[row].tolist()]
    wide = max(map(len, labels), default=0)
    lines = ("".join(CELLS[cell] for cell in line) for line in kinds.tolist())
    return "\n".join(f"{label:>{wide}} {line}" for label, line in zip(labels, lines, strict=True))


CELLS = ".xo=#"
"""What the numbers of `cells` are in a picture: nothing, and who sees what."""


def cells(fields: Fields, name: str, row: int = 0) -> Int[Tensor, "length length"]:
    """The mask of one row as numbers, for pictures of any kind.

    0 unseen, 1 text sees text, 2 text sees image, 3 image sees text, 4 image sees image.
    """
    allowed = dense_mask(fields, name)[row, 0]
    image = (fields.image[row] > 0).long()
    return allowed * (1 + 2 * image[:, None] + image[None, :])
