"""Many questions from Python and from a file: answers in order, resumed, and bad rows told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import picture, tiny_model

import lucida
from lucida.apps.answering import check_named
from lucida.apps.ask import main, read_question
from lucida.core.errors import DataError, RunError
from lucida.eval.questions import samples_of
from lucida.model.checkpoint import save
from lucida.model.decode import greedy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "run"
    save(*tiny_model(), folder)
    return folder


@pytest.fixture
def questions(tmp_path):
    picture(1).save(tmp_path / "one.png")
    rows = [
        {"image": "one.png", "question": "what is it?", "id": "a"},
        {"question": "and without an image?"},
        {"images": ["one.png", "one.png"], "question": "are they the same?"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_answers_are_those_of_asking_one_by_one():
    model = tiny_model()
    asked = [(picture(1), "what is it?"), "and you?", ([picture(1), picture(2)], "which?")]
    answers = lucida.ask(model, asked, max_new_tokens=5)
    for question, answer in zip(asked, answers, strict=True):
        assert answer.text == greedy(*model, samples_of([question]), 5)[0].strip()
        assert len(answer.log_probabilities) == len(answer.tokens) + answer.ended
        assert answer.log_probability == pytest.approx(sum(answer.log_probabilities))
    assert dict(lucida.stream_answers(model, asked, 5)) == dict(enumerate(answers))


def test_likelihoods_are_one_list_for_each_question():
    model = tiny_model()
    found = lucida.likelihoods(model, [(picture(1), "red?"), "blue?"], [["yes", "no"], ["a"]])
    assert [len(each) for each in found] == [2, 1]
    (alone,) = lucida.likelihoods(model, [(picture(1), "red?")], [["yes", "no"]])
    assert [o.whole for o in found[0]] == pytest.approx([o.whole for o in alone], abs=1e-4)
    with pytest.raises(DataError, match="one list for each question"):
        lucida.likelihoods(model, ["red?"], [])


@pytest.mark.parametrize("question", ["", (None, 3), 4, (picture(1), " ")])
def test_what_is_no_question_is_named(question):
    with pytest.raises(DataError, match="question 2"):
        samples_of(["fine", question])


def test_a_file_is_answered_in_its_order_and_read_back(run, questions, tmp_path, monkeypatch):
    out = tmp_path / "answers.jsonl"
    main(run, questions, out, 5)
    rows = read(out)
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert [row["input"] for row in rows] == read(questions)
    expected = lucida.ask(run, [(tmp_path / "one.png", "what is it?")], 5)[0]
    assert rows[0]["answer"] == expected.text
    assert rows[0]["log_probability"] == pytest.approx(expected.log_probability, abs=1e-4)
    out.write_text("".join(json.dumps(row) + "\n" for row in (rows[2], rows[0])), encoding="utf-8")
    asked = []
    stream = lucida.stream_answers
    monkeypatch.setattr(
        "lucida.eval.questions.stream_answers",
        lambda model, those, *more: asked.extend(those) or stream(model, those, *more),
    )
    main(run, questions, out, 5)
    assert asked == ["and without an image?"]
    assert [row["answer"] for row in read(out)] == [row["answer"] for row in rows]


def test_a_name_that_begins_like_an_address_is_a_name(tmp_path):
    row = {"image": "http-logo.png", "question": "what is it?"}
    assert read_question(row, "row 1", tmp_path) == ([tmp_path / "http-logo.png"], "what is it?")
    check_named("http-run", None)
    with pytest.raises(RunError, match="serves models by name"):
        check_named("http://127.0.0.1:1/v1", None)


def test_a_bad_row_is_told_and_asked_again(run, questions, tmp_path):
    good = questions.read_text(encoding="utf-8")
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    bad = [{"text": "no question"}, {"image": "torn.png", "question": "what is it?"}]
    questions.write_text(good + "".join(json.dumps(row) + "\n" for row in bad), encoding="utf-8")
    out = tmp_path / "answers.jsonl"
    with pytest.raises(DataError, match="2 of 5 rows could not be asked"):
        main(run, questions, out, 5)
    rows = read(out)
    assert [row["row"] for row in rows if "answer" in row] == [1, 2, 3]
    assert "torn.png" in rows[4]["error"]
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes())
    with pytest.raises(DataError, match="1 of 5 rows"):
        main(run, questions, out, 5)
    assert "answer" in read(out)[4]


def test_answers_to_other_questions_are_not_mixed(run, questions, tmp_path):
    out = tmp_path / "answers.jsonl"
    main(run, questions, out, 5)
    with pytest.raises(RunError, match="another model or to other questions"):
        main(run, questions, out, 6)
    questions.write_text('{"question": "something else"}\n', encoding="utf-8")
    before = out.read_bytes()
    with pytest.raises(RunError, match="another model or to other questions"):
        main(run, questions, out, 5)
    assert out.read_bytes() == before
