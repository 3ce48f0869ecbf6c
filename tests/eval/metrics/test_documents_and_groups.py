"""ANLS of the document server, OCRBench, ChartQA's tolerance, MMStar's letter, groups: known
answers."""

import pytest

from lucida.core.errors import DataError
from lucida.eval.metrics.choice import mmstar_letter
from lucida.eval.metrics.documents import ocrbench_match, rrc_anls
from lucida.eval.metrics.exact import contains_answer
from lucida.eval.metrics.groups import (
    PLACES,
    amber_label,
    amber_rates,
    naturalbench_label,
    naturalbench_scores,
)
from lucida.eval.metrics.pathvqa import token_recall
from lucida.eval.metrics.relaxed import read_number, relaxed_accuracy, relaxed_match


@pytest.mark.parametrize(
    ("output", "answers", "score"),
    [
        ("Stop", ["shop"], 0.75),
        ("Stop  ", ["shop"], 1 - 1 / 6),
        ("go", ["stop"], 0.0),
        ("ab", ["ac"], 0.5),  # exactly one half still counts
        ("a  B", ["A b"], 1.0),
        ("", [""], 1.0),
        ("straße", ["strasse"], 1 - 2 / 7),  # seven letters in capitals
        ("x" * 5000, ["stop"], 0.0),
        ("wrong", ["nothing", "wrongs"], 1 - 1 / 6),
    ],
)
def test_anls_of_the_document_server(output, answers, score):
    assert rrc_anls(output, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("output", "answers", "formula", "score"),
    [
        ("The word is centre.", ["CENTRE"], False, 1),
        ("start", ["art"], False, 1),
        ("two\nlines", ["two lines"], False, 1),
        ("two lines", ["TWOLINES"], False, 0),
        ("x + 1", ["x+1"], True, 1),
        ("X + 1", ["x+1"], True, 0),
        ("b", ["a", "b"], False, 1),
    ],
)
def test_ocrbench(output, answers, formula, score):
    assert ocrbench_match(output, answers, formula) == score


def test_ocrbench_refuses_an_answer_that_is_everywhere():
    for answers in ([], [" "], ["a", ""]):
        with pytest.raises(DataError, match="not empty"):
            ocrbench_match("a", answers)


@pytest.mark.parametrize(
    ("output", "answer", "score"),
    [
        ("10.5", "10", 1), ("10.51", "10", 0), ("-10.5", "-10", 1), ("10", "-10", 0),
        ("0", "0", 1), ("0.0", "0", 0),  # beside a true zero texts are compared
        ("45%", "45%", 1), ("0.45", "45%", 1), ("45", "45%", 0),
        ("1,000", "1000", 0), ("Red", "red", 1), ("red.", "red", 0), ("2015", "2010", 1),
        ("nan", "10", 0), ("inf", "inf", 1),
    ],
)  # fmt: skip
def test_the_tolerance_of_charts(output, answer, score):
    assert relaxed_match(output, answer) == score


def test_numbers_as_charts_have_them():
    assert [read_number(t) for t in ("45%", " 7 ", "1,000", "", "nan")] == [
        0.45,
        7,
        None,
        None,
        None,
    ]
    assert relaxed_accuracy("5", ["four", "5.1"]) == 1.0


def test_mmstars_letter():
    read = {"B. dog": "B", "(b) dog": "B", "Option B": "B", "The answer is B": "B", "A dog": "A",
            "It is B": None, "": None, "(": None, "option": None, "\nb": "B"}  # fmt: skip
    assert {text: mmstar_letter(text, ["cat", "dog"]) for text in read} == read


def test_naturalbench():
    labels = {"No, yes.": "no", "yes": "yes", "know": None, "": None}
    assert {text: naturalbench_label(text, "yes_no") for text in labels} == labels
    letters = {"It is B": "B", "a dog, so B": "A", "(b)": "B", "C": None}
    assert {t: naturalbench_label(t, "multiple_choice") for t in letters} == letters
    with pytest.raises(DataError, match="no such kind"):
        naturalbench_label("yes", "open")
    group = dict.fromkeys(PLACES, True)
    one = naturalbench_scores([group | {(0, 1): False}])
    assert one == {"Acc": 0.75, "Q_Acc": 0.5, "I_Acc": 0.5, "G_Acc": 0.0}
    assert set(naturalbench_scores([group]).values()) == {1.0}
    assert naturalbench_scores([group, group | {(0, 0): False, (0, 1): False}])["I_Acc"] == 0.5
    with pytest.raises(DataError, match="whole groups"):
        naturalbench_scores([{(0, 0): True}])


def test_amber():
    assert [amber_label(t) for t in ("Yes", "No", "no", "No.", None)] == ["yes", "no"] + [None] * 3
    rates = amber_rates(["no", "no", "yes", None], ["no", "yes", "yes", "no"])
    assert (rates.accuracy, rates.precision, rates.recall) == (0.5, 0.5, 0.5)
    assert rates.f1 == pytest.approx(0.5 / 1.0001)
    assert amber_rates([], []).f1 == 0.0


def test_words_that_an_output_has():
    assert token_recall("on the left side of the chest", "left side") == 1.0
    assert token_recall("right side", "left side") == 0.5
    assert token_recall("left", "left left") == 0.5
    assert token_recall("anything", "...") == 0.0
    assert contains_answer("it is a red star!", ["Red Star"]) == 1.0
    assert contains_answer("it is scarred", ["red"]) == contains_answer("x", ["..."]) == 0.0
