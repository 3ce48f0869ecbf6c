"""Weights by image and by token; sources cut to a number of records."""

from collections import Counter

import numpy as np
import pytest

from lucida.core.errors import DataError
from lucida.core.spec import MixtureSpec
from lucida.data.mixture import Mixture
from lucida.data.sample import ImageSource, Sample, Tokens
from lucida.data.stage import Capped, cap_sources, weigh_samples


class Records:
    """Records that all have the same tokens and images; every third is broken if asked for."""

    def __init__(self, size, tokens, images, broken=False):
        self.size, self.tokens, self.images, self.broken = size, tokens, images, broken

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.broken and index % 3 == 0:
            raise DataError("broken", origin=f"record {index}")
        images = tuple(ImageSource("image", f"{i}", None) for i in range(self.images))
        return Sample(str(self.tokens), images)


def encode(sample, counts=None):
    ids = np.zeros(int(sample.origin), dtype=np.int64)
    return Tokens(sample.origin, sample.images, ids, ids, ids, ids, ids)


SOURCES = {"long": Records(50, 400, 1), "short": Records(999, 100, 4, broken=True)}


@pytest.mark.parametrize("by", ["sample", "image", "token"])
def test_shares_of_the_stream_are_the_weights(by):
    weights = weigh_samples({"long": 3.0, "short": 1.0}, by, SOURCES, encode)
    mixture = Mixture(SOURCES, weights, seed=0)
    got = Counter()
    for which in mixture.draws(range(20_000))[0].tolist():
        source = SOURCES[mixture.names[which]]
        size = {"sample": 1, "image": source.images, "token": source.tokens}[by]
        got["long" if source is SOURCES["long"] else "short"] += size
    assert got["long"] / sum(got.values()) == pytest.approx(0.75, abs=0.02)


def test_a_source_without_images_has_no_share_of_them():
    sources = {"text": Records(9, 10, 0), "seen": Records(9, 10, 1)}
    with pytest.raises(DataError, match="text: the source has no images"):
        weigh_samples({"text": 1.0, "seen": 1.0}, "image", sources, encode)
    sources = {"lost": Records(1, 10, 1, broken=True)}
    with pytest.raises(DataError, match="0 usable records"):
        weigh_samples({"lost": 1.0}, "token", sources, encode)


def test_a_cap_keeps_the_same_records():
    cut = Capped(range(100), 30, seed=1)
    kept = [cut[i] for i in range(len(cut))]
    assert len(set(kept)) == 30
    assert set(kept) <= set(range(100))
    assert kept == [Capped(range(100), 30, seed=1)[i] for i in range(30)]
    assert set(kept) != {Capped(range(100), 30, seed=2)[i] for i in range(30)}
    with pytest.raises(IndexError):
        cut[30]
    whole = Capped(range(5), 9, seed=1)
    assert [whole[i] for i in range(len(whole))] == list(range(5))


def test_caps_are_by_name():
    found = cap_sources({"a": range(9), "b": range(9)}, {"a": 3}, seed=0)
    assert (len(found["a"]), found["b"]) == (3, range(9))
    source = {"kind": "world", "tasks": ["attribute"]}
    with pytest.raises(ValueError, match="caps for sources that are not there"):
        MixtureSpec(sources={"a": source}, caps={"b": 3})
