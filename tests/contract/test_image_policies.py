"""What every image policy promises, over the whole table; a policy from elsewhere is one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import pytest

from lucida.core.errors import DataError
from lucida.core.spec import ImageSpec
from lucida.data.policies import (
    POLICIES,
    ImagePolicy,
    describe_policy,
    make_policy,
    read_policy,
)
from lucida.data.views import open_for_policies
from lucida.model.arrangement import policy_of
from lucida.testing import SIZES, check_policy

HALF = (0.5, 0.5, 0.5)
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
    check_policy(policy, [size])


@pytest.mark.parametrize("broken, promise", [
    ({"frames": lambda self, width, height: []}, "as many views as frames"),
    ({"sides": lambda self, width, height: [1.0, 1.0]}, "side of the square"),
    ({"runs": lambda self, width, height, tokens: (tokens,)}, "as places are kept"),
    ({"names": lambda self: []}, "stands in `names`"),
    ({"to_frame": lambda self, box, width, height: box}, "inverse of `to_frame`"),
])  # fmt: skip
def test_a_broken_promise_is_named(broken, promise):
    policy = type("Broken", (Halves,), broken)(32, HALF, HALF)
    with pytest.raises(AssertionError, match=promise):
        check_policy(policy)


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
