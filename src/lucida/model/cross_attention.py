"""The second family: gated layers inside the language model read the images; no visual tokens.

    words      <bos> <image> What ? …        one marker for each image, an ordinary embedding
                 │
    layer 1 … every - 1     the language model's own
    gated layer             x + tanh(a) · attention(norm(x) to visual tokens),
                            x + tanh(b) · mlp(norm(x))                     a and b start at 0
    layer every …           the language model's own, and so on

While the gates are 0 the language model says what it would say without images. The gated layers are
hung in front of decoder layers by hooks, so any language model whose decoder is a list of layers
can have them, and its own weights keep their names.

Which image a position reads is Flamingo's rule: the last one whose marker stands at or before it
(`sees: last`), in its own segment and on the stem or its own branch; what came earlier reaches it
through the language model's own attention. With `sees: all` it reads all of those. Text in front of
the first image reads none, and is left as it was.

Reference: Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, 2022,
arXiv 2204.14198, sections 2.2 and 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from lucida.core.errors import ModelError
from lucida.core.spec import CrossAttentionSpec
from lucida.model.masks import Fields, reachable

SEEN = "lucida_images"
"""Attribute of a key-value cache: the images that its rows have seen."""


@dataclass(slots=True, eq=False)
class Images:
    """The images of each row of a batch, side by side; rows with fewer are padded.

    visual [rows, images, tokens, width]. segment, branch, place [rows, images]: those of the
    marker; the segment of padding is 0, the place of what stands in a cache is -1.
    """

    visual: Tensor
    segment: Tensor
    branch: Tensor
    place: Tensor

    def selected(self, rows: Tensor) -> Images:
        """The images of some rows."""
        return Images(*(value[rows] for value in (self.visual, *self.keys())))

    def keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the markers stand."""
        return self.segment, self.branch, self.place

    def behind(self, earlier: Images | None) -> Images:
        """With those of a cache in front, which every later position has behind it."""
        if earlier is None or not self.visual.shape[1]:
            return earlier or self
        pairs = zip((earlier.visual, *earlier.keys()), (self.visual, *self.keys()), strict=True)
        return Images(*(torch.cat([old, new], dim=1) for old, new in pairs))

    def cached(self) -> Images:
        """The same, seen from positions that come later."""
        return Images(self.visual, self.segment, self.branch, torch.full_like(self.place, -1))


def images_of(fields: Fields, visual: Float[Tensor, "images tokens width"]) -> Images:
    """The images of a batch by row. fields: `image` is not 0 at markers, one for each image.

    ModelError when markers and images differ in number.
    """
    marker = fields.image > 0
    counts = marker.sum(1)
    if int(counts.sum()) != len(visual):
        raise ModelError(
            "the image markers in the text and the images differ in number",
            expected=f"{int(counts.sum())} (markers in the text)",
            given=f"{len(visual)} images",
            remedy="use the processor saved with this model and pass one image for each <image>",
        )
    most = int(counts.max())
    row = marker.nonzero()[:, 0]
    number = (marker.cumsum(1) - 1)[marker]  # of an image within its row
    spread = visual.new_zeros(len(marker), most, *visual.shape[1:])  # [rows, images, tokens, width]
    spread = spread.index_put((row, number), visual)
    found = []
    for field in (fields.segment, fields.branch, fields.order):
        values = field.new_zeros(len(marker), most)
        values[row, number] = field[marker]
        found.append(values)
    return Images(spread, *found)


def visible(fields: Fields, images: Images, sees: str) -> Bool[Tensor, "rows length images"]:
    """Which images each position reads.

    Worked example, `last` (and `all` where it differs): two images, then two branches.

        token     <bos> I1  a  I2  b | c     on branch 1: I3 d | on branch 2: e
        reads       -   1   1   2  2         (of I3 and d) 3 3                2
        all                 1  12 12                     123 123             12
    """
    segment, branch, place = (key.unsqueeze(1) for key in images.keys())  # noqa: SIM118
    query = fields.queries()
    # Markers as keys; whether they are images or prompt is asked by no one here.
    seen = reachable(query, Fields(segment, branch, place, place, place)) & (place <= query.order)
    if sees == "all" or not seen.shape[2]:
        return seen
    number = torch.arange(1, seen.shape[2] + 1, device=seen.device)
    last = (seen * number).amax(2, keepdim=True)
    return seen & (number == last)


class GatedLayer(nn.Module):
    """One gated layer: the text reads the images, then an MLP, each behind a gate of its own.

    heads: they have to divide the language model's width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(
                "the heads of model.cross_attention do not divide the language model's width",
                expected=f"a divisor of {width}",
                given=heads,
                remedy="set model.cross_attention.heads",
            )
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )
        self.mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        states: Float[Tensor, "rows length width"],
        visual: Float[Tensor, "rows tokens width"],
        allowed: Bool[Tensor, "rows length tokens"],
    ) -> Float[Tensor, "rows length width"]:
        """States after reading. A position that may read nothing stays as it is."""
        reads = allowed.any(2, keepdim=True)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(self.norm(states)), self.key(visual), self.value(visual))
        )
        mask = (allowed | ~reads).unsqueeze(1)  # no row of the softmax may be empty
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        read = self.out(read.transpose(1, 2).flatten(2))
        states = states + reads * (self.gate.tanh() * read).to(states.dtype)
        return states + reads * (self.mlp_gate.tanh() * self.mlp(states)).to(states.dtype)

    def at_rest(self) -> Tensor:
        """Zero, by way of every weight: a batch without images still gives each a gradient."""
        return 0.0 * sum(weight.sum() for weight in self.parameters())


class GatedCrossAttention(nn.Module):
    """All gated layers of one language model, and what they read at the moment.

    layers: by the number of the decoder layer that each stands in front of. Whoever embeds the text
    tells `show` where markers stand and what the images are; the next forward of the language model
    takes it from there, together with the images that its cache has seen, and leaves all of them
    with the cache. What is read stays until the next forward, so that layers which are computed
    twice (activation checkpointing) read the same both times.
    """

    def __init__(self, spec: CrossAttentionSpec, language: PreTrainedModel) -> None:
        super().__init__()
        owner, decoder = decoder_layers(language)
        if spec.every > len(decoder):
            raise ModelError(
                "model.cross_attention leaves no place for a gated layer",
                expected=f"every: at most {len(decoder)} (the language model's layers)",
                given=spec.every,
                remedy="lower model.cross_attention.every",
            )
        width = language.get_input_embeddings().weight.shape[1]
        self.sees, self.width = spec.sees, width
        # In front of layer number every - 1, 2 every - 1, …, counted from 0; every=4 of 12: 3, 7,
        # 11.
        self.layers = nn.ModuleDict(
            {
                str(number): GatedLayer(width, spec.heads)
                for number in range(spec.every - 1, len(decoder), spec.every)
            }
        )
        self.shown: tuple[Tensor, Tensor | None] | None = None
        self.images: Images | None = None
        self.reading: tuple[Tensor, Tensor] | None = None
        self.hooks = [
            owner.register_forward_pre_hook(self.begin, with_kwargs=True),
            owner.register_forward_hook(self.end),
        ]
        for number in self.layers:
            layer, before = decoder[int(number)], partial(self.before, number)
            self.hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))

    def unhook(self) -> None:
        """Leave the language model to itself."""
        for hook in self.hooks:
            hook.remove()

    def show(self, marker: Bool[Tensor, "rows length"], visual: list[Tensor] | None) -> None:
        """What the next forward shows: one marker for each image, in reading order; all images have
        the same number of visual tokens."""
        self.shown = marker, None if visual is None else torch.stack(visual)

    def begin(self, decoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The hook in front of all layers: who reads what in this forward."""
        # Taken once: a forward that nobody has shown anything goes on with what its cache has seen.
        shown, self.shown = self.shown, None
        cache = kwargs.get("past_key_values")
        earlier = getattr(cache, SEEN, None)
        if shown is None:
            self.images = earlier
            given = kwargs.get("inputs_embeds")
            given = given if given is not None else kwargs.get("input_ids", *args[:1])
            marker = torch.zeros(given.shape[:2], dtype=torch.bool, device=given.device)
            self.look(one_conversation(marker, cache), earlier)
            return
        marker, visual = shown
        layout = kwargs.get("layout")
        fields = one_conversation(marker, cache) if layout is None else layout.fields
        if visual is None:
            visual = next(self.parameters()).new_zeros(0, 1, self.width)
        elif torch.is_grad_enabled():  # not `self.training`: what is frozen never has that mode
            self.check_gates()
        self.images = images_of(fields, visual).behind(earlier)
        self.look(fields, self.images)

    def check_gates(self) -> None:
        """Refuse to train on images that nothing can ever see."""
        gates = [gate for layer in self.layers.values() for gate in (layer.gate, layer.mlp_gate)]
        if not any(gate.requires_grad for gate in gates) and not any(map(float, gates)):
            raise ModelError(
                "the gates of cross_attention are closed and frozen, so images are never seen",
                expected="a learning rate for `cross_attention` in this stage",
                given="frozen",
                remedy="add `cross_attention: 1e-4` to stages.NAME.train",
            )

    def end(self, decoder: nn.Module, args: tuple, output: Any) -> None:
        """The hook behind all layers: the images stay with the cache."""
        cache = getattr(output, "past_key_values", None)
        if cache is not None and self.images is not None:
            setattr(cache, SEEN, self.images.cached())
        self.images = None

    def look(self, fields: Fields, images: Images | None) -> None:
        """What the positions of this forward read."""
        self.reading = None
        if images is None or not images.visual.shape[1]:
            return
        # [rows, length, images] → [rows, length, images x tokens], beside [rows, images x tokens,
        # width].
        seen = visible(fields, images, self.sees)
        allowed = seen.repeat_interleave(images.visual.shape[2], dim=2)
        self.reading = images.visual.flatten(1, 2), allowed

    def before(
        self, number: str, layer: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """The hook: the decoder layer gets its states after the gated layer."""
        states = args[0] if args else kwargs["hidden_states"]
        gated = self.layers[number]
        if self.reading is not None:
            states = gated(states, *self.reading)
        elif self.training:
            states = states + gated.at_rest().to(states.dtype)
        if args:
            return (states, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": states}


def decoder_layers(language: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
    """The list of decoder layers and the module that runs them; ModelError when there is none."""
    wanted = language.config.get_text_config().num_hidden_layers
    for module in language.base_model.modules():
        for part in module.children():
            if isinstance(part, nn.ModuleList) and len(part) == wanted:
                return module, part
    raise ModelError(
        f"{type(language).__name__} has no list of decoder layers to put gated layers between",
        expected=f"{wanted} layers",
        remedy="set model.cross_attention=null, or choose another language model",
    )


def one_conversation(marker: Bool[Tensor, "rows length"], cache: Cache | None) -> Fields:
    """Fields of rows that come without those of a batch: each is one conversation."""
    past = 0 if cache is None else int(cache.get_seq_length())
    one = torch.ones_like(marker, dtype=torch.long)
    order = (past + torch.arange(marker.shape[1], device=marker.device)).expand_as(one)
    return Fields(one, one, order, marker.long(), one)


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Keep some rows of a cache, and the images that they have seen."""
    cache.batch_select_indices(rows)
    images = getattr(cache, SEEN, None)
    if images is not None:
        setattr(cache, SEEN, images.selected(rows))
