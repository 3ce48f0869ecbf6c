"""Scorers that read a label or a number from an output: letters, yes/no, counts, GQA, MME."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.eval.metrics.choice import (
    circular_score,
    circular_scores,
    exact_letter,
    first_letter,
    letter,
    option_text,
    rotations,
)
from lucida.eval.metrics.counting import (
    count_match,
    number,
    root_mean_square_error,
    vila_number,
)
from lucida.eval.metrics.gqa import gqa_consistency, gqa_match
from lucida.eval.metrics.mme import COGNITION, PERCEPTION, mme_label, mme_scores
from lucida.eval.metrics.pope import pope_label, pope_rates
from lucida.eval.metrics.yesno import average_precision, roc_auc, truth_value

PETS = ["cat", "dog"]
outputs = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.text("ABCZyesno .,()\n1:", max_size=15),
    st.just("A " * 9999),
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. dog", "B"),
        ("**B**", "B"),
        ("The answer is B because of its ears and its tail", "B"),
        ("the answer is: (B) since it has got ears and tail", "B"),
        ("A dog is what I can see in it", None),
        ("It is a Dog", "B"),
        ("a dog", "B"),
        ("A cat and a dog", None),
        ("A or B", None),
        ("Z", None),
        ("C", None),
        ("b", None),
        ("B " + "x " * 4, None),
        ("", None),
        (None, None),
        ("\u2028", None),
    ],
)
def test_letter(text, found):
    assert letter(text, PETS) == found


def test_strict_letters_and_texts():
    assert exact_letter("B", PETS) == "B"
    assert all(exact_letter(text, PETS) is None for text in ("B.", "b", " B", "C", "", None))
    assert first_letter("b) dog", PETS) == "B" and first_letter("Because", PETS) == "B"
    assert first_letter("\n B. dog", PETS) == "B"  # lmms-eval strips white space first
    assert all(first_letter(text, PETS) is None for text in ("(B)", "\u0131", " ", "", None))
    assert option_text("It is a Dog", PETS) == "B" and option_text("cat or dog", PETS) is None
    assert option_text("not sure", {"A": "Yes it is", "B": "No"}) == "B"  # the known flaw
    assert option_text("", ["", "x"]) is None
    assert letter("C", {"A": "x", "C": "y"}) == "C"


DECORATED = [
    "B", "b", "(B)", "(b)", "[B]", "**B**", "__B__", "*B*", '"B"', "'B'", "`B`", "\u201cB\u201d",
    "\u300eB\u300f", "\uff22", "\uff08\uff22\uff09", "$B$", "\\(B\\)", "\\textbf{B}", "\\text{(B)}",
    "\\boxed{B}", "$\\boxed{\\mathrm{b}}$", "<b>B</b>", "B)", "B.", "B:", "option B",
    "option **b**",
    "Option (B)", "choice B",
]  # fmt: skip
DECLARATIONS = [
    "The answer is {}", "the correct answer is {}", "ANSWER IS {}", "Answer: {}", "**Answer:** {}",
    "Final answer: {}", "### Final Answer\n\n{}", "Answer\uff1a{}", "The answer is: {}",
    "Answer = {}",
    "The correct option is {}", "Correct choice: {}", "I would choose {}", "I'd go with {}",
    "The answer to the question is {}", "My answer would be {}", "<answer>{}</answer>",
    "A shows fur and B a snout. The answer is {}", "(A) cat\n(B) dog\n\nAnswer: {}",
    "The answer is A. No, wait: the answer is {}", "The wrong answer is A. The right answer is {}",
    "\u7b54\u6848\u662f{}", "\u6b63\u786e\u7b54\u6848\u4e3a{}", "\u9009{}",
]  # fmt: skip
ENDINGS = ["", ".", "!", ", because one sees its ears and its long tail", "\n\nA has no such tail.",
           " since it has a tail and A has no tail at all", ". A is incorrect."]  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_a_declared_letter_is_read_in_any_decoration(declaration, ending):
    for decorated in DECORATED:
        text = declaration.format(decorated) + ending
        assert letter(text, PETS) == "B", text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # An article, a pronoun and an abbreviation are no letters.
        ("The answer is a dog", "B"),
        ("Answer: A dog", "B"),
        ("The answer is dog, because one sees its ears", "B"),
        ("The answer is dog-like", None),
        ("The answer is cats and dogs and whatever else there is", None),
        ("Answer: A cat", "A"),
        ("The answer is a", "A"),
        ("the answer is a, as it has no snout", "A"),
        ("A dog", "B"),
        ("The flag of the U.S.A.", None),
        ("It is plan B, a T-shirt", "B"),
        # What is not the answer.
        ("B is wrong", None),
        ("The answer is not A but B", "B"),
        ("The answer isn't A. It's B", "B"),
        ("Option A is incorrect; option B is correct since it has a tail", "B"),
        ("B is the correct answer, as A lacks the tail that one can see there", "B"),
        # Several.
        ("The answer is A or B", None),
        ("\\boxed{A, B}", None),
        ("A and B", None),
        ("A shows fur and B shows a snout", None),
        # Where nothing is declared: the beginning, the end, a line of its own, an option's number.
        ("B. The ears are long and there is a tail as well", "B"),
        ("B because the ears are long and there is a tail as well", "B"),
        ("B\n\nA shows fur, as one can see in the picture below", "B"),
        ("I see option (b), with its long ears and also with a tail", "B"),
        ("A\nB", None),
        ("b", None),
        # Other marks.
        ('{"answer": "b", "reason": "long ears that one can see"}', "B"),
        ("<think>Maybe A, or B?</think>\n<answer> b </answer>", "B"),
    ],
)
def test_letters_among_words(text, found):
    assert letter(text, PETS) == found


@pytest.mark.parametrize(
    "refusal",
    [
        "Cannot determine the answer",
        "I cannot determine the answer.",
        "Sorry, I can\u2019t help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided, I cannot say: no.",
        "Failed to obtain answer via API. No answer.",
    ],
)
def test_a_refusal_names_no_option(refusal):
    for options in (["Yes", "No"], ["answer", "image"], ["file", "people"]):
        assert letter(refusal, options) is None
        assert option_text(refusal, options) is None
    assert letter(f"{refusal} B", PETS) is None


def test_the_longer_option_is_meant():
    assert letter("The answer is a dog house", ["dog", "dog house"]) == "B"
    assert letter("The answer is a dog", ["dog", "dog house"]) == "A"
    assert letter("The answer is no", ["Yes", "No"]) == "B"
    assert letter("The answer is not yes", ["Yes", "No"]) is None


def test_options_with_a_hole_between():
    options = {"B": "Three", "D": "One"}
    assert letter("The answer is d", options) == "D" and letter("three", options) == "B"
    assert letter("A", options) is None and letter("answer: C", options) is None


def test_an_option_that_reads_like_a_letter():
    for text in ("B", "(B)"):
        options = ["dog", "cat", "hen", text]
        assert letter("B", options) == "B" and letter("D", options) == "D"
        assert letter("A, B", options) is letter("AB", options) is letter("b", options) is None
        assert letter("It is a hen", options) == "C"


def test_a_number_among_letters():
    counts = [str(n) for n in range(16)]
    assert letter("I see 3 dogs", counts) == "D"  # "I" is no letter there
    assert letter("I", counts) == "I"


def test_options_must_be_options():
    for options in ([], "cat", {"a": "cat"}, {"AB": "cat"}, {}, ["x"] * 27):
        with pytest.raises(DataError):
            letter("A", options)


def test_circular():
    assert rotations(["cat", "dog", "hen"])[1] == ["dog", "hen", "cat"]
    assert len(rotations(PETS)) == 2
    assert circular_score([True, 1.0]) == 1.0 and circular_score([True, False]) == 0.0
    assert circular_scores(["q1", "q1", "q2", "q2"], [1, 1, 1, 0]) == {"q1": 1.0, "q2": 0.0}
    with pytest.raises(DataError):
        circular_score([])


@settings(deadline=None)
@given(outputs, st.lists(st.text(max_size=9), min_size=1, max_size=5))
def test_a_letter_is_always_one_of_the_options(text, options):
    for read in (letter, first_letter, exact_letter, option_text):
        assert read(text, options) in {None, *"ABCDE"[: len(options)]}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("No, there is none.", "no"),
        ("Yes. No.", "yes"),
        ("It is not a dog", "no"),
        ("No", "no"),
        ("no", "no"),
        ("NO", "yes"),
        ("no!", "yes"),
        ("No\n", "yes"),
        ("nope", "yes"),
        ("There isn't", "yes"),
        ("", "yes"),
        (None, "yes"),
    ],
)
def test_pope_label(text, label):
    assert pope_label(text) == label


def test_pope_rates():
    rates = pope_rates(["yes", "yes", "no", "no"], ["yes", "no", "Yes", "no"])
    assert (rates.accuracy, rates.precision, rates.recall, rates.f1, rates.yes_ratio) == (0.5,) * 5
    rates = pope_rates(["no", "no"], ["no", "no"])
    assert rates.accuracy == 1.0 and rates.precision == rates.recall == rates.f1 == 0.0
    assert pope_rates([], []).accuracy == 0.0
    with pytest.raises(DataError, match="got maybe"):
        pope_rates(["maybe"], ["yes"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pope_rates(["yes"], [])


labels = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(labels)
def test_pope_rates_equal_the_published_formulas(pairs):
    said = ["yes" if s else "no" for s, _ in pairs]
    truth = ["yes" if t else "no" for _, t in pairs]
    rates = pope_rates(said, truth)
    tp = sum(s and t for s, t in pairs)
    fp = sum(s and not t for s, t in pairs)
    fn = sum(not s and t for s, t in pairs)
    if tp:
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        assert rates.precision == pytest.approx(precision)
        assert rates.recall == pytest.approx(recall)
        assert rates.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert rates.f1 == 0.0
    assert rates.accuracy == pytest.approx(sum(s == t for s, t in pairs) / len(pairs))


@pytest.mark.parametrize(
    ("text", "answer", "official", "llava", "lmms"),
    [
        ("t-shirt", "t-shirt", 1, 1, 1),
        ("T-shirt.", "t-shirt", 0, 1, 1),
        ("tshirt", "t-shirt", 0, 0, 1),
        ("bird's nest", "bird's nest", 1, 1, 1),
        ("yes, it is", "yes", 0, 0, 0),
        ("", "yes", 0, 0, 0),
        (None, "yes", 0, 0, 0),
    ],
)
def test_gqa(text, answer, official, llava, lmms):
    assert gqa_match(text, answer) == official
    assert gqa_match(text, answer, "llava") == llava
    assert gqa_match(text, answer, "lmms") == lmms


def test_gqa_variant_must_exist():
    with pytest.raises(DataError, match="official or llava or lmms"):
        gqa_match("a", "a", "vlm")


@pytest.mark.parametrize(
    ("text", "ours", "vilas"),
    [
        ("There are 3 dogs and 2 cats", 3, "3"),
        ("Two.", 2, "Two."),
        ("two dogs", 2, "2"),
        ("None", 0, "None"),
        ("02", 2, "02"),
        ("twenty", 20, "20"),
        ("many", None, "many"),
        ("", None, ""),
        (None, None, ""),
        ("9" * 5000, None, "9" * 5000),
        ("\u0663", None, "\u0663"),
    ],
)
def test_numbers(text, ours, vilas):
    assert number(text) == ours
    assert vila_number(text) == vilas


def test_counts():
    assert count_match("two dogs", 2) == count_match("2", "two") == 1.0
    assert count_match("no idea", 0) == 0.0 and count_match("many", "many") == 0.0
    assert root_mean_square_error([2, 5, None], [2, 3, 1]) == pytest.approx((5 / 3) ** 0.5)
    with pytest.raises(DataError, match="no counts"):
        root_mean_square_error([], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        root_mean_square_error([1], [])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes.", "yes"),
        ("y", "yes"),
        ("N", "no"),
        ("No, it is", "no"),
        ("not sure", "no"),
        (" oh yes", "other"),
        ("I think so", "other"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_mme_label(text, label):
    assert mme_label(text) == label


def test_mme_scores():
    rows = [("count", "1", True), ("count", "1", True), ("count", "2", True), ("count", "2", False)]
    rows += [("code_reasoning", "1", True), ("code_reasoning", "1", True)]
    scores = mme_scores(rows)
    count = scores.categories["count"]
    assert (count.accuracy, count.accuracy_plus, count.score) == (0.75, 0.5, 125.0)
    assert (scores.perception, scores.cognition, scores.total) == (125.0, 200.0, 325.0)
    assert len(PERCEPTION) == 10 and len(COGNITION) == 4
    assert mme_scores([]).total == 0.0
    with pytest.raises(DataError, match=r"count: 3.*expected 2, got 1"):
        mme_scores([*rows, ("count", "3", True)])


def test_truth_value():
    assert truth_value("True.") is True and truth_value("The statement is false") is False
    assert truth_value("(Yes)") is True and truth_value("untrue") is None
    assert truth_value(None) is None and truth_value("\r") is None


ranked = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.booleans()), min_size=1, max_size=10
)


@given(ranked)
def test_roc_auc_counts_pairs(pairs):
    scores, truth = zip(*pairs, strict=True)
    high = [s for s, t in pairs if t]
    low = [s for s, t in pairs if not t]
    if high and low:
        won = sum((h > w) + (h == w) / 2 for h in high for w in low)
        assert roc_auc(scores, truth) == pytest.approx(won / len(high) / len(low))
    else:
        assert roc_auc(scores, truth) == 0.5


@given(ranked)
def test_average_precision_sums_over_thresholds(pairs):
    scores, truth = zip(*pairs, strict=True)
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [t for s, t in pairs if s >= threshold]
        recall = sum(taken) / sum(truth) if any(truth) else 0.0
        total += (recall - before) * sum(taken) / len(taken)
        before = recall
    assert average_precision(scores, truth) == pytest.approx(total)


def test_ranking_refuses_what_cannot_be_ranked():
    assert roc_auc([0.9, 0.8, 0.8, 0.1], [True, False, True, False]) == pytest.approx(0.875)
    assert average_precision([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    with pytest.raises(DataError, match="NaN"):
        roc_auc([float("nan")], [True])
    with pytest.raises(DataError, match="expected 0, got 1"):
        average_precision([1.0], [])


@settings(deadline=None)
@given(outputs)
def test_any_output_gives_a_label(text):
    assert pope_label(text) in ("yes", "no") and mme_label(text) in ("yes", "no", "other")
    assert truth_value(text) in (True, False, None)
    assert number(text) is None or number(text) >= 0
    assert gqa_match(text, "x", "lmms") in (0.0, 1.0)


def test_consistency_worked_example():
    right = {"q1": 1, "a": 1, "b": 0, "q2": 0, "c": 1, "q3": 1}
    entailed = {"q1": ["q1", "a", "b"], "q2": ["c"], "q3": ["c"]}
    assert gqa_consistency(right, entailed) == (0.75, 2)
    assert gqa_consistency({}, {}) == (0.0, 0)
    with pytest.raises(DataError, match="an answer to d"):
        gqa_consistency({"q1": 1}, {"q1": ["d"]})
