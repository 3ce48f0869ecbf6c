"""The second domain: deterministic, disjoint between splits, drawn as it is told, in words that no
shipped language model has read."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lucida.data.sources.world import WorldSource, scene_source
from lucida.eval.benchmarks import benchmark
from lucida.model.parts import part_path
from lucida.world.scenes import SPLITS
from lucida.world.tasks import TASKS, mixed_item
from lucida.world.text import document, exercise
from lucida.world.tissue import (
    _HALO,
    _PALETTE,
    _SPACE,
    HELD_OUT,
    KINDS,
    NAMES,
    STAINS,
    draw_tissue,
    make_tissue,
    owner,
)

NEW = ("tissue-kind", "tissue-counting", "tissue-mitosis", "tissue-denser")


def blobs(mask):
    """Centres (x, y) of the connected parts of a mask (over edges alone), by flooding."""
    left, found = {(y, x) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        waiting, part = [left.pop()], []
        while waiting:
            y, x = waiting.pop()
            part.append((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        ys, xs = zip(*part, strict=True)
        found.append(((min(xs) + max(xs) + 1) / 2, (min(ys) + max(ys) + 1) / 2))
    return found


def seen(tissue):
    """What pixels alone tell: kind, stain, centres of nuclei, number of cells in mitosis."""
    pixels = np.asarray(draw_tissue(tissue)).astype(int)
    size = len(pixels)
    found = {}
    for stain, (*_, nucleus, chromatin, _) in _PALETTE.items():
        nuclei = blobs((pixels == nucleus).all(-1))
        bars = blobs((pixels == chromatin).all(-1))
        if nuclei or bars:
            found[stain] = nuclei, bars
    ((stain, (nuclei, bars)),) = found.items()
    assert len(bars) % 2 == 0
    spaces = len(blobs((pixels == _SPACE).all(-1)))
    ground = pixels.sum(-1)
    # Fibres make rows, or columns, of different brightness; mottling evens out over a line.
    uneven = max(np.median(ground, axis=axis).std() for axis in (0, 1))
    kind = {0: "muscle" if uneven > 12 else "lymph", 1: "gland"}.get(spaces, "fat")
    return kind, stain, nuclei, len(bars) // 2, size


def answer(question, picture):
    """The answer to a question, from what pixels tell."""
    kind, stain, nuclei, dividing, size = picture
    if question == "which tissue is it?":
        return kind
    if question == "which stain is it?":
        return stain
    if question == "is there a mitosis?":
        return "yes" if dividing else "no"
    if question == "how many nuclei are there?":
        return str(len(nuclei))
    halves = {
        "left": [x for x, _ in nuclei if x < size / 2],
        "right": [x for x, _ in nuclei if x > size / 2],
        "top": [y for _, y in nuclei if y < size / 2],
        "bottom": [y for _, y in nuclei if y > size / 2],
    }
    if found := re.fullmatch(r"how many nuclei are (?:on|at) the (\w+)\?", question):
        return str(len(halves[found[1]]))
    first, second = re.fullmatch(r"has the (\w+) or the (\w+) more nuclei\?", question).groups()
    assert len(halves[first]) != len(halves[second])
    return max(first, second, key=lambda half: len(halves[half]))


@pytest.mark.parametrize("size", [64, 96])
def test_answers_follow_from_the_pixels(size):
    asked = Counter()
    for index in range(60):
        for name in NEW:
            item = TASKS[name].item(5, "test", index, 8, size)
            picture = seen(item.scenes[0])
            for exchange in item.exchanges:
                assert exchange.answer == answer(exchange.question, picture), item.id
                assert exchange.answer in exchange.options
                asked[exchange.task, exchange.kind, exchange.answer] += 1
    kinds = {task: {kind for t, kind, _ in asked if t == task} for task in NEW}
    assert kinds["tissue-kind"] == {"kind", "stain"} and kinds["tissue-counting"] == {"all", "half"}
    assert {answer for _, kind, answer in asked if kind == "kind"} == set(KINDS)
    assert {answer for _, kind, answer in asked if kind == "stain"} == set(STAINS)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 10**9), st.sampled_from([64, 96])
)
def test_a_tissue_is_a_function_of_its_numbers_and_cells_do_not_touch(seed, split, index, size):
    tissue = make_tissue(seed, split, index, size)
    assert tissue == make_tissue(seed, split, index, size)
    pixels = np.asarray(draw_tissue(tissue))
    assert pixels.shape == (size, size, 3)
    assert np.array_equal(pixels, np.asarray(draw_tissue(tissue)))
    for number, cell in enumerate(tissue.cells):
        x0, y0, x1, y1 = cell.box
        assert 0 < x0 < x1 < size
        assert 0 < y0 < y1 < size
        for other in tissue.cells[:number]:
            a, b, c, d = other.box
            assert x0 > c or a > x1 or y0 > d or b > y1
    assert 2 <= len(tissue.nuclei) <= 7
    assert len(tissue.cells) - len(tissue.nuclei) <= 2


def test_splits_are_disjoint_by_content_and_some_pairs_are_held_out():
    for split in SPLITS:
        for index in range(120):
            tissue = make_tissue(0, split, index)
            assert owner(tissue) == ("test" if split == "novel" else split)
            assert ((tissue.kind, tissue.stain) in HELD_OUT) == (split == "novel")
    assert {kind for kind, _ in HELD_OUT} == set(KINDS)  # each loses one: none is rarer


def test_no_kind_has_more_nuclei_and_guessing_gains_little():
    tissues = [make_tissue(0, "train", index) for index in range(1200)]
    by_kind = {kind: [len(t.nuclei) for t in tissues if t.kind == kind] for kind in KINDS}
    assert all(abs(np.mean(counts) - 4.5) < 0.35 for counts in by_kind.values())  # 3.5 deviations
    assert all(abs(len(counts) - 300) < 60 for counts in by_kind.values())
    dividing = [len(t.cells) > len(t.nuclei) for t in tissues]
    assert abs(np.mean(dividing) - 0.5) < 0.06
    items = [TASKS["tissue-denser"].item(0, "train", index) for index in range(400)]
    answers = Counter(e.answer for item in items for e in item.exchanges)
    total = sum(answers.values())
    assert all(abs(count / total - 0.25) < 0.06 for count in answers.values())
    assert len(answers) == 4


def test_pictures_are_shared_by_the_questions_of_this_domain_alone():
    mixed = [TASKS[name] for name in ("tissue-kind", "tissue-counting", "attribute")]
    met = Counter()
    for index in range(60):
        item = mixed_item(mixed, 0, "train", index)
        domains = {exchange.task.startswith("tissue") for exchange in item.exchanges}
        assert len(item.scenes) == len(domains) == 1
        met[domains.pop()] += 1
    assert min(met.values()) > 10
    source = WorldSource(list(NEW), count=4)
    assert source[0].images[0].load().size == (64, 64)
    assert source.held_out(2)[0].images[0].origin.startswith("validation")
    tissue = make_tissue(0, "train", 0)
    assert scene_source(tissue).key == scene_source(make_tissue(0, "train", 0)).key


def test_a_tokenizer_that_ships_spells_the_words():
    questions = {
        text
        for name in NEW
        for index in range(80)
        for exchange in TASKS[name].item(0, "train", index).exchanges
        for text in (exchange.question, exchange.answer)
    }
    assert all(any(word in text for text in questions) for word in (*NAMES, "mitosis"))
    for part in ("base-mini", "chat-mini"):
        tokenizer = AutoTokenizer.from_pretrained(part_path(f"lucida:{part}"))
        for text in questions:
            ids = tokenizer.encode(f" {text}", add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == f" {text}"
        # Words that are one piece would have been learnt as such.
        pieces = {word: tokenizer.encode(f" {word}", add_special_tokens=False) for word in NAMES}
        assert all(len(ids) > 1 for ids in pieces.values())


def test_no_text_of_the_first_domain_has_its_words():
    texts = [document(0, "train", index) for index in range(600)]
    for index in range(300):
        told = exercise(0, "train", index, progress=index % 3)
        texts += [part for part in told.told if isinstance(part, str)]
        texts += [text for e in told.exchanges for text in (e.question, e.answer)]
    for name, task in TASKS.items():
        if name in NEW:
            continue
        for index in range(30):
            item = task.item(0, "train", index)
            texts += [text for e in item.exchanges for text in (e.question, e.answer, *e.options)]
            texts += [p for line in item.turns for p in line.parts if isinstance(p, str)]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) > 150
    assert not words & set(NAMES)


@pytest.mark.parametrize("name", NEW)
def test_benchmarks_ask_held_out_pictures_and_know_what_guessing_gives(name):
    task = benchmark(name)
    examples = task.examples(40)
    assert all(example.id.startswith(f"{name}/test-") for example in examples)
    assert [example.id for example in task.examples(10)] == [each.id for each in examples[:10]]
    right = [task.score(example, example.answer.upper()) for example in examples]
    assert set(right) == {1.0}
    usual = [str(guess) for guess in task.majority(examples)]
    assert set(usual) <= {answer for example in examples for answer in example.options}
    assert "likelihood" in task.protocols


def test_colours_that_are_counted_are_of_nothing_else():
    colours = [colour for palette in _PALETTE.values() for colour in palette[2:4]]
    assert len({*colours, _SPACE, _HALO}) == len(colours) + 2
