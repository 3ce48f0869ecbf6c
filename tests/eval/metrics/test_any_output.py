"""Every scorer takes whatever came back: it scores, usually 0, and never raises."""

import inspect
import pkgutil
import sys
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lucida.eval.metrics
from lucida.core.errors import DataError
from lucida.eval.metrics import (
    answers,
    boxes,
    captions,
    choice,
    counting,
    documents,
    drop,
    exact,
    gqa,
    groups,
    mathvista,
    mentions,
    mme,
    outputs,
    pathvqa,
    pope,
    ptb,
    refusals,
    relaxed,
    textvqa,
    vqa,
    yesno,
)

TEN = ["red"] * 6 + ["maroon"] * 4
PETS = ["cat", "dog"]
SCORERS = {
    outputs.as_text: lambda o: outputs.as_text(o),
    answers.clean: lambda o: answers.clean(o),
    answers.normalise: lambda o: answers.normalise(o),
    answers.normalise_lmms: lambda o: answers.normalise_lmms(o),
    answers.normalise_m4c: lambda o: answers.normalise_m4c(o),
    answers.normalise_vizwiz: lambda o: answers.normalise_vizwiz(o),
    boxes.as_box: lambda o: boxes.as_box(o),
    boxes.box_hit: lambda o: boxes.box_hit(o, (0, 0, 1, 1)),
    captions.score_captions: lambda o: captions.score_captions([o, "a"], [["a cat"], ["a"]]),
    choice.exact_letter: lambda o: choice.exact_letter(o, PETS),
    choice.first_letter: lambda o: choice.first_letter(o, PETS),
    choice.letter: lambda o: choice.letter(o, PETS),
    choice.mmmu_pro_letter: lambda o: choice.mmmu_pro_letter(o, PETS),
    choice.mmstar_letter: lambda o: choice.mmstar_letter(o, PETS),
    choice.option_text: lambda o: choice.option_text(o, PETS),
    counting.count_match: lambda o: counting.count_match(o, 2),
    counting.number: lambda o: counting.number(o),
    counting.vila_number: lambda o: counting.vila_number(o),
    documents.ocrbench_match: lambda o: documents.ocrbench_match(o, ["stop"]),
    documents.rrc_anls: lambda o: documents.rrc_anls(o, ["stop"]),
    drop.drop_score: lambda o: drop.drop_score(o, ["3", ["red", "blue"]]),
    drop.normalise: lambda o: drop.normalise(o),
    exact.contains_answer: lambda o: exact.contains_answer(o, ["a b"]),
    exact.exact_match: lambda o: exact.exact_match(o, ["a"]),
    exact.normalise: lambda o: exact.normalise(o),
    gqa.gqa_match: lambda o: [gqa.gqa_match(o, "a", v) for v in gqa.VARIANTS],
    groups.amber_label: lambda o: groups.amber_label(o),
    groups.naturalbench_label: lambda o: groups.naturalbench_label(o, "yes_no"),
    mentions.find_mentions: lambda o: mentions.find_mentions(o),
    mentions.chair_scores: lambda o: mentions.chair_scores([o], [[{"word": "stop"}]]),
    mathvista.extract: lambda o: [
        mathvista.extract(o, kind, PETS) for kind in ("integer", "float", "list", "text")
    ],
    mme.mme_label: lambda o: mme.mme_label(o),
    pathvqa.bleu: lambda o: pathvqa.bleu([o], ["the liver"]),
    pathvqa.exact_match: lambda o: pathvqa.exact_match(o, "the liver"),
    pathvqa.normalise: lambda o: pathvqa.normalise(o),
    pathvqa.published_scores: lambda o: pathvqa.published_scores(o, "the liver"),
    pathvqa.token_f1: lambda o: pathvqa.token_f1(o, "the liver"),
    pathvqa.token_recall: lambda o: pathvqa.token_recall(o, "the liver"),
    pathvqa.yes_no_score: lambda o: pathvqa.yes_no_score(o, "yes"),
    pope.pope_label: lambda o: pope.pope_label(o),
    ptb.tokenize: lambda o: ptb.tokenize(o),
    ptb.tokenize_lines: lambda o: ptb.tokenize_lines([o, "12th Ave S.", o]),
    refusals.vlguard_refusal: lambda o: refusals.vlguard_refusal(o),
    relaxed.relaxed_accuracy: lambda o: relaxed.relaxed_accuracy(o, ["10", "red"]),
    relaxed.relaxed_match: lambda o: relaxed.relaxed_match(o, "10"),
    documents.anls: lambda o: documents.anls(o, ["stop"]),
    textvqa.m4c_score: lambda o: textvqa.m4c_score(o, TEN),
    vqa.okvqa_score: lambda o: [vqa.okvqa_score(o, TEN, v) for v in vqa.VARIANTS],
    vqa.vizwiz_score: lambda o: [vqa.vizwiz_score(o, TEN, v) for v in vqa.VARIANTS],
    vqa.vqa_score: lambda o: [vqa.vqa_score(o, TEN, v) for v in vqa.VARIANTS],
    yesno.truth_value: lambda o: yesno.truth_value(o),
}
"""Each function of the metrics that takes an output, and a call of it."""

ODD = [
    None, True, 0, 3, -1, 2.5, float("nan"), float("inf"), 10**5000, 10**400, b"Two.", b"\xff\x00",
    bytearray(b"B"), [], ["B"], [None, 3, b"x", ["y"]], ("a", "b"), {}, {"answer": "B"}, {"B"},
    object(), 1j, "\ud83d", "a \udc00 B", "\x00", "\u2028", "\u0130 the answer is B", "\ufdfa" * 50,
]  # fmt: skip
LONG = [
    "B " * 50_000, "answer is " * 20_000, "\\boxed{" * 20_000, "*" * 200_000, "yes. " * 40_000,
    "9" * 100_000, "\n" * 100_000, "'" * 100_000, "(" * 100_000, "the answer is a " * 10_000,
]  # fmt: skip
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=20),
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.text("ABab answeriot:.*()[]{}\\'\"_-\n\ud83d", max_size=40),
    st.lists(st.one_of(st.none(), st.text(max_size=5), st.integers()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)


def test_the_table_holds_every_function_that_takes_an_output():
    """By the names that outputs have in the metrics."""
    found = set()
    for module in pkgutil.iter_modules(lucida.eval.metrics.__path__):
        name = f"{lucida.eval.metrics.__name__}.{module.name}"
        for _, function in inspect.getmembers(import_module(name), inspect.isfunction):
            parameters = list(inspect.signature(function).parameters.values())
            takes = parameters and parameters[0].annotation in ("object", "Sequence[object]")
            if takes and not function.__name__.startswith("_"):
                found.add(function)
    java = {f for f in found if f.__module__.endswith("java_captions")}  # needs another program
    assert found - java == set(SCORERS)


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=[f.__qualname__ for f in SCORERS])
def test_odd_outputs_score(scorer):
    for output in ODD:
        scorer(output)


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=[f.__qualname__ for f in SCORERS])
def test_long_outputs_score(scorer):
    for output in LONG:
        scorer(output)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_any_output_scores(output):
    for scorer in SCORERS.values():
        scorer(output)


def test_what_is_no_text_counts_as_it_says():
    assert exact.exact_match(2, ["two"]) == exact.exact_match(b"Two.", ["2"]) == 1.0
    assert exact.exact_match(None, ["none"]) == exact.exact_match(float("nan"), ["nan"]) == 0.0
    assert counting.count_match(3, 3) == 1.0 and counting.number(True) is None
    assert outputs.as_text(["B"]) == outputs.as_text(10**5000) == ""
    assert sys.get_int_max_str_digits()  # what makes the long integer no text


@pytest.mark.parametrize(
    "scorer",
    [
        exact.exact_match,
        exact.contains_answer,
        relaxed.relaxed_accuracy,
        documents.anls,
        documents.rrc_anls,
        documents.ocrbench_match,
        textvqa.m4c_score,
        vqa.vqa_score,
        vqa.okvqa_score,
        vqa.vizwiz_score,
    ],
)
def test_references_are_a_list_of_texts(scorer):
    for wrong in (None, 3, "red", [None] * 10, [["red"]] * 10, [float("nan")] * 10):
        with pytest.raises(DataError, match="references"):
            scorer("red", wrong)
    assert scorer("2", [2] * 10) == scorer("2", ["2"] * 10) == 1.0


@pytest.mark.parametrize("options", [None, 5, "AB", [], ["x"] * 27, {1: "x"}, {"a": "x"}, {}])
def test_options_are_a_list_of_texts_or_by_letter(options):
    with pytest.raises(DataError):
        choice.letter("B", options)
