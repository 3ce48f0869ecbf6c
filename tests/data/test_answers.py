"""What a token counts: equal to a slow, obvious version, and the same packed and padded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.data.answers import answer_weights
from lucida.data.collate import collate, collate_rows
from lucida.data.sample import IGNORED, Tokens

COUNTS = {"square": lambda n: 1 / n**0.5, "sample": lambda n: 1 / n}


def tokens(marks: str, branches: str) -> Tokens:
    """A sample whose supervised positions are the `x` of `marks`, with these branches."""
    length = len(marks)
    where = np.arange(length)
    target = np.where(np.array(list(marks)) == "x", where, IGNORED)
    branch = np.array([int(each) for each in branches])
    return Tokens("made", (), where, branch, where, where * 0, target)


@st.composite
def samples(draw):
    marks = draw(st.text("x-", min_size=1, max_size=12))
    branches = sorted(draw(st.lists(st.sampled_from("012"), min_size=12, max_size=12)))
    return tokens(marks, "".join(branches)[: len(marks)])


def slow(sample: Tokens, weighting: str) -> list[float]:
    """Answers found by walking, one position at a time."""
    answers, open_answer = [], []
    for place in range(len(sample)):
        supervised = sample.target[place] != IGNORED
        goes_on = open_answer and sample.branch[place] == sample.branch[open_answer[-1]]
        if open_answer and not (supervised and goes_on):
            answers.append(open_answer)
            open_answer = []
        if supervised:
            open_answer = [*open_answer, place]
    answers += [open_answer] if open_answer else []
    counts = [0.0] * len(sample)
    for answer in answers:
        for place in answer:
            counts[place] = COUNTS[weighting](len(answer))
    return counts


def test_worked_example():
    batch = collate([tokens("-xx-x", "00000")], pack=True, pad_id=0)
    assert answer_weights(batch, "token") is None
    assert answer_weights(batch, "square")[0].tolist() == pytest.approx(
        [0, 0.5**0.5, 0.5**0.5, 0, 1]
    )
    assert answer_weights(batch, "sample")[0].tolist() == [0, 0.5, 0.5, 0, 1]


@pytest.mark.parametrize("weighting", ["square", "sample"])
@given(st.lists(samples(), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_layout_is_the_slow_version(weighting, made):
    wanted = [slow(sample, weighting) for sample in made]
    packed = answer_weights(collate(made, pack=True, pad_id=0), weighting)
    flat = torch.tensor([each for sample in wanted for each in sample])
    torch.testing.assert_close(packed[0], flat)
    padded = answer_weights(collate(made, pack=False, pad_id=0), weighting)
    rows = answer_weights(collate_rows([made, made[:1], []], 60, pad_id=0), weighting)
    torch.testing.assert_close(rows[0, : len(flat)], flat)
    assert not rows[0, len(flat) :].any() and not rows[2].any()
    for row, sample in zip(padded, wanted, strict=True):
        torch.testing.assert_close(row[: len(sample)], torch.tensor(sample))
        assert not row[len(sample) :].any()


def test_nothing_supervised_counts_nothing():
    batch = collate([tokens("---", "000")], pack=True, pad_id=0)
    assert not answer_weights(batch, "square").any()
