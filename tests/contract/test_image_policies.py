"""What every image policy promises, over the whole table; a policy from elsewhere is one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from lucida.core.errors import DataError
from lucida.core.spec import ImageSpec, LinearProjectorSpec
from lucida.data.policies import (
    POLICIES,
    ImagePolicy,
    describe_policy,
    make_policy,
    read_policy,
)
from lucida.data.views import open_for_policies
from lucida.model.arrangement import Arrangement, policy_of
from lucida.model.views import encode_views, visual_of

HALF = (0.5, 0.5, 0.5)
SIZES = [(64, 64), (300, 40), (41, 170), (20, 9), (1, 1), (640, 480)]
EVERY = [(name, {}) for name in POLICIES] + [
    ("letterbox", {"pad": "first"}),
    ("letterbox", {"pad": "first", "odd": "torchvision"}),
    ("crop", {"odd": "torchvision", "resample": "lanczos"}),
    ("anyres", {"grids": ((1, 2), (2, 1), (2, 2))}),
    ("split", {"layout": "idefics3", "enlarge": True}),
    ("split", {"layout": "nanovlm", "max_tiles": 9}),
    ("native", {"unit": 16}),
]


@dataclass(frozen=True)
class Halves(ImagePolicy):
    """A policy that Lucida does not have: the left half and the right one, named."""

    policy: ClassVar[str] = "halves"

    def grid(self, width, height):
        return 1, 2

    def sides(self, width, height):
        return [float(self.size)] * 2

    def frames(self, width, height):
        return [("left", (0.0, 0.0, 0.5, 1.0)), ("right", (0.5, 0.0, 1.0, 1.0))]

    def views(self, image, grid=None):
        whole = self.scale(image, 2 * self.size, self.size)
        return [whole.crop((x, 0, x + self.size, self.size)) for x in (0, self.size)]

    def names(self):
        return ["<left>", "<right>"]

    def runs(self, width, height, tokens):
        return ("<left>", tokens, "<right>", tokens)


def policies():
    found = [make_policy(name, 32, HALF, HALF, **({"unit": 8} | more)) for name, more in EVERY]
    return [*found, Halves(32, HALF, HALF)]


def noise(size):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_common_class_makes_a_policy_by_its_name():
    made = ImagePolicy("split", 32, HALF, HALF, layout="nanovlm", max_tiles=4)
    assert made == make_policy("split", 32, HALF, HALF, layout="nanovlm", max_tiles=4)
    assert Halves(8, HALF, HALF).size == 8
    with pytest.raises(DataError, match="shrink"):
        ImagePolicy("shrink", 32, HALF, HALF)


def test_the_table_is_that_of_the_recipes():
    assert set(get_args(ImageSpec.model_fields["policy"].annotation)) == set(POLICIES)
    assert all(POLICIES[name].policy == name for name in POLICIES)


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: str(describe_policy(policy)))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_contract(policy, size):
    views = policy.views(noise(size))
    again = policy.views(noise(size), policy.grid(*size))
    assert [view.tobytes() for view in views] == [view.tobytes() for view in again]
    assert len(views) == len(policy.frames(*size))
    sides = policy.sides(*size)
    assert [view.width * view.height for view in views] == pytest.approx([n * n for n in sides])
    assert len({view.size for view in views}) == 1, "views of a picture are of one shape"
    stacked = policy.stack(noise(size))
    assert stacked.dtype == np.float32
    assert stacked.shape == (len(views), 3, views[0].height, views[0].width)
    if policy.one_square:
        assert (policy.grid(*size), len(views), views[0].size) == ((1, 1), 1, (32, 32))
    if not policy.own_shape:
        assert {view.size for view in views} == {(32, 32)}
    wide, high = policy.least(*size)
    assert wide > 0 < high
    box = (0.1 * size[0], 0.2 * size[1], 0.7 * size[0], 0.9 * size[1])
    back = policy.from_frame(policy.to_frame(box, *size), *size)
    assert back == pytest.approx(box)


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: str(describe_policy(policy)))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_as_many_tokens_are_arranged_as_places_are_kept(policy, size):
    """By the ways of the model itself, with an encoder of patches of 8 and nothing to learn."""
    from lucida.data.sample import Views

    arrangement = Arrangement(policy, 16, LinearProjectorSpec(), max(8, policy.unit) // 8)
    views = Views.of([[torch.from_numpy(policy.stack(noise(size)))]], [size])
    features = encode_views(lambda x: torch.nn.functional.avg_pool2d(x, 8).flatten(2).mT, views)
    newline = torch.zeros(3) if policy.line_ends else None
    (visual,) = visual_of(features, arrangement, lambda x, grid: x, newline)
    runs = arrangement.runs(*size)
    assert visual.shape == (arrangement.count(*size), 3)
    named = [run.strip("\n") for run in runs if isinstance(run, str)]
    assert {part for name in named for part in name.replace("><", "> <").split()} <= set(
        policy.names()
    )
    assert arrangement.count(*size) <= max(arrangement.count(*each) for each in policy.shapes())


@pytest.mark.parametrize("policy", policies()[:-1], ids=lambda policy: str(describe_policy(policy)))
def test_saved_and_read(policy):
    saved = describe_policy(policy)
    assert read_policy({**saved, "mean": list(policy.mean), "std": list(policy.std)}) == policy
    if not policy.own_shape:
        spec = ImageSpec.model_validate(
            {name: value for name, value in saved.items() if name not in ("mean", "std")}
        )
        assert policy_of(spec, 32, HALF, HALF) == policy


def test_what_was_saved_when_all_policies_were_one_class():
    """It told options of other policies too, where they were not as usual."""
    old = {"policy": "resize", "size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "max_tiles": 9}
    assert read_policy(old) == make_policy("resize", 8, HALF, HALF)
    assert read_policy(old | {"policy": "split"}).max_tiles == 9
    old |= {"policy": "anyres", "grids": [[1, 2], [2, 2]], "unit": 3}
    assert read_policy(old).grids == ((1, 2), (2, 2))
    with pytest.raises(DataError, match=r"no option `max_tile`.*max_tiles"):
        read_policy({**old, "max_tile": 3})
    with pytest.raises(DataError, match=r"image policy `squash`"):
        read_policy({**old, "policy": "squash"})


def test_a_larger_picture_than_all_policies_need_is_not_asked_for():
    asked = []

    class Source:
        key = "contract"

        def measure(self):
            return 640, 480

        def smaller(self, least):
            asked.append(least)

    open_for_policies(Source(), policies(), True)
    least = [policy.least(640, 480) for policy in policies()]
    assert asked == [tuple(map(max, zip(*least, strict=True)))]
