"""Benchmarks of 2020 to 2024 with known answers: what each official rule gives."""

import pytest
from asking import make, measured

pyarrow = pytest.importorskip("pyarrow")


def by_answer(task, wrong=()):
    """The true answer to every example but those whose id ends so."""
    said = {}
    for example in task.examples():
        missed = example.id.endswith(tuple(wrong)) if wrong else False
        said[example.id] = "nothing of it" if missed else example.answer
    return said


def test_docvqa_divides_by_the_longer_text_as_it_was_written(published):
    task = make("docvqa", published)
    scores, totals = measured(task, "university of  california")
    # One letter more was written than the truth has: the space that does not count.
    assert scores["docvqa/49154"] == 1.0
    assert scores["docvqa/49153"] == 0.0
    assert totals == {"table/list": 0.0, "form": 100.0, "layout": 100.0}
    scores, _ = measured(make("docvqa", published), "Universty of Californa")
    assert scores["docvqa/49154"] == pytest.approx(1 - 2 / 24)


def test_infovqa_is_told_apart_by_where_answers_come_from(published):
    _, totals = measured(make("infovqa", published), "4")
    assert totals == {"non-extractive": 100.0, "single span": 0.0}


def test_chartqa_is_the_mean_of_its_halves(published):
    task = make("chartqa", published)
    answers = {"human/0": "14.7", "human/1": "0.44", "augmented/0": "yes", "augmented/1": "44"}
    said = {e.id: next(t for n, t in answers.items() if e.id.endswith(n)) for e in task.examples()}
    scores, totals = measured(task, said)
    assert sorted(scores.values()) == [0.0, 1.0, 1.0, 1.0], "44 is no part of 45%"
    assert totals == {"human": 100.0, "augmented": 50.0, "average": 75.0}
    assert len(task.train_examples()) == 4


def test_ocrbench_counts_what_contains_the_answer(published):
    task = make("ocrbench", published)
    scores, totals = measured(
        task,
        {"ocrbench/0": "the word is centre.", "ocrbench/1": "on 1/8/1993", "ocrbench/2": "X+1"},
    )
    assert scores == {"ocrbench/0": 1.0, "ocrbench/1": 1.0, "ocrbench/2": 0.0}
    assert totals["final score"] == 2.0
    assert totals["Text Recognition"] == totals["Regular Text Recognition"] == 1.0
    assert {e.question for e in task.examples()} == {"what is written in the image?"}


def test_textcaps_has_a_picture_once_with_all_its_captions(published):
    task = make("textcaps", published)
    assert sorted(len(e.answers) for e in task.examples()) == [2, 2]
    scores, _ = measured(task, {e.id: e.answers[0] for e in task.examples()})
    assert min(scores.values()) > 1


def test_mmstar_reads_the_beginning_only(published):
    task = make("mmstar", published)
    assert task.examples()[0].options == ("A", "B", "C")
    for said, right in {"B": 1, "(b) an eye": 1, "option B": 1, "The answer is B": 1,
                        "It is B": 0, "an eye": 0, "a B": 0}.items():  # fmt: skip
        scores, totals = measured(make("mmstar", published), said)
        assert set(scores.values()) == {float(right)}, said
    assert set(totals) == {"fine-grained perception", "math", "object counting", "robust"}
    scores, totals = measured(make("mmstar", published), "I see two, so the answer is **B**.")
    assert set(scores.values()) == {0.0} and totals["robust"] == 100.0, "another rule, its own name"


def test_realworldqa_wants_the_answer_and_nothing_else(published):
    task = make("realworldqa", published)
    kinds = {e.answer: (e.kind, e.options) for e in task.examples()}
    assert kinds == {"B": ("choice", ("A", "B")), "Two": ("open", ())}
    scores, _ = measured(task, {e.id: f" {e.answer.upper()}." for e in task.examples()})
    assert set(scores.values()) == {1.0}
    scores, totals = measured(task, "The answer is B")
    assert set(scores.values()) == {0.0} and totals["robust"] == 50.0
    assert measured(task, "2")[1]["robust"] == 50.0


def test_cv_bench_is_the_mean_of_2d_and_3d_where_2d_is_the_mean_of_its_sources(published):
    task = make("cv-bench", published)
    said = {}
    for example in task.examples():
        source = example.details["source"]
        said[example.id] = {"ADE20K": example.answer, "COCO": "A", "Omni3D": "B"}[source]
    scores, totals = measured(task, said)
    assert (totals["ADE20K"], totals["COCO"], totals["Omni3D"]) == (100.0, 50.0, 0.0)
    assert (totals["2D"], totals["3D"], totals["CV-Bench"]) == (75.0, 0.0, 37.5)
    assert sum(scores.values()) / len(scores) == 0.5


def test_blink_is_the_mean_of_its_kinds(published):
    task = make("blink", published)
    assert {len(e.sample.images) for e in task.examples()} == {2}
    scores, totals = measured(task, "(A) the first")
    assert sum(scores.values()) == 14 and len(scores) == 15
    assert totals["Counting"] == 50.0 and totals["Total"] == pytest.approx(100 * 13.5 / 14)


def test_mmvp_counts_pairs(published):
    task = make("mmvp", published)
    assert [e.cluster for e in task.examples(2)] == [task.examples(1)[0].cluster] * 2
    right = by_answer(task, wrong=["/4"])
    scores, totals = measured(task, right)
    assert sum(scores.values()) == 3
    assert totals == {"pairs": 50.0, "questions": 75.0}
    options = {e.details["choices"] for e in task.examples()}
    assert options == {("Open", "Closed")}


def test_naturalbench_counts_groups(published):
    task = make("naturalbench", published)
    assert all(e.question.endswith(("Yes or No.", "correct option.")) for e in task.examples())
    scores, totals = measured(task, by_answer(task, wrong=["0/01"]))
    assert sum(scores.values()) == 7
    assert totals == {"Acc": 87.5, "Q_Acc": 75.0, "I_Acc": 75.0, "G_Acc": 50.0}


def test_hallusion_bench_counts_questions_figures_and_all(published):
    task = make("hallusion-bench", published)
    assert sum(not e.sample.images for e in task.examples()) == 1
    # VS without its figure is wrong: it counts for its question, and for no figure.
    scores, totals = measured(task, by_answer(task, wrong=["VS_map_0/0_0"]))
    assert sum(scores.values()) == 5
    assert totals["aAcc"] == pytest.approx(100 * 5 / 6)
    assert totals["qAcc"] == pytest.approx(100 * 2 / 3)
    assert totals["fAcc"] == 100.0


def test_amber_takes_yes_and_no_and_nothing_else(published):
    task = make("amber", published)
    kinds = {e.id: e.kind for e in task.examples()}
    assert sorted(kinds.values()) == ["action", "existence", "number", "relation", "state"]
    scores, totals = measured(task, "no.")
    assert set(scores.values()) == {0.0} and totals["F1"] == 0.0
    assert totals["first word accuracy"] == 60.0
    scores, totals = measured(make("amber", published), "No")
    assert totals["accuracy"] == totals["precision"] == 60.0 and totals["recall"] == 100.0
    assert totals["F1"] == pytest.approx(100 * 2 * 0.6 / (1.6 + 1e-4))


def test_medical_questions_are_closed_or_open(published):
    task = make("vqa-rad", published)
    scores, totals = measured(task, "yes, in the left lung")
    by_truth = {e.answer: scores[e.id] for e in task.examples()}
    assert by_truth == {"yes": 1.0, "left lung": 0.0, "in the left lung": 1.0}
    assert (totals["closed"], totals["open"], totals["open exact match"]) == (50.0, 100.0, 0.0)
    assert [e.answer for e in task.train_examples()] == ["no"]
    slake = make("slake", published)
    scores, totals = measured(slake, "the liver")
    assert len(scores) == 2, "Chinese questions are left out"
    assert (totals["closed"], totals["open"]) == (0.0, 50.0)
