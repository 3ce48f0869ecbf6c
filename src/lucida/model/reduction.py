"""Fewer visual tokens of a picture, when a trained model is asked.

    prompt     <bos> I I I I what ?    positions 0 1 2 3 4 5 6
    reduced    <bos> I I what ?        positions 0 2 4 5 6        reduced (-1, 0, -1, 1)

What stays is decided here, prompt by prompt; the placeholders of the others are taken out, so that
answering, likelihoods, shared beginnings and caches go on as with any prompt, and `fuse` takes the
tokens themselves. Those that stay keep their positions, and so does the text; one that several were
joined to stands where the first of them did. What is taken away is gone from the first layer of the
language model on, however it was chosen: all ways are compared at the same cost, and none of them
lets the text read a token before it goes.

`attention` is the measure of FastV: what the last position of the prompt pays to each visual token,
the mean over heads, in an early layer (there the second) that has read the prompt whole. FastV
itself takes tokens away behind that layer, so that the layers up to it still read all of them; and
it differs from encoders that choose by their own attention (VisionZip, PruMerge), which most of the
miniature world's have not got. `merge` is ToMe's bipartite matching, repeated, over the visual
tokens as they come out of the projector; attention is not weighted by how many one stands for.

Reference: Chen et al., An Image is Worth 1/2 Tokens After Layer 2 (FastV), 2024, arXiv 2403.06764,
section 4; Bolya et al., Token Merging: Your ViT But Faster, 2022, arXiv 2210.09461, section 3.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lucida.core.errors import DataError, ModelError
from lucida.data.collate import collate
from lucida.data.images import image_size
from lucida.data.sample import Batch, ImageSource, Tokens
from lucida.model.attention import Layout, Way
from lucida.model.cross_attention import decoder_layers
from lucida.model.decode import request, rows_of
from lucida.model.evaluating import evaluating
from lucida.model.masks import MASKS, Fields, fields_of, is_asked_whole
from lucida.model.prefill import length, segment
from lucida.model.trees import PASS_TOKENS, batches, with_images

if TYPE_CHECKING:
    from lucida.core.spec import FewerTokensSpec, MaskName
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

LAYER = 2
"""Whose attention counts where none is named: FastV's."""
BATCH_TOKENS = 8192
"""Positions of one forward on a GPU; on a CPU `PASS_TOKENS`."""
PICTURES = 64
"""Pictures that are encoded at once to find out which of their tokens are alike."""


def reduce_prompts(
    model: LucidaModel,
    processor: LucidaProcessor,
    prompts: Sequence[Tokens],
    spec: FewerTokensSpec | None,
) -> list[Tokens]:
    """The prompts with the visual tokens that are left of each picture; a prompt of which all stay
    is the same object. Models without eyes have none to take away.

    ModelError where the design does not allow it; DataError for a prompt that ends with a picture.
    """
    if spec is None or not processor.visual_tokens:
        return list(prompts)
    check_reducible(model, processor, spec)
    if spec.by == "attention":
        # Of pictures alone there is nothing to choose by: the question decides.
        paid = attention_paid(model, processor, prompts, spec.layer or LAYER)
        chosen = [[keep_most(part, spec.kept(len(part))) for part in parts] for parts in paid]
        return [shorten(*pair) for pair in zip(prompts, chosen, strict=True)]
    counts = {
        source.key: (source, int((prompt.image == number).sum()))
        for prompt in prompts
        for number, source in enumerate(prompt.images, 1)
    }
    into = {}
    if spec.by == "merge":
        into = merge_pictures(model, processor, [source for source, _ in counts.values()], spec)
    for key, (source, count) in counts.items():
        if spec.by == "random":
            into[key] = keep_random(count, spec.kept(count), key)
        elif spec.by == "grid":
            into[key] = keep_grid(grid_of(processor, source, count), spec.kept(count))
    return [shorten(each, [into[source.key] for source in each.images]) for each in prompts]


def check_reducible(model: LucidaModel, processor: LucidaProcessor, spec: FewerTokensSpec) -> None:
    """ModelError for a design whose visual tokens cannot be taken away, saying why."""
    if model.cross_attention is not None:
        raise ModelError(
            "this model reads pictures by gated layers, so none of its visual tokens stand in the"
            " text that could be fewer",
            given="model.cross_attention",
            remedy="set evaluation.visual_tokens=null, or splice visual tokens into the text",
        )
    if processor.arrangement.three_parts:
        raise ModelError(
            "visual tokens whose positions have three parts stand on whole grids",
            expected="model.language.positions=1d or reset",
            given=processor.arrangement.positions,
            remedy="set evaluation.visual_tokens=null",
        )
    policy = processor.image_policy
    if policy.line_ends or not (policy.one_square or policy.own_shape):
        raise ModelError(
            "visual tokens can become fewer where a picture is one view without line ends",
            expected="a square, or one view of its own shape",
            given=f"model.image.policy={policy.policy}",
            remedy="set evaluation.visual_tokens=null",
        )
    depth = len(decoder_layers(model.language)[1])
    if spec.by == "attention" and (spec.layer or LAYER) > depth:
        raise ModelError(
            "the language model has fewer layers",
            expected=f"evaluation.visual_tokens.layer of at most {depth}",
            given=spec.layer or LAYER,
            remedy="name an earlier layer",
        )


def shorten(prompt: Tokens, reduced: Sequence[np.ndarray]) -> Tokens:
    """The prompt without the placeholders that go; `reduced` as in `Tokens`, an array for each
    picture."""
    if all(len(np.unique(into)) == len(into) and into.min() >= 0 for into in reduced):
        return prompt
    stays = np.ones(len(prompt), dtype=bool)
    for number, into in enumerate(reduced, 1):
        first = np.unique(into, return_index=True)[1]
        stands = np.zeros(len(into), dtype=bool)
        stands[first[into[first] >= 0]] = True  # the first of those that are joined
        stays[prompt.image == number] = stands
    if prompt.image[-1] > 0:
        raise DataError(
            "a prompt that ends with its picture does not say where the answer stands once visual"
            " tokens are gone",
            expected="text behind the last picture",
            origin=prompt.origin,
            remedy="put the question behind the picture, or set evaluation.visual_tokens=null",
        )
    names = ("input_ids", "branch", "position", "image", "target")
    return replace(
        prompt,
        **{name: getattr(prompt, name)[stays] for name in names},
        reduced=tuple(reduced),
    )


# Which visual tokens stay: int64 [tokens], as in `Tokens.reduced`.


def keep_only(chosen: np.ndarray, count: int) -> np.ndarray:
    """The chosen of `count` visual tokens, in their order; the others go.

    Worked example: 3 and 1 of 4 give -1 0 -1 1.
    """
    into = np.full(count, -1, dtype=np.int64)
    into[np.sort(chosen)] = np.arange(len(chosen))
    return into


def keep_random(count: int, keep: int, key: str) -> np.ndarray:
    """So many, drawn by what identifies the picture: the same in every run and for every
    question."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return keep_only(np.random.default_rng(seed).permutation(count)[:keep], count)


def keep_most(paid: np.ndarray, keep: int) -> np.ndarray:
    """Those to which most is paid; of equals the first."""
    return keep_only(np.argsort(-paid, kind="stable")[:keep], len(paid))


def keep_grid(grid: tuple[int, int], keep: int) -> np.ndarray:
    """Evenly spaced rows and columns, as near to the picture's own proportions as can be;
    ModelError where so many tokens are no such grid.

    Worked example: 4 of 4 x 4 are rows 1 and 3 in columns 1 and 3, counted from 0.
    """
    rows, columns = grid
    fits = [
        (down, keep // down)
        for down in range(1, rows + 1)
        if keep % down == 0 and keep // down <= columns
    ]
    if not fits:
        raise ModelError(
            "so many visual tokens are no grid within the picture's",
            expected=f"a product of at most {rows} rows and {columns} columns",
            given=keep,
            remedy="change evaluation.visual_tokens.keep",
        )
    # By the logarithm, so that twice too tall is as far off as twice too wide.
    down, across = min(fits, key=lambda each: abs(math.log(each[0] * columns / each[1] / rows)))
    places = [
        ((np.arange(many) + 0.5) * whole / many).astype(np.int64)
        for many, whole in ((down, rows), (across, columns))
    ]
    return keep_only((places[0][:, None] * columns + places[1]).flatten(), rows * columns)


def grid_of(processor: LucidaProcessor, source: ImageSource, count: int) -> tuple[int, int]:
    """Rows and columns of the visual tokens of a picture; ModelError where they are no grid."""
    size = image_size(source) if processor.image_policy.own_shape else (0, 0)
    (grid,) = processor.arrangement.blocks(*size)
    if math.prod(grid) != count:
        raise ModelError(
            "the visual tokens of this model are no grid of which rows and columns could stay",
            expected=f"{grid[0]} x {grid[1]}",
            given=f"{count} visual tokens",
            remedy="choose another evaluation.visual_tokens.by",
        )
    return grid


def merge_alike(visual: Tensor, keep: int) -> np.ndarray:
    """Visual tokens [tokens, width] joined until so many are left.

    Every round, tokens at even places look for the most alike (by the cosine) at odd ones, and the
    most alike of these pairs are joined, at most one half of all; what they become is the mean of
    all tokens that are in it, so that nothing of the picture is lost.
    """
    number = torch.arange(len(visual), device=visual.device)  # the group of each token
    # Sums and sizes, not means: a mean of means would weigh the tokens of a large group less.
    sums, sizes = visual.float(), torch.ones(len(visual), 1, device=visual.device)
    while len(sums) > keep:
        states = functional.normalize(sums / sizes, dim=-1)
        alike, nearest = (states[0::2] @ states[1::2].T).max(1)
        joins = min(len(sums) - keep, len(sums) // 2)
        from_ = 2 * alike.argsort(descending=True, stable=True)[:joins]
        # Even places only ever go into odd ones, so all joins of a round can be made at once.
        target = torch.arange(len(sums), device=sums.device)
        target[from_] = 2 * nearest[from_ // 2] + 1
        left = torch.ones(len(sums), dtype=torch.bool, device=sums.device)
        left[from_] = False
        target = (left.cumsum(0) - 1)[target]  # what is left, in its order
        count = int(left.sum())
        sums = sums.new_zeros(count, sums.shape[1]).index_add_(0, target, sums)
        sizes = sizes.new_zeros(count, 1).index_add_(0, target, sizes)
        number = target[number]
    groups = number.cpu().numpy()
    # Numbered in the order of their first tokens, where they stand.
    first, member = np.unique(groups, return_index=True, return_inverse=True)[1:]
    return first.argsort().argsort()[member].astype(np.int64)


@torch.no_grad()
def merge_pictures(
    model: LucidaModel,
    processor: LucidaProcessor,
    sources: Sequence[ImageSource],
    spec: FewerTokensSpec,
) -> dict[str, np.ndarray]:
    """Key of each picture → how its visual tokens are joined."""
    found = {}
    for start in range(0, len(sources), PICTURES):
        group = sources[start : start + PICTURES]
        with evaluating(model):
            visual = model.visual(processor.pixels(list(group)), None)
        for source, tokens in zip(group, visual, strict=True):
            found[source.key] = merge_alike(tokens, spec.kept(len(tokens)))
    return found


class _Reached(Exception):
    """The layer that was to be seen has been; what stands behind it need not run."""


@dataclass(eq=False)
class Paid:
    """A way to attend that ends the forward in a layer and keeps what some positions pay there.

    way: how the layers in front of it attend. allowed [asking, length]: what those positions may
    see. layer: the one to be seen, from 1. weights [asking, length]: what they pay, the mean over
    heads; None until then.
    """

    way: Way
    asking: Tensor
    allowed: Tensor
    layer: int
    met: int = 0
    weights: Tensor | None = field(default=None)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Tensor:
        """Attention of one packed row; query, key, value [1, heads, length, size]."""
        self.met += 1
        if self.met < self.layer:
            return self.way.attend(query, key, value, scale, dropout)
        groups = query.shape[1] // key.shape[1]
        asks = query[0, :, self.asking].float()  # [heads, asking, size]
        read = key[0].repeat_interleave(groups, dim=0).float()
        scores = (asks @ read.transpose(-1, -2) * scale).masked_fill(~self.allowed, -math.inf)
        self.weights = scores.softmax(-1).mean(0)
        raise _Reached


def attention_paid(
    model: LucidaModel, processor: LucidaProcessor, prompts: Sequence[Tokens], layer: int
) -> list[list[np.ndarray]]:
    """For each prompt and each of its pictures what its last position pays to the visual tokens in
    this layer (from 1): float32 [tokens]. Pictures that several prompts begin with are read once,
    and no layer behind this one runs."""
    mask = model.mask_for(processor)
    whole = is_asked_whole(mask)
    rows = rows_of([request(n, prompt, whole) for n, prompt in enumerate(prompts)], 0)
    budget = PASS_TOKENS if model.device.type == "cpu" else BATCH_TOKENS
    found: dict[int, list[np.ndarray]] = {}
    for batch in batches(rows, lambda some: sum(map(length, some)), budget):
        trees = [segment(row) for row in batch]
        fields = collate(trees, True, processor.tokenizer.pad_token_id)
        with torch.no_grad(), evaluating(model):
            with_images(fields, model, processor, trees)
            starts = np.cumsum([0, *map(len, trees)])
            ends = [row[0].cut - 1 + np.cumsum([asked.rest for asked in row]) for row in batch]
            # There is one start more, where the last tree ends.
            asking = [end + start for end, start in zip(ends, starts, strict=False)]
            weights = paid_in(model, fields, mask, np.concatenate(asking), layer)
        lines = iter(weights.cpu().numpy())
        for row, tree, start in zip(batch, trees, starts, strict=False):
            for asked in row:
                own = next(lines)[start : start + len(tree)]
                pictures = range(1, len(tree.images) + 1)
                found[asked.index] = [own[tree.image == number] for number in pictures]
    return [found[n] for n in range(len(prompts))]


def paid_in(
    model: LucidaModel, batch: Batch, mask: MaskName, asking: np.ndarray, layer: int
) -> Tensor:
    """What these positions of one packed row pay to all of it in this layer [asking, length];
    ModelError where layers do not attend in the usual way."""
    batch = batch.to(model.device)
    fields, places = fields_of(batch), torch.from_numpy(asking).to(model.device)
    asks = Fields(*(each[0, places] for each in fields)).queries()
    allowed = MASKS[mask](asks, Fields(*(each[0] for each in fields)).keys())
    layout = Layout(fields, mask)
    layout.way = watcher = Paid(layout.way, places, allowed, layer)
    visual = model.visual(batch.pixel_values, batch.features)
    embedded = model.embed(batch.input_ids, batch.image > 0, visual)
    with suppress(_Reached):
        model.language.base_model(
            inputs_embeds=embedded,
            position_ids=batch.position,
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
            layout=layout,
        )
    if watcher.weights is None:
        raise ModelError(
            "the layers of this language model do not attend in the usual way, so it cannot be seen"
            " what they pay",
            expected=f"layer {layer}",
            given=f"{watcher.met} layers that attend",
            remedy="choose another evaluation.visual_tokens.by",
        )
    return watcher.weights
