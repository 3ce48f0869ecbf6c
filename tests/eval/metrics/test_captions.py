"""Caption metrics: equal to coco-caption's, to slow obvious versions, and clear about bad input."""

import json
import math
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.eval.metrics.captions import bleu, longest_common_subsequence, rouge_l, score_captions
from lucida.eval.metrics.cider import cider_d
from lucida.eval.metrics.ngrams import count_ngrams, find

GOLDEN = Path(__file__).parents[2] / "golden" / "eval"
OFFICIAL = {"CIDEr-D": "CIDEr", "ROUGE-L": "ROUGE_L"} | {
    f"BLEU-{n}": f"Bleu_{n}" for n in range(1, 5)
}
files = pytest.mark.parametrize("name", ["captions", "captions_fakecap", "captions_manyrefs"])


def load(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


@files
def test_on_official_tokens_every_score_is_the_official_one(name):
    golden = load(name)
    images = golden["images"]
    candidates = [image["tokenized_candidate"].split() for image in images]
    references = [[r.split() for r in image["tokenized_references"]] for image in images]
    corpus, each = bleu(candidates, references)
    cider = cider_d(candidates, references)
    assert sum(cider) / len(cider) == pytest.approx(golden["corpus"]["CIDEr"], abs=1e-9)
    for n in range(4):
        assert corpus[n] == pytest.approx(golden["corpus"][f"Bleu_{n + 1}"], abs=1e-9)
    for i, image in enumerate(images):
        assert cider[i] == pytest.approx(image["official"]["CIDEr"], abs=1e-9)
        for n in range(4):
            assert each[i][n] == pytest.approx(image["official"][f"Bleu_{n + 1}"], abs=1e-9)
        # ROUGE-L splits at single spaces: an inner no-break space does not.
        tokens = [r.split(" ") for r in image["tokenized_references"]]
        found = rouge_l([t for t in image["tokenized_candidate"].split(" ") if t], tokens)
        assert found == pytest.approx(image["official"]["ROUGE_L"], abs=1e-9)


@files
def test_from_texts_to_official_scores(name):
    golden = load(name)
    images = golden["images"]
    scores = score_captions([i["candidate"] for i in images], [i["references"] for i in images])
    for ours, theirs in OFFICIAL.items():
        assert scores[ours] == pytest.approx(golden["corpus"][theirs], abs=1e-9)
        expected = [image["official"][theirs] for image in images]
        assert scores["per_image"][ours] == pytest.approx(expected, abs=1e-9)


def slow_cider(candidates, references):
    """CIDEr-D as its authors define it, one dictionary per caption and n."""
    images_with = Counter()
    for group in references:
        grams = {
            tuple(t[i : i + n]) for t in group for n in (1, 2, 3, 4) for i in range(len(t) - n + 1)
        }
        images_with.update(grams)

    def vector(tokens, n):
        counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        total = math.log(len(references))
        return {g: c * (total - math.log(max(1, images_with[g]))) for g, c in counts.items()}

    scores = []
    for candidate, group in zip(candidates, references, strict=True):
        values = []
        for reference in group:
            difference = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
            for n in (1, 2, 3, 4):
                ours, theirs = vector(candidate, n), vector(reference, n)
                dot = sum(min(w, theirs[g]) * theirs[g] for g, w in ours.items() if g in theirs)
                norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                cosine = dot / norm if norm else 0.0
                values.append(cosine * math.exp(-(difference**2) / 72))
        scores.append(10 * sum(values) / len(values))
    return scores


def slow_bleu(candidate, references):
    scores, product = [], 1.0
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    ratio = (len(candidate) + 1e-15) / (closest + 1e-9)
    for n in (1, 2, 3, 4):
        grams = [tuple(candidate[i : i + n]) for i in range(len(candidate) - n + 1)]
        most = {
            g: max(sum(tuple(r[i : i + n]) == g for i in range(len(r))) for r in references)
            for g in grams
        }
        correct = sum(min(count, most[g]) for g, count in Counter(grams).items())
        product *= (correct + 1e-15) / (len(grams) + 1e-9)
        scores.append(product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0))
    return scores


def slow_common(first, second):
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + slow_common(first[1:], second[1:])
    return max(slow_common(first[1:], second), slow_common(first, second[1:]))


captions = st.lists(st.sampled_from("abcd"), max_size=7)
groups = st.lists(captions, min_size=1, max_size=3)
corpora = st.lists(st.tuples(captions, groups), min_size=1, max_size=5)


@given(corpora)
def test_cider_equals_the_slow_version(corpus):
    candidates, references = [c for c, _ in corpus], [g for _, g in corpus]
    assert cider_d(candidates, references) == pytest.approx(
        slow_cider(candidates, references), abs=1e-9
    )


@given(corpora)
def test_bleu_equals_the_slow_version(corpus):
    candidates, references = [c for c, _ in corpus], [g for _, g in corpus]
    corpus_scores, each = bleu(candidates, references)
    for scores, candidate, group in zip(each, candidates, references, strict=True):
        assert scores == pytest.approx(slow_bleu(candidate, group), abs=1e-9)
    assert len(corpus_scores) == 4 and all(0 <= score <= 1 for score in corpus_scores)


@given(captions, captions)
def test_common_subsequence_equals_the_slow_version(first, second):
    assert longest_common_subsequence(first, second) == slow_common(first, second)


@given(st.lists(captions, max_size=5))
def test_ngram_counts_equal_dictionaries(texts):
    for n, counts in enumerate(count_ngrams(texts), 1):
        expected = [
            Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in texts
        ]
        assert len(counts.count) == sum(map(len, expected))
        assert counts.count.sum() == sum(c.total() for c in expected)
        order = list(zip(counts.caption.tolist(), counts.gram.tolist(), strict=True))
        assert order == sorted(set(order))


def test_find():
    import numpy as np

    here, there = find(np.array([5, 7, 9]), np.array([7, 9, 11]))
    assert here.tolist() == [1, 2] and there.tolist() == [0, 1]
    assert find(np.array([12]), np.array([7]))[0].size == 0
    assert find(np.array([12]), np.array([], dtype=int))[0].size == 0


def test_worked_examples():
    star, square = ["a", "red", "star"], ["a", "blue", "square"]
    assert cider_d([star, star], [[star], [square]]) == pytest.approx([7.5, 0.0])
    assert rouge_l(star, [["a", "big", "red", "star"]]) == pytest.approx(0.836, abs=1e-3)
    assert bleu([star], [[[*star, "here"]]])[0] == pytest.approx([0.717] * 3 + [0.023], abs=1e-3)
    assert longest_common_subsequence(star, ["a", "big", "red"]) == 2


def test_edges():
    star = ["a", "red", "star"]
    assert cider_d([], []) == [] and bleu([], []) == ([0.0] * 4, [])
    assert cider_d([star], [[star]]) == [0.0]
    assert cider_d([[], star], [[star], [["x"]]])[0] == 0.0
    assert rouge_l([], [star]) == rouge_l(star, [[]]) == 0.0
    with pytest.raises(DataError, match="captions and sets of references differ in number"):
        score_captions(["a", "b"], [["a"]])
    with pytest.raises(DataError, match="expected 0 captions, got 1"):
        cider_d([star], [])
    with pytest.raises(DataError, match="caption 1 needs a list of reference captions"):
        cider_d([star, star], [[star], []])
    with pytest.raises(DataError, match="caption 1 needs a list of reference captions"):
        score_captions(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="the text 'a red star'"):
        score_captions(["a"], ["a red star"])


@pytest.mark.parametrize(
    "odd", [None, "", " ", "\r\u2028", "\U0001f600" * 50, "!?" * 9, "x" * 50_000]
)
def test_odd_outputs_score_and_disturb_nobody(odd):
    texts = ["a red star on a table", odd, "two blue squares beside a dog"]
    references = [["a red star lies on a table"], ["a cat"], ["two blue squares near a dog"]]
    scores = score_captions(texts, references)["per_image"]
    without = score_captions([texts[0], "", texts[2]], references)["per_image"]
    assert [scores["CIDEr-D"][i] for i in (0, 2)] == [without["CIDEr-D"][i] for i in (0, 2)]
    assert scores["ROUGE-L"][1] == 0.0


def test_5000_images_within_five_seconds():
    images = load("captions")["images"]
    candidates = [images[i % 398]["tokenized_candidate"].split() for i in range(5000)]
    references = [
        [images[(i * 7 + k) % 398]["tokenized_references"][k % 4].split() for k in range(5)]
        for i in range(5000)
    ]
    started = time.process_time()
    cider_d(candidates, references)
    assert time.process_time() - started < 5.0
