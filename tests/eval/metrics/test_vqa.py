"""VQA, TextVQA and their normalisers: equal to the published code, property by property."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.eval.metrics import answers as normalisers
from lucida.eval.metrics.documents import anls, edit_distance
from lucida.eval.metrics.textvqa import m4c_score
from lucida.eval.metrics.vqa import (
    VARIANTS,
    answerability,
    okvqa_score,
    soft_accuracy,
    vizwiz_score,
    vqa_score,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "eval" / "vqa_answers.json"
golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
odd_texts = st.one_of(
    st.none(), st.text(max_size=30), st.text(alphabet="aA1,.' -\n\t\r\u2028?'t", max_size=12)
)


def test_normalisers_equal_the_published_code():
    for text, vqav2, lmms, m4c in golden["normalised"]:
        assert normalisers.normalise(text) == vqav2, text
        assert normalisers.normalise_lmms(text) == lmms, text
        assert normalisers.normalise_m4c(text) == m4c, text


def test_scores_equal_the_published_rules():
    for prediction, answers, normalised, strict, lmms, m4c in golden["scores"]:
        for variant, expected in zip(VARIANTS, (normalised, strict, lmms), strict=True):
            assert vqa_score(prediction, answers, variant) == pytest.approx(expected, abs=1e-9)
        assert m4c_score(prediction, answers) == pytest.approx(m4c, abs=1e-9)


def test_the_variants_disagree_where_they_should():
    unanimous = [s for s in golden["scores"] if len(set(s[1])) == 1]
    assert unanimous and any(s[2] != s[3] for s in unanimous)
    assert all(s[2] == s[3] for s in golden["scores"] if len({a.strip() for a in s[1]}) > 1)
    assert vqa_score("Yes.", ["yes"] * 10) == 1.0
    assert vqa_score("Yes.", ["yes"] * 10, "strict") == 0.0
    assert vqa_score("Yes.", ["yes"] * 9 + ["yeah"], "strict") == 1.0


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_soft_accuracy_by_number_of_matches(matches, score):
    references = ["x"] * matches + [str(i) for i in range(10 - matches)]
    assert soft_accuracy("x", references) == pytest.approx(score)
    one_by_one = [
        min(1, sum(r == "x" for j, r in enumerate(references) if j != i) / 3) for i in range(10)
    ]
    assert soft_accuracy("x", references) == pytest.approx(sum(one_by_one) / 10)


def test_contractions():
    table = normalisers.CONTRACTIONS
    assert len(table) == 114
    assert table["dont"] == "don't" and table["somebody'd"] == "somebodyd"
    assert table["hed've"] == table["he'dve"] == "he'd've" and table["'ows'at"] == "'ow's'at"
    assert "lets" not in table and "im" not in table and "hedve" not in table
    curly = normalisers.VIZWIZ_CONTRACTIONS
    assert curly["dont"] == "don\u2019t" and curly["cant"] == "can't"
    assert curly["couldn'tve"] == curly["couldnt\u2019ve"] == "couldn\u2019t\u2019ve"
    assert curly["we\u2019dve"] == "we\u2019d\u2019ve" and len(curly) == 114


def test_periods_go_thirty_two_at_most():
    assert normalisers.without_punctuation("." * 40 + "x") == "." * 8 + "x"
    assert normalisers.without_punctuation("u.s.a. 2.5 3.") == "usa 2.5 3"


def test_okvqa_counts_five_annotators_twice():
    five = ["dog", "cat", "cow", "hen", "pig"]
    assert okvqa_score("dog", five) == pytest.approx(0.6)
    assert okvqa_score("Dog.", [a for a in five for _ in range(2)]) == pytest.approx(0.6)
    assert okvqa_score("dog", ["dog", "dog", "cat", "cow", "hen"]) == 1.0
    assert okvqa_score("dog's", ["dog 's"] * 5, "lmms") == 1.0
    assert okvqa_score("dog's", ["dog 's"] * 5) == 0.0


def test_vizwiz_leaves_references_as_they_are():
    assert vizwiz_score("The dog.", ["dog"] * 10) == 1.0
    assert vizwiz_score("the dog", ["the dog"] * 10) == 0.0
    assert vizwiz_score("the dog", ["the dog"] * 10, "lmms") == 1.0
    assert vizwiz_score("dont", ["don\u2019t"] * 10) == 1.0


@pytest.mark.parametrize("scorer", [vqa_score, vizwiz_score, okvqa_score, m4c_score])
def test_a_wrong_number_of_references_is_an_error(scorer):
    for answers in ([], ["a"], ["a"] * 9, ["a"] * 11):
        with pytest.raises(DataError, match=rf"got {len(answers)}\b"):
            scorer("a", answers)
    with pytest.raises(DataError, match="needs a list of references"):
        scorer("a", "ten answers")


@pytest.mark.parametrize("scorer", [vqa_score, vizwiz_score, okvqa_score])
def test_an_unknown_variant_is_an_error(scorer):
    with pytest.raises(DataError, match="expected normalised or strict or lmms, got official"):
        scorer("a", ["a"] * 10, "official")


@given(odd_texts, st.lists(st.text(max_size=8), min_size=10, max_size=10))
def test_any_output_scores_between_0_and_1(prediction, answers):
    for scorer in (vqa_score, vizwiz_score, okvqa_score):
        for variant in VARIANTS:
            assert 0.0 <= scorer(prediction, answers, variant) <= 1.0
    assert 0.0 <= m4c_score(prediction, answers) <= 1.0


def test_a_very_long_output_is_no_trouble():
    assert vqa_score("dog, " * 50_000, ["dog"] * 10) == 0.0
    assert anls("x" * 1_000_000, ["stop"]) == 0.0


def slow_distance(first, second):
    if not first or not second:
        return len(first) + len(second)
    return min(
        slow_distance(first[1:], second[1:]) + (first[0] != second[0]),
        slow_distance(first[1:], second) + 1,
        slow_distance(first, second[1:]) + 1,
    )


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_edit_distance_equals_the_slow_version(first, second):
    assert edit_distance(first, second) == slow_distance(first, second)


def test_anls():
    assert edit_distance("kitten", "sitting") == 3
    assert anls("Stop ", ["shop"]) == pytest.approx(0.75)
    assert anls("go", ["stop"]) == 0.0
    assert anls("ab", ["ac"]) == 0.5
    assert anls(None, [""]) == 1.0 and anls("", ["x"]) == 0.0
    assert anls("stop", ["nope", "stop"]) == 1.0
    with pytest.raises(DataError):
        anls("x", [])


def test_answerability():
    scores = answerability([0.9, 0.6, 0.2], [False, True, False])
    assert scores == {"AP": pytest.approx(5 / 6), "F1": pytest.approx(0.5)}
    assert answerability([0.5, 0.1], [True, True]) == {"AP": 0.0, "F1": 0.0}
    with pytest.raises(DataError, match="differ in number"):
        answerability([0.5], [])
