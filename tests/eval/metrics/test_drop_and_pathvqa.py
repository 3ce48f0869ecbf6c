"""DROP and PathVQA: alignment against brute force, numbers, the published oddities by name."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.eval.metrics import drop, pathvqa

sides = st.integers(1, 4)


@given(st.data(), sides, sides)
def test_assignment_equals_brute_force(data, rows, columns):
    gain = st.sampled_from([0.0, 0.25, 0.5, 0.67, 1.0])
    gains = data.draw(
        st.lists(st.lists(gain, min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    )
    size = max(rows, columns)
    square = [row + [0.0] * (size - columns) for row in gains]
    square += [[0.0] * size] * (size - rows)
    best = max(
        sum(square[i][j] for i, j in enumerate(order))
        for order in itertools.permutations(range(size))
    )
    assert drop.best_assignment(gains) == pytest.approx(best)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The 3-yard run", "3.0 yard run"),
        ("1,000", "1000.0"),
        ("two", "two"),
        ("U.S.", "us"),
        ("a-an-the", ""),
        ("10%", "10.0"),
        ("-5", "5.0"),
        ("3.50", "3.5"),
        ("", ""),
    ],
)
def test_normalise(text, normalised):
    assert drop.normalise(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "answers", "scores"),
    [
        ("3", ["3.0"], (1.0, 1.0)),
        ("3 yards", ["3"], (0.0, 0.67)),
        ("4 yards", ["3 yards"], (0.0, 0.0)),
        ("red, blue", [["red", "blue"]], (0.0, 0.33)),
        (["blue", "red"], [["red", "blue"]], (1.0, 1.0)),
        (["red", "red"], [["red", "blue"]], (0.0, 0.5)),
        ("Brady", ["Tom Brady", "Brady"], (1.0, 1.0)),
        ("", ["x"], (0.0, 0.0)),
        (None, ["x"], (0.0, 0.0)),
        ([], ["x"], (0.0, 0.0)),
        ("x", ["  ", "y"], (0.0, 0.0)),
        ("the", ["a"], (1.0, 1.0)),
    ],
)
def test_drop_score(prediction, answers, scores):
    assert drop.drop_score(prediction, answers) == scores


def test_drop_needs_a_list_of_answers():
    for answers in ([], "3"):
        with pytest.raises(DataError, match="list of alternative answers"):
            drop.drop_score("3", answers)


texts = st.text(max_size=25)


@given(
    st.one_of(st.none(), texts, st.lists(texts, max_size=4)),
    st.lists(texts, min_size=1, max_size=3),
)
def test_any_output_scores_and_the_truth_scores_one(prediction, spans):
    match, f1 = drop.drop_score(prediction, [spans])
    assert match in (0.0, 1.0) and 0.0 <= f1 <= 1.0
    if spans[0].strip():
        assert drop.drop_score(spans, [spans])[0] == 1.0


def test_pathvqa_examples():
    assert pathvqa.is_yes_no("Yes") and not pathvqa.is_yes_no("yes, both")
    assert pathvqa.yes_no_score("No, it is benign.", "no") == 1.0
    assert pathvqa.yes_no_score("benign", "no") == 0.0
    assert pathvqa.yes_no_score(None, "yes") == 0.0
    assert pathvqa.exact_match("The liver.", "the liver") == 1.0
    assert pathvqa.exact_match("liver", "the liver") == 0.0
    assert pathvqa.token_f1("in the liver", "the liver") == pytest.approx(0.8)
    assert pathvqa.token_f1("the the the", "the liver") == pytest.approx(0.4)
    assert pathvqa.token_f1("", "x") == pathvqa.token_f1(None, "") == 0.0
    assert pathvqa.bleu(["in the left liver"], ["in the left liver"]) == pytest.approx([1.0] * 4)


def test_pathvqas_own_numbers_are_as_wrong_as_published():
    nothing = pathvqa.published_scores("spleen", "liver")
    assert nothing["word precision"] == nothing["F1"] == 0.0
    assert nothing["BLEU-1"] == nothing["BLEU-3"] == 1.0
    half = pathvqa.published_scores("in the liver", "the liver")
    assert half["word precision"] == pytest.approx(2 / 3)
    assert half["F1"] == pytest.approx(0.8)
    assert half["BLEU-1"] == pytest.approx(2 / 3)
    assert half["BLEU-2"] == pytest.approx((2 / 3 * 1 / 2) ** (1 / 2))
    assert half["BLEU-3"] == pytest.approx((2 / 3 * 1 / 2) ** (1 / 3))  # passes over precision 0


# Values of the published script, called with the weights 1/n.
PUBLISHED = [
    ("It is liver.", "liver", {"word precision": 1 / 3, "F1": 0.5, "BLEU-1": 1 / 3}),
    ("in the left liver lobe", "the left lobe of the liver", {
        "word precision": 0.8, "F1": 0.8, "BLEU-1": 0.6670023344601445,
        "BLEU-2": 0.3728656402509834, "BLEU-3": 0.4875816643477133}),
    ("liver liver", "liver", {"word precision": 0.5, "F1": 1.0, "BLEU-1": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("output", "answer", "expected"), PUBLISHED)
def test_pathvqas_published_values(output, answer, expected):
    found = pathvqa.published_scores(output, answer)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@given(st.one_of(st.none(), texts), texts)
def test_any_output_has_pathvqa_scores(prediction, answer):
    values = [*pathvqa.published_scores(prediction, answer).values()]
    values += [pathvqa.token_f1(prediction, answer), pathvqa.exact_match(prediction, answer)]
    assert all(0.0 <= value <= 1.0 for value in values)
