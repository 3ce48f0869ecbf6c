"""Whether a part keeps its contract: for tests of Lucida's own parts and of other packages'.

    from lucida.testing import check_mask, check_policy, check_projector, check_source

    def test_stripes():
        check_source(StripesSource(count=16))

Each function raises AssertionError that says which promise is broken and with what values. Only
promises that hold for every part of a kind are checked; what a part is for, its own tests show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lucida.core.spec import LinearProjectorSpec
from lucida.data.policies import ImagePolicy
from lucida.data.sample import BoxPart, ImagePart, Sample, Views
from lucida.eval.benchmark import Benchmark, Example
from lucida.model.arrangement import Arrangement
from lucida.model.masks import Fields, dense_mask, is_asked_whole
from lucida.model.projectors import make_projector, visual_tokens
from lucida.model.projectors.grid import Patches, count
from lucida.model.views import encode_views, visual_of

SIZES = ((64, 64), (300, 40), (41, 170), (20, 9), (1, 1), (640, 480))
"""Width and height of pictures that a policy is asked about."""
ROLES = ("system", "user", "assistant", "text")


def _require(holds: object, promise: str, *given: object) -> None:
    if not bool(holds):
        values = f": {', '.join(map(str, given))}" if given else ""
        raise AssertionError(f"{promise}{values}")


def _require_close(found: Tensor, expected: Tensor, promise: str) -> None:
    """Equal up to the order of sums, measured by the largest number."""
    _require(found.shape == expected.shape, promise, tuple(found.shape), tuple(expected.shape))
    largest = max(float(expected.detach().abs().max()), 2**-5) if expected.numel() else 1.0
    room = 2**8 * torch.finfo(expected.dtype).eps * largest
    off = float((found - expected).abs().max()) if expected.numel() else 0.0
    _require(off <= room, promise, f"{off} apart, at most {room}")


def make_noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def check_policy(policy: ImagePolicy, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """An image policy: as many views, of the sides and tokens, as it says from width and height
    alone; boxes come back from its frame."""
    for size in sizes:
        image, grid = make_noise(*size), policy.grid(*size)
        views = policy.views(image)
        again = policy.views(make_noise(*size), grid)
        same = [view.tobytes() for view in views] == [view.tobytes() for view in again]
        _require(same, "views of a picture depend on its pixels and grid alone", size)
        told = len(policy.frames(*size))
        _require(len(views) == told, "there are as many views as frames", size, len(views), told)
        shape = views[0].size
        shapes = {view.size for view in views}
        _require(shapes == {shape}, "views of a picture are of one shape", size, shapes)
        area, sides = shape[0] * shape[1], policy.sides(*size)
        fits = len(sides) == len(views) and np.allclose([n * n for n in sides], area)
        _require(fits, "`sides` gives the side of the square of each view's area", size, sides)
        if policy.one_square:
            _require((grid, len(views)) == ((1, 1), 1), "one square has the grid (1, 1)", size)
        if not policy.own_shape:
            _require(shape == (policy.size,) * 2, "views are squares of `size`", size, shape)
        stacked = policy.stack(image)
        expected = (len(views), 3, shape[1], shape[0])
        good = stacked.dtype == np.float32 and stacked.shape == expected
        _require(good, "`stack` is float32 [views, 3, height, width]", size, stacked.shape)
        _require(min(policy.least(*size)) > 0, "`least` is a size in pixels", size)
        box = (0.1 * size[0], 0.2 * size[1], 0.7 * size[0], 0.9 * size[1])
        back = policy.from_frame(policy.to_frame(box, *size), *size)
        _require(np.allclose(back, box), "`from_frame` is the inverse of `to_frame`", size, back)
        _check_places(policy, size, stacked)


def _check_places(policy: ImagePolicy, size: tuple[int, int], stacked: np.ndarray) -> None:
    """As many visual tokens are arranged as places are kept, by the ways of the model itself: with
    an encoder of patches of 8 pixels and nothing to learn."""
    arrangement = Arrangement(policy, 16, LinearProjectorSpec(), max(8, policy.unit) // 8)
    views = Views.of([[torch.from_numpy(stacked)]], [size])
    # [views, 3, height, width] to [views, patches, 3]: the means of patches are the features.
    features = encode_views(lambda pixels: F.avg_pool2d(pixels, 8).flatten(2).mT, views)
    newline = torch.zeros(3) if policy.line_ends else None
    (visual,) = visual_of(features, arrangement, lambda each, grid: each, newline)
    kept = arrangement.count(*size)
    promise = "as many visual tokens are arranged as places are kept"
    _require(visual.shape == (kept, 3), promise, size, tuple(visual.shape), kept)
    named = [run.strip("\n") for run in arrangement.runs(*size) if isinstance(run, str)]
    parts = {part for name in named for part in name.replace("><", "> <").split()}
    unknown = parts - set(policy.names())
    _require(not unknown, "what names tiles stands in `names`", size, unknown)
    most = max(arrangement.count(*each) for each in policy.shapes())
    _require(kept <= most, "`shapes` holds the picture of most tokens", size, kept, most)


def check_projector(
    spec: Any, vision: int = 24, language: int = 16, patches: Patches = 36, seed: int = 0
) -> None:
    """A projector: the promised number of visual tokens, finite and different for each picture;
    pictures do not mix; every weight learns; equal weights give equal results."""
    torch.manual_seed(seed)
    projector = make_projector(spec, vision, language, patches)
    features = torch.randn(3, count(patches), vision, requires_grad=True)
    visual = projector(features)
    shape = (3, visual_tokens(spec, patches), language)
    promise = "visual tokens are [images, tokens, language]"
    _require(visual.shape == shape, promise, tuple(visual.shape), shape)
    spread = float(visual.std())
    _require(torch.isfinite(visual).all() and spread > 0.05, "they are finite and vary", spread)
    visual.square().sum().backward()
    _require(features.grad is not None, "features get a gradient")
    dead = [name for name, weight in projector.named_parameters() if weight.grad is None]
    _require(not dead, "every weight gets a gradient", dead)
    _require_close(projector(features[:1]), visual[:1], "pictures do not mix")
    differ = float((visual[0] - visual[1]).abs().max())
    _require(differ > 1e-4, "each picture counts", differ)
    torch.manual_seed(seed)
    again = make_projector(spec, vision, language, patches)
    _require(torch.equal(again(features), visual), "one seed makes one projector")
    again.load_state_dict(projector.state_dict())
    at_rest = projector(torch.zeros(1, count(patches), vision))
    _require(torch.isfinite(at_rest).all(), "a batch without pictures (zeros) stays finite")


def check_mask(name: str) -> None:
    """A mask: nobody sees another segment, branch or padding; nobody sees an answer before its
    turn; a segment among others is seen as it is alone; everybody sees himself."""
    # A stem of a picture (2 tokens) and a word, two questions with answers; then another segment.
    rows = {
        "branch": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "image": [1, 1, 0, 0, 0, 0, 0, 0, 0],
        "prompt": [1, 1, 1, 1, 1, 0, 1, 1, 0],
    }
    if is_asked_whole(name):  # questions cannot share the picture
        rows = {field: values[:6] for field, values in rows.items()}
        rows["branch"] = [1] * 6
    length = len(rows["branch"])
    alone = _draw_mask(name, [1] * length, rows)
    twice = {field: [*values, *values, 0, 0] for field, values in rows.items()}
    packed = _draw_mask(name, [1] * length + [2] * length + [0, 0], twice)
    ends = [(0, length), (length, 2 * length)]
    for begin, end in ends:
        promise = "a segment among others is seen as it is alone"
        _require(torch.equal(packed[begin:end, begin:end], alone), promise, name)
        outside = packed[begin:end].clone()
        outside[:, begin:end] = False
        _require(not outside.any(), "nobody sees another segment or padding", name)
    _require(alone.diagonal().all(), "everybody sees himself", name)
    branch = torch.tensor(rows["branch"])
    others = (branch[:, None] != branch) & (branch != 0)
    _require(not (alone & others).any(), "nobody sees another branch", name)
    prompt = torch.tensor(rows["prompt"])
    after = torch.arange(length)[:, None] < torch.arange(length)
    _require(not (alone & after & (prompt == 0)).any(), "nobody sees an answer too early", name)


def _draw_mask(name: str, segment: list[int], rows: dict[str, list[int]]) -> Tensor:
    fields = Fields(
        torch.tensor([segment]),
        torch.tensor([rows["branch"]]),
        torch.arange(len(segment))[None],
        torch.tensor([rows["image"]]),
        torch.tensor([rows["prompt"]]),
    )
    return dense_mask(fields, name)[0, 0]


def check_sample(sample: Sample) -> None:
    """A sample: turns of known roles, parts that name pictures it has, and at least one branch."""
    _require(isinstance(sample, Sample), "a record is a `Sample`", type(sample).__name__)
    _require(sample.origin, "a sample says where it stands")
    _require(sample.branches, "a sample has a branch", sample.origin)
    for turn in (turn for turns in (sample.stem, *sample.branches) for turn in turns):
        _require(turn.role in ROLES, "a turn has a known role", sample.origin, turn.role)
        for part in turn.parts:
            if isinstance(part, ImagePart | BoxPart):
                there = 0 <= part.index < len(sample.images)
                _require(there, "a part names a picture of the sample", sample.origin, part)
            else:
                _require(isinstance(part, str), "a part is text, picture or box", sample.origin)


def check_source(source: Any, records: int = 8) -> None:
    """A source: the same sample for the same number, always; pictures whose keys mean their pixels;
    IndexError behind the last record."""
    many = len(source)
    _require(many > 0, "a source has records")
    pixels: dict[str, bytes] = {}
    for index in range(min(records, many)):
        sample = source[index]
        check_sample(sample)
        again = source[index]
        same = (sample.stem, sample.branches) == (again.stem, again.branches)
        _require(same, "a number gives the same record again", sample.origin)
        for image in sample.images:
            opened = image.load()
            _require(opened.mode == "RGB", "a picture opens as RGB", image.origin, opened.mode)
            known = pixels.setdefault(image.key, opened.tobytes())
            _require(known == opened.tobytes(), "equal keys mean equal pixels", image.origin)
    try:
        source[many]
    except IndexError:
        return
    raise AssertionError(f"a source of {many} records gives number {many}; expected IndexError")


def check_benchmark(task: Benchmark, limit: int = 30) -> list[Example]:
    """A benchmark: the first examples are the same for every limit, ask without telling the answer,
    and the truth scores better than nonsense and than guessing. Its examples, for more checks."""
    examples = task.examples(limit)
    _require(examples, "a benchmark has examples", task.name)
    names = [example.id for example in examples]
    _require(len(set(names)) == len(names), "ids are different", task.name)
    fewer = [example.id for example in task.examples(max(1, limit // 2))]
    _require(fewer == names[: len(fewer)], "a larger limit only adds examples", task.name)
    for example in examples:
        check_sample(example.sample)
        boxed = example.box is not None
        _require(bool(example.answers) != boxed, "an answer, or a box", example.id)
        known = not example.options or set(example.answers) <= set(example.options)
        _require(known, "the answer is one of the options", example.id, example.answers)
        roles = [turn.role for turn in example.sample.branches[0]]
        _require(roles[-1] != "assistant", "the sample does not hold the answer", example.id)
    truth = [example.box if example.box is not None else example.answers[0] for example in examples]
    best, worst = task.scores(examples, truth), task.scores(examples, [None] * len(examples))
    _require(len(best) == len(worst) == len(examples), "a score for each example", task.name)
    sign = 1 if task.higher_is_better else -1
    _require(sign * sum(best) > sign * sum(worst), "the truth scores best", sum(best), sum(worst))
    guesses = task.guesses(examples)
    _require(len(guesses.chance) == len(guesses.majority) == len(examples), "guesses for each")
    _require(sign * sum(guesses.majority) <= sign * sum(best), "no guess beats the truth")
    return examples
