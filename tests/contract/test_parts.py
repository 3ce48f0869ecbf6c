"""Contracts of masks, sources and benchmarks, and that a part which breaks one is told so."""

import pytest
from PIL import Image

from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.data.sources.preferences import WorldPreferences
from lucida.data.sources.world import WorldSource
from lucida.eval.benchmarks import benchmark
from lucida.model.masks import MASKS, causal, reachable
from lucida.testing import check_benchmark, check_mask, check_source


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    check_mask(name)


@pytest.mark.parametrize("broken, promise", [
    (lambda query, key: query.order >= key.order, "as it is alone|another segment"),
    (lambda query, key: reachable(query, key), "too early"),
    (lambda query, key: causal(query, key) & (key.image == 0), "sees himself"),
    (lambda query, key: (query.segment == key.segment) & (key.order <= query.order), "branch"),
])  # fmt: skip
def test_a_mask_that_breaks_its_contract(broken, promise, monkeypatch):
    monkeypatch.setitem(MASKS._loaded, "broken", broken)
    with pytest.raises(AssertionError, match=promise):
        check_mask("broken")


SOURCES = {
    "questions": WorldSource(["attribute", "boxes"], count=4),
    "pages": WorldSource(["interleaved"], count=4),
    "demonstrations": WorldSource(["demonstrated-word"], count=2),
    "pairs": WorldPreferences(count=4),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name):
    check_source(SOURCES[name])


class Shades(list):
    """Samples by number, made on the way so that each test can break one."""

    def __init__(self, key="{}", roles="user", records=2):
        super().__init__(range(records))
        self.key, self.role, self.asked = key, roles, 0

    def __getitem__(self, index):
        number = super().__getitem__(index)
        self.asked += 1
        picture = ImageSource(
            f"shade {number}", self.key.format(number), lambda: Image.new("RGB", (8, 8), number)
        )
        turns = (Turn(self.role, (ImagePart(0), "which?")), Turn("assistant", (str(number),)))
        return Sample(f"shades: {number}", (picture,), (), (turns,))


def test_a_source_that_breaks_its_contract():
    check_source(Shades())
    with pytest.raises(AssertionError, match="equal keys mean equal pixels: shade 1"):
        check_source(Shades(key="one"))
    with pytest.raises(AssertionError, match="known role: shades: 0, bot"):
        check_source(Shades(roles="bot"))
    with pytest.raises(AssertionError, match="has records"):
        check_source(Shades(records=0))


def test_benchmarks_that_tell_the_answer_or_reward_nonsense(monkeypatch):
    task = benchmark("attribute")
    assert len(check_benchmark(task)) == 30
    monkeypatch.setattr(task, "score", lambda example, parsed: 1.0)
    with pytest.raises(AssertionError, match="the truth scores best"):
        check_benchmark(task)
