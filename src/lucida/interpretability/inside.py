"""One question taken apart: what a model looked at, what its answer rests on.

    picture, question ─▶ Asked ─▶ attention    from answer tokens to patches, by layer and head
                               ─▶ occlusion    which parts change the answer when they are covered
                               ─▶ words        what each patch already says, by layer (logit lens)
                               ─▶ heads        how much worse the answer gets without each head

Attention shows where information could come from; only covering and leaving out show what the
answer rests on. All log-probabilities are natural logarithms, of the answer that is given or, by
default, the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lucida.core.errors import DataError, ModelError, suggestion
from lucida.core.spec import MaskName
from lucida.data.collate import collate
from lucida.data.images import image_size, make_image_source
from lucida.data.sample import Batch, ImageSource, Sample
from lucida.interpretability.answer import Asked, ask_once, write_token
from lucida.interpretability.covering import (
    COVERS,
    SPANS,
    Cover,
    average_windows,
    cover_windows,
    grid_of,
    list_windows,
    make_cover,
    shows,
)
from lucida.interpretability.lens import Lens, read_lens
from lucida.interpretability.places import Places, find_places
from lucida.interpretability.watching import States, roll_out, watch
from lucida.model.cross_attention import decoder_layers
from lucida.model.evaluating import evaluating
from lucida.model.processing import LucidaProcessor
from lucida.model.trees import PASS_TOKENS
from lucida.model.vlm import LucidaModel

if TYPE_CHECKING:
    from lucida.eval.questions import Model
    from lucida.model.messages import Picture

T = TypeVar("T")
Use = Callable[[Callable[[], Any]], Any]
"""How a model is used: given work with it, does the work and gives what came of it. Whoever shares
a model has each forward done in its turn."""
Kind = Literal["attention", "occlusion", "words", "heads"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BATCH_TOKENS = 8192
"""Positions of one forward on a GPU; on a CPU `PASS_TOKENS`."""
CELLS = 8
"""Cells of the occlusion grid along a picture's longer side."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture, and what is known about it.

    tokens: the numbers of its visual tokens among those of all pictures. occlusion
    [rows, columns, tokens of the answer]: by how much covering each cell lowers the
    log-probability of each token (below 0: it becomes likelier).
    """

    image: Image.Image
    places: Places
    tokens: slice
    occlusion: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """What was found. Sizes: T tokens of the answer (its end is one), V visual tokens of all
    pictures, L layers, H heads.

    log_probabilities, covered [T]: of the answer's tokens, and with all pictures covered whole.
    attention [L, H, T, V]: from the position that predicts a token. to_text [L, H, T]: what goes to
    text. rollout [T, V]. heads [L, H, T]: how much less likely each token is without a head. notes:
    what was asked for and cannot be had, and why.
    """

    question: str
    answer: str
    tokens: tuple[str, ...]
    log_probabilities: np.ndarray
    pictures: tuple[Seen, ...]
    covered: np.ndarray | None = None
    attention: np.ndarray | None = None
    to_text: np.ndarray | None = None
    rollout: np.ndarray | None = None
    lens: Lens | None = None
    vocabulary: dict[int, str] = field(default_factory=dict)
    heads: np.ndarray | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked into: a model, a question with its answer, and how the model is used."""

    model: LucidaModel
    processor: LucidaProcessor
    asked: Asked
    use: Use

    @property
    def asking(self) -> Tensor:
        """The positions that predict the answer's tokens, on the model's device."""
        return torch.from_numpy(self.asked.asking).to(self.model.device)

    @property
    def targets(self) -> Tensor:
        """The ids of the answer's tokens, on the model's device."""
        return torch.from_numpy(self.asked.targets).to(self.model.device)

    @property
    def mask(self) -> MaskName:
        """Who sees whom."""
        return self.model.mask_for(self.processor)

    @property
    def rows(self) -> int:
        """Times that the question is asked in one forward."""
        budget = PASS_TOKENS if self.model.device.type == "cpu" else BATCH_TOKENS
        return max(1, budget // len(self.asked.tokens))

    def make_batch(self, rows: int) -> Batch:
        """The question so many times, without its pictures."""
        pad = self.processor.tokenizer.pad_token_id
        return collate([self.asked.tokens] * rows, pack=False, pad_id=pad)

    def log_probabilities(self, hidden: Tensor) -> np.ndarray:
        """Of the answer's tokens in each row [rows, tokens]."""
        scores = self.model.logits(hidden[:, self.asking]).float().log_softmax(-1)
        found = scores.gather(-1, self.targets.expand(len(hidden), -1)[..., None])
        return found[..., 0].double().cpu().numpy()

    def score(self, shown: Iterable[Sequence[ImageSource]]) -> np.ndarray:
        """Log-probabilities of the answer's tokens, the question asked about each of several lists
        of pictures of the same sizes [lists, tokens]."""

        def score_batch(batch: Batch) -> np.ndarray:
            hidden = self.model.hidden(batch.to(self.model.device), self.mask)
            return self.log_probabilities(hidden)

        found = []
        for group in _groups(shown, self.rows):
            batch = self.make_batch(len(group))
            every = [source for sources in group for source in sources]
            batch.pixel_values = self.processor.pixels(every)
            found.append(self.use(partial(score_batch, batch)))
        return np.concatenate(found)


def _at_once(work: Callable[[], T]) -> T:
    return work()


def look(
    model: Model,
    images: Picture | Sequence[Picture],
    question: str,
    answer: str | None = None,
    *,
    show: Sequence[Kind] = KINDS,
    cells: int = CELLS,
    cover: Cover = "mean",
    max_new_tokens: int = 64,
) -> Look:
    """What a model looked at when it answered a question about pictures.

    `model` is a run folder, or what `lucida.load` gives; `images` one picture or several, in any
    form that `lucida.ask` takes. `answer`: the one to explain; by default what the model says.
    `cells`: of the occlusion grid along a picture's longer side. `cover`: what stands in place of
    covered parts (`covering.make_cover`). ModelError for a blind model; DataError for a question
    without a picture, for unknown kinds, and as `lucida.ask`.
    """
    check_choices(show, cells, cover)
    from lucida.eval.questions import load_model, samples_of

    network, processor = load_model(model)
    (sample,) = samples_of([(images, question)])
    return look_at(network, processor, sample, question, answer, show, cells, cover, max_new_tokens)


def look_at(
    model: LucidaModel,
    processor: LucidaProcessor,
    sample: Sample,
    question: str,
    answer: str | None = None,
    show: Sequence[Kind] = KINDS,
    cells: int = CELLS,
    cover: Cover = "mean",
    max_new_tokens: int = 64,
    use: Use = _at_once,
) -> Look:
    """The same for a conversation that ends with a question, about all of its pictures. `question`
    is what the result is called by; `use`: how the model is used, forward by forward."""
    check_choices(show, cells, cover)
    if model.vision is None:
        raise ModelError(
            "this model is blind: it is never shown a picture, so there is nothing to look at",
            remedy="name the folder of the model that sees",
        )
    with evaluating(model), torch.no_grad():
        asked = use(lambda: ask_once(model, processor, sample, answer, max_new_tokens))
        subject = Subject(model, processor, asked, use)
        return _take_apart(subject, question, tuple(show), cells, cover)


def check_choices(show: Sequence[str], cells: int, cover: str) -> None:
    """Refuse what cannot be asked for, before a model is loaded."""
    for kind in show:
        if kind not in KINDS:
            raise DataError(f"nothing is called `{kind}` here", remedy=suggestion(kind, KINDS))
    if not show:
        raise DataError("nothing is asked for", expected=", ".join(KINDS))
    if cover not in COVERS:
        raise DataError(f"unknown cover `{cover}`", remedy=suggestion(cover, COVERS))
    if cells < 1:
        raise DataError("the occlusion grid needs cells", expected="at least 1", given=cells)


def _take_apart(
    subject: Subject, question: str, show: tuple[Kind, ...], cells: int, cover: Cover
) -> Look:
    model, asked = subject.model, subject.asked
    sources = asked.tokens.images
    images = [source.load() for source in sources]
    places = [find_places(model, subject.processor, *image.size) for image in images]
    notes = [f"picture {n}: {each.why}" for n, each in enumerate(places, 1) if each.why]
    found: dict[str, object] = {}
    inside = {"attention", "words", "heads"} & set(show)
    if model.cross_attention is not None and inside - {"heads"}:
        notes.append(
            "gated layers read the pictures beside the language model: no visual token stands among"
            " its words, so there is neither attention to patches nor a logit lens"
        )
        inside -= {"attention", "words"}
    base = subject.score([list(sources)])[0]
    if inside:
        found |= _look_inside(subject, inside)
    occlusion: list[np.ndarray | None] = [None] * len(images)
    if "occlusion" in show:
        found["covered"], occlusion = _occlude(subject, images, places, base, cells, cover)
    starts = np.cumsum([0, *(len(each.boxes) for each in places)]).tolist()
    pictures = tuple(
        Seen(image, place, slice(*starts[n : n + 2]), drops)
        for n, (image, place, drops) in enumerate(zip(images, places, occlusion, strict=True))
    )
    return Look(question, asked.text, asked.shown, base, pictures, notes=tuple(notes), **found)


def _look_inside(subject: Subject, wanted: set[str]) -> dict[str, object]:
    """Attention, the lens and the heads: everything that looks into the language model."""
    model, tokens, use = subject.model, subject.asked.tokens, subject.use
    batch = subject.make_batch(1).to(model.device)
    pixels = subject.processor.pixels(tokens.images)
    visual = use(lambda: model.visual(pixels.to(model.device), None))
    seen = np.flatnonzero(tokens.image > 0)
    states = States() if "words" in wanted else None
    keep = subject.asking if "attention" in wanted else None
    hidden, watcher = use(
        lambda: watch(model, batch, visual, subject.mask, keep, states=states, sizes=pixels.sizes)
    )
    found: dict[str, object] = {}
    if keep is not None:
        weights = torch.stack(watcher.kept).numpy()  # [layers, heads, asking, length]
        text = np.flatnonzero(tokens.image == 0)
        found["attention"] = weights[..., seen]
        found["to_text"] = weights[..., text].sum(-1)
        found["rollout"] = roll_out(watcher.mean, keep)[:, seen].numpy()
    if states is not None:
        places = torch.from_numpy(seen).to(model.device)
        lens = use(lambda: read_lens(model, states, places, subject.targets))
        found["lens"] = lens
        known = np.unique(lens.words).tolist()
        found["vocabulary"] = {word: write_token(word, subject.processor) for word in known}
    if "heads" in wanted:
        before = use(lambda: subject.log_probabilities(hidden[:1]))[0]
        found["heads"] = before - _leave_heads_out(subject, visual)
    return found


def _leave_heads_out(subject: Subject, visual: list[Tensor]) -> np.ndarray:
    """Each token's log-probability with each head's result put to zero [L, H, T]."""
    model, mask = subject.model, subject.mask
    heads = model.language.config.get_text_config().num_attention_heads
    layers = len(decoder_layers(model.language)[1])
    # Row by row one head is off: a batch of the same question, as many rows as fit.
    every = [(layer, head) for layer in range(layers) for head in range(heads)]
    sizes = [image_size(source) for source in subject.asked.tokens.images]

    def score(off: list[tuple[int, int]]) -> np.ndarray:
        many = len(off)
        batch = subject.make_batch(many).to(model.device)
        hidden, _ = watch(model, batch, visual * many, mask, off=off, sizes=sizes * many)
        return subject.log_probabilities(hidden)

    found = [subject.use(partial(score, off)) for off in _groups(every, subject.rows)]
    return np.concatenate(found).reshape(layers, heads, -1)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """At most `size` at a time."""
    left = iter(items)
    while group := list(islice(left, size)):
        yield group


def _occlude(
    subject: Subject,
    images: list[Image.Image],
    places: list[Places],
    base: np.ndarray,
    cells: int,
    cover: Cover,
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Log-probabilities with everything covered, and the drops of each picture by cell."""
    sources = list(subject.asked.tokens.images)
    covers = [make_cover(image, cover) for image in images]
    blank = [make_image_source(each, f"picture {n} covered") for n, each in enumerate(covers, 1)]
    covered = subject.score([blank])[0]
    drops: list[np.ndarray | None] = []
    for number, (image, place) in enumerate(zip(images, places, strict=True)):
        grid = grid_of(*image.size, cells)
        found = []
        for span in SPANS:
            windows = list_windows(*image.size, grid, span)
            shown = [n for n, window in enumerate(windows) if shows(place.seen, window)]
            asks = (
                [*sources[:number], make_image_source(each, "covered"), *sources[number + 1 :]]
                for each in cover_windows(image, [windows[n] for n in shown], covers[number])
            )
            lost = np.zeros((len(windows), len(base)))  # what is cut away changes nothing
            lost[shown] = base - subject.score(asks)
            found.append(average_windows(lost, grid, span))
        drops.append(np.mean(found, axis=0))
    return covered, drops
