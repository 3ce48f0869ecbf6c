"""MMMU-Pro and MathVista: the publishers' rules, and the file that is handed on."""

import json
from pathlib import Path

import pytest
from asking import make, measured

from lucida.core.errors import DataError
from lucida.core.spec import EvaluationSpec
from lucida.data.sample import ImagePart
from lucida.eval.asking import Response
from lucida.eval.benchmarks import BENCHMARKS
from lucida.eval.metrics.choice import mmmu_pro_letter
from lucida.eval.metrics.mathvista import extract, normalise
from lucida.eval.run import evaluate_target

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/eval/reasoning.json").read_text(encoding="utf-8")
)


def test_letters_are_those_of_mmmu_pros_script():
    for text, options, expected in GOLDEN["mmmu_pro"]:
        assert mmmu_pro_letter(text, options) == expected, text


def test_answers_are_those_of_mathvistas_scripts():
    for text, kind, choices, expected in GOLDEN["mathvista_extract"]:
        assert extract(text, kind, choices) == expected, (text, kind, choices)
    for text, kind, choices, precision, expected in GOLDEN["mathvista_normalise"]:
        assert normalise(text, kind, choices, precision) == expected, (text, kind, choices)
    for odd in (None, 7, b"x", ["a"], "\ud83d", "9" * 5000):
        assert mmmu_pro_letter(odd, ["a", "b"]) in (None, "A", "B")
        extract(odd, "integer", [])
        normalise(str(odd), "float", [], 2)


def test_mmmu_pro_shows_pictures_where_text_and_options_have_them(published):
    pytest.importorskip("pyarrow")
    task = make("mmmu-pro", published)
    example = next(e for e in task.examples() if e.id.endswith("_0"))
    ((turn,),) = example.sample.branches
    shown = [part.index for part in turn.parts if isinstance(part, ImagePart)]
    assert shown == [0, 1, 2]
    colours = [source.load().getpixel((0, 0)) for source in example.sample.images]
    # The first picture named is image 1, the next image 3, in option A.
    assert [max(range(3), key=colour.__getitem__) for colour in colours] == [0, 2, 1]
    assert turn.parts[-1].endswith("Answer with the option letter from the given choices directly.")
    assert len(example.options) == 10 and example.kind == "Art and Design"
    scores, totals = measured(task, "I would say (B), so: Answer: B")
    assert sorted(scores.values()) == [0.0, 1.0] and totals["robust"] == 50.0
    scores, totals = measured(make("mmmu-pro", published), "nothing of that")
    assert set(scores.values()) == {0.0}, "where the script guesses, nothing is right"


def test_mmmu_pro_vision_shows_the_question_alone(published):
    pytest.importorskip("pyarrow")
    (example,) = make("mmmu-pro-vision", published).examples()
    assert len(example.sample.images) == 1 and "lens" not in example.question
    assert "'Answer: $LETTER'" in example.question and example.answers == ("C",)


def test_mathvista_asks_and_reads_as_its_publisher_does(published):
    task = make("mathvista", published)
    examples = {e.id: e for e in task.examples()}
    assert examples["mathvista/1"].question == (
        "Question: How long is it? (Unit: g)\nHint: Please answer the question requiring a "
        "floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, "
        "1.4, at the end.\nSolution:"
    )
    assert "Choices:\n(A) 6cm\n(B) 7cm\n(C) 4cm\nHint: " in examples["mathvista/3"].question
    said = {"mathvista/1": "1.21", "mathvista/2": "It is 4", "mathvista/3": "(A)"}
    scores, totals = measured(task, said)
    assert scores == {"mathvista/1": 1.0, "mathvista/2": 0.0, "mathvista/3": 0.0}
    assert totals["read by rules"] == pytest.approx(100 / 3)
    assert totals["without extraction"] == pytest.approx(200 / 3), "(A) is the first choice"
    assert (totals["multi_choice"], totals["free_form"]) == (0.0, 50.0)


def test_mathvista_hands_on_the_file_that_its_scripts_take(published, tmp_path):
    class Says:
        protocols, identity = ("generate",), {"name": "says"}

        def stream(self, examples, protocol, most):
            for number, example in enumerate(examples):
                yield number, Response(f"it is {example.id}")

        def read_box(self, text, width, height):
            return None

    spec = EvaluationSpec(data=str(published), baselines=[], samples=100)
    found = evaluate_target("x", lambda _: Says(), tmp_path / "out", spec, ["mathvista"])
    assert found["tasks"]["mathvista"]["score"] == 0.0
    rows = json.loads((tmp_path / "out" / found["answers"]["mathvista"]).read_text())
    given = json.loads((published / "mathvista/testmini.json").read_text())
    assert rows.keys() == given.keys()
    for pid, row in rows.items():
        assert row.pop("query").startswith("Question: How long is it?")
        assert row.pop("response") == f"it is mathvista/{pid}"
        assert row == given[pid], "choices, types, precision and metadata are what it scores by"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"answer_type": "float", "precision": 7}, "precision of 1 or 2"),
     ({"precision": "x", "answer_type": "float"}, "precision"),
     ({"choices": ["a", "b"]}, "multi_choice"),
     ({"answer_type": "tuple"}, "answer_type"),
     ({"question_type": "multi_choice", "choices": ["a", "b"], "answer_type": "text"},
      "one of the choices")],
)  # fmt: skip
def test_a_wrong_problem_is_explained(change, message, fresh):
    root = fresh(BENCHMARKS["mathvista"]())
    path = root / "mathvista/testmini.json"
    rows = json.loads(path.read_text())
    rows = {"2": rows["2"] | change}
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        make("mathvista", root).examples()
