"""Masks, and the layout that must mean the same in less time."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention

from closeness import close
from lucida.core.errors import ModelError
from lucida.data.sample import Batch
from lucida.model import flex, segments
from lucida.model.attention import WAYS, Layout, layout_attention
from lucida.model.flex import block_mask, pairwise
from lucida.model.masks import MASKS, TWIG, Fields, cells, dense_mask, fields_of, picture, prompts
from lucida.model.segments import Segments, blocks_of

torch.set_num_threads(1)


def fields(
    segment: list, branch: list | None = None, image: list | None = None, prompt: list | None = None
) -> Fields:
    """Fields of one row: one branch, no image, all prompt unless given."""
    length = len(segment)
    rest = (branch or [1] * length, [*range(length)], image or [0] * length, prompt or [1] * length)
    return Fields(*(torch.tensor([values]) for values in (segment, *rest)))


def drawn(mask: Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0]]


@pytest.mark.parametrize("name", MASKS)
def test_every_mask_is_as_drawn_in_its_docstring(name):
    """Fields stand on the left of the worked example, who sees whom on its right."""
    given, expected = {}, []
    for line in (MASKS[name].__doc__ or "").splitlines():
        field = re.match(r" +(branch|image|prompt) +((?:\d\s+)+)", line + " ")
        if field:
            given[field[1]] = [int(value) for value in field[2].split()]
        row = re.search(r"  \S   ((?:[x.] )+)", line + " ")
        if row:
            expected.append(row[1].replace(" ", ""))
    assert len(expected) == len(given["image"]) >= 5
    assert drawn(dense_mask(fields([1] * len(expected), **given), name)) == expected


def test_segments_and_padding_keep_to_themselves():
    """Two segments of two visual tokens; every mask that lets them look ahead stops at the seam."""
    row = fields([1, 1, 2, 2, 0, 0], [1] * 4 + [0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0])
    for name in MASKS:
        block = {"causal": ("x.", "xx"), "diagonal": ("x.", ".x")}.get(name, ("xx", "xx"))
        expected = [f"{line}...." for line in block] + [f"..{line}.." for line in block]
        assert drawn(dense_mask(row, name)) == [*expected, "....x.", ".....x"], name


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_prompts_end_at_the_first_answer_on_their_path(data):
    """Against a slow version that walks back from every position."""
    row = data.draw(random_fields())
    shape = row.segment.shape
    marks = data.draw(st.lists(st.booleans(), min_size=row.segment.numel(),
                               max_size=row.segment.numel()))  # fmt: skip
    supervised = torch.tensor(marks).view(shape) & (row.segment > 0)
    given = prompts(row.segment, row.branch, supervised).tolist()
    lines = zip(row.segment.tolist(), row.branch.tolist(), supervised.tolist(), given, strict=True)
    for segment, branch, asked, prompt in lines:
        for i in range(shape[1]):
            path = [j for j in range(i) if segment[j] == segment[i] and branch[j] in (0, branch[i])]
            wanted = segment[i] > 0 and not any(asked[j] for j in path)
            assert prompt[i] == int(wanted)


def test_a_stem_with_one_branch_is_one_conversation():
    """So its image may see the question; with two branches it sees neither."""
    target = [-100, -100, -100, 7, -100]
    for branch, expected in (([0, 0, 1, 1, 1], "xxxx."), ([0, 0, 1, 2, 2], "xx...")):
        batch = Batch(
            input_ids=torch.zeros(1, 5, dtype=torch.long),
            segment=torch.ones(1, 5, dtype=torch.long),
            branch=torch.tensor([branch]),
            position=torch.arange(5)[None],
            image=torch.tensor([[1, 1, 0, 0, 0]]),
            target=torch.tensor([target]),
        )
        assert drawn(dense_mask(fields_of(batch), "prefix"))[0] == expected
        assert drawn(dense_mask(fields_of(batch), "mutual"))[1] == expected


def test_a_picture_for_the_terminal():
    row = fields([1] * 5, image=[1, 1, 2, 0, 0], prompt=[1, 1, 1, 1, 0])
    expected = """
I1 ###=.
I1 ###=.
I2 ###=.
 t ooox.
 t oooxx
""".strip("\n")
    assert picture(row, "mutual") == expected
    named = picture(row, "causal", labels=["I", "I", "J", "what", "red"])
    assert named.splitlines()[3] == "what ooox."
    assert cells(row, "diagonal").tolist()[2] == [0, 0, 4, 0, 0]


def test_unknown_mask_suggests_the_nearest():
    with pytest.raises(ModelError, match="did you mean `causal`"):
        dense_mask(fields([1]), "casual")


@st.composite
def random_fields(draw: st.DrawFn) -> Fields:
    """Rows of segments with a stem and branches; runs of visual tokens anywhere; padding behind."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        segment, branch, image = [], [], []
        for number in range(1, draw(st.integers(0, 4)) + 1):
            pictures = 0
            for part in range(draw(st.integers(0, 3)) + 1):
                length = draw(st.integers(0 if part else 1, 5))
                seen = draw(st.integers(0, length))
                pictures += seen > 0
                segment += [number] * length
                branch += [part] * length
                image += [pictures] * seen + [0] * (length - seen)
        rows.append((segment, branch, image))
    longest = max(1, *(len(row[0]) for row in rows)) + draw(st.integers(0, 3))
    padded = [[values + [0] * (longest - len(values)) for values in row] for row in rows]
    segment, branch, image = (torch.tensor(column) for column in zip(*padded, strict=True))
    order = torch.arange(longest).expand_as(segment)
    prompt = torch.zeros_like(segment)
    for row, column in enumerate(draw(st.lists(st.integers(0, longest), max_size=len(rows)))):
        prompt[row, :column] = 1
    return Fields(segment, branch, order, image, prompt * (segment > 0))


@pytest.fixture(scope="module", autouse=True)
def untraced():
    """See test_attention.py."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        yield


@settings(max_examples=60, deadline=None)
@given(random_fields(), st.sampled_from(list(MASKS)), st.sampled_from([1, 2]), st.integers(0, 9))
def test_layout_equals_the_dense_mask_in_value_and_gradient(row, mask, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, length = row.segment.shape

    def random(heads: int) -> Tensor:
        made = torch.randn(rows, heads, length, 4, generator=generator, dtype=torch.float64)
        return made.requires_grad_()

    query, key, value = random(2 * groups), random(2), random(2)
    wanted = torch.randn(rows, length, 2 * groups, 4, generator=generator, dtype=torch.float64)
    wanted *= (row.segment > 0)[:, :, None, None]  # padding is never supervised

    allowed = dense_mask(row, mask)
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (0.5 * query @ keys.transpose(-1, -2)).masked_fill(~allowed, float("-inf"))
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    slopes = torch.autograd.grad((expected * wanted).sum(), (query, key, value))
    for how, eager, band in (
        ("segments", 0, 256),
        ("segments", 99, 256),
        ("segments", 99, 3),
        ("dense", 0, 256),
    ):
        with (
            patch.dict(segments.EAGER_LENGTH, {torch.float64: eager}),
            patch.object(segments, "BAND", band),
        ):
            result = layout_attention(query, key, value, Layout(row, mask, how), 0.5, 0.0)
        assert torch.isfinite(result).all()
        close(result, expected, msg=how)
        gradients = torch.autograd.grad(
            (result * wanted).sum(), (query, key, value), materialize_grads=True
        )
        for got, reference in zip(gradients, slopes, strict=True):
            close(got, reference, msg=how)


@settings(max_examples=15, deadline=None)
@given(random_fields(), st.sampled_from(list(MASKS)), st.integers(0, 9))
def test_flex_equals_the_dense_mask(row, mask, seed):
    """Its gradients: test_attention.py, because torch has none on a CPU."""
    made = torch.Generator().manual_seed(seed)
    shape = len(row.segment), 2, row.segment.shape[1], 4
    query, key, value = torch.randn(3, *shape, generator=made, dtype=torch.float64)
    blocks = block_mask(row, mask)
    torch_own = flex_attention.create_block_mask(
        pairwise(row, mask), shape[0], None, shape[2], shape[2], device="cpu"
    )
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, name), getattr(torch_own, name))
    asked = (query, key, value)
    results = [layout_attention(*asked, Layout(row, mask, how), 0.5, 0.0) for how in WAYS]
    for result in results:
        close(result, results[0])


@pytest.mark.parametrize("name", MASKS)
def test_blocks_of_a_long_row_are_empty_full_or_partly_seen(name, monkeypatch):
    """700 positions in blocks of 128, sorted strip by strip, against torch's own sorting."""
    monkeypatch.setattr(flex, "AT_ONCE", 700 * 128 * 2)
    segment = [1] * 400 + [2] * 250 + [0] * 50
    image = [1] * 300 + [0] * 100 + [1] * 20 + [0] * 280
    prompt = [1] * 350 + [0] * 50 + [1] * 100 + [0] * 200
    row = fields(segment, image=image, prompt=prompt)
    blocks = block_mask(row, name)
    own = flex_attention.create_block_mask(pairwise(row, name), 1, None, 700, 700, device="cpu")
    for field in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, field), getattr(own, field))
    assert torch.equal(blocks.to_dense(), own.to_dense())
    assert int(blocks.full_kv_num_blocks.sum()) > 0 or name == "diagonal"
    assert blocks.sparsity() > 30


def test_blocks_are_as_the_docstring_says():
    blocks = block_mask(fields([1] * 100 + [2] * 200), "causal")
    assert blocks.kv_num_blocks.tolist() == [[[1, 2, 3]]]
    assert not blocks.full_kv_num_blocks.any()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_blocks_cover_all_segments_with_little_waste(lengths):
    lengths = sorted(lengths, reverse=True)
    ranges = blocks_of(lengths)
    assert [index for first, last in ranges for index in range(first, last)] == [
        *range(len(lengths))
    ]
    for first, last in ranges:
        assert sum(lengths[first:last]) >= 0.85 * lengths[first] * (last - first)


def test_layout_of_unequal_segments_is_cut_into_blocks():
    row = fields([1] * 4 + [2] * 2 + [3] * 4 + [0], [1] * 10 + [0])
    layout = Segments(row, "causal")
    assert [(block.segments, block.length) for block in layout.blocks] == [(2, 4), (1, 2), (1, 1)]
    assert torch.equal(layout.slots[layout.place], torch.arange(11))


def test_twigs_see_their_branch_and_not_one_another():
    row = fields([1] * 6, [0, 1, TWIG + 1, 2 * TWIG + 1, 2, TWIG + 2])
    seen = dense_mask(row, "causal")[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]
