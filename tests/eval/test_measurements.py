"""A smaller or other measurement never replaces the score of more questions."""

import json

import pytest

from lucida.apps.demo import show_scores
from lucida.core.errors import RunError
from lucida.core.results import Results, TaskScores, read_results
from lucida.core.runs import RunFolder, list_runs
from lucida.eval.difference import differences
from lucida.eval.gallery import gallery, predictions
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_run


def test_add_worked_example():
    def one(n, score, **rest):
        return {"n": n, "score": score, "prompts": "plain", **rest}

    def add(name, values):
        results.add(name, TaskScores.model_validate(values))
        return results.to_json()

    results = Results()
    assert add("t", one(1000, 0.5)) == {"tasks": {"t": one(1000, 0.5)}, "seconds": {}}
    both = add("t", one(60, 0.7))
    assert both["tasks"] == {"t": one(1000, 0.5)} and both["others"] == {"t": [one(60, 0.7)]}
    add("t", one(1000, 0.6))
    both = add("t", one(60, 0.8))
    assert both["tasks"] == {"t": one(1000, 0.6)} and both["others"] == {"t": [one(60, 0.8)]}
    add("t", one(60, 0.9, think=True))
    found = add("t", one(100, 0.1))
    assert [each["n"] for each in found["others"]["t"]] == [100, 60, 60]
    found = add("t", one(2000, 0.4))
    assert found["tasks"]["t"]["n"] == 2000
    assert [each["n"] for each in found["others"]["t"]] == [1000, 100, 60, 60]
    found = add("u", one(1, 0.0))
    assert set(found["tasks"]) == {"t", "u"} and set(found["others"]) == {"t"}


def test_what_an_older_file_holds_stays(tmp_path):
    """Names in the file are the first versions'; keys of others are kept as they are."""
    told = {
        "tasks": {"t": {"score": 0.5, "way": "likelihood", "ways": {"generate": {"score": 0.4}},
                        "interval": [0.4, 0.6], "mine": {"a": 1}}},
        "seconds": {"train": 2.0},
        "note": "by hand",
    }  # fmt: skip
    run = RunFolder(tmp_path)
    run.write_results(told)
    results = read_results(run.results, run.results_file)
    assert (results.tasks["t"].protocol, results.tasks["t"].count) == ("likelihood", 0)
    assert results.tasks["t"].protocols["generate"].score == 0.4
    run.write_results(results)
    assert run.results.to_json() == told
    with pytest.raises(RunError, match=r"tasks\.t\.score"):
        run.write_results({"tasks": {"t": {"score": "high"}}})


def test_fewer_questions_stand_beside(run, capsys):
    whole = evaluate_run(run.path, ["attribute", "caption"], 40)["tasks"]
    rows = {task: predictions(run.path, task).read() for task in whole}
    results = evaluate_run(run.path, ["attribute", "caption"], 12)
    assert results == json.loads(run.results_file.read_text())
    assert results["tasks"] == whole
    (few,) = results["others"]["attribute"]
    assert few["n"] == 12 and few["score"] != whole["attribute"]["score"]
    # Captions among 12 have other weights; the rows behind the score of 40 stay.
    assert {task: predictions(run.path, task).read() for task in whole} == rows
    assert len(run.asked["run"][-1]) == 0
    html = run.report_file.read_text()
    assert f"also {100 * few['score']:.1f} on 12 questions" in html
    assert "40 asked" in html and "12 asked" not in html
    capsys.readouterr()
    show_scores(Results.model_validate(results))
    told = "".join(capsys.readouterr())
    assert f"attribute: also {100 * few['score']:.1f} on 12 questions" in told
    (listed,) = [each for each in list_runs(run.path.parent) if each.path == run.path]
    assert listed.scores == {name: task["score"] for name, task in whole.items()}
    assert [each.gain.n for each in differences(run.path, run.path)] == [40, 40]
    again = evaluate_run(run.path, ["attribute", "caption"], 40)
    assert again["tasks"] == whole and again["others"] == results["others"]


def test_other_words_have_answers_of_their_own(run):
    whole = evaluate_run(run.path, ["attribute"], 40)["tasks"]["attribute"]
    rows = predictions(run.path, "attribute").read()
    results = evaluate_run(run.path, ["attribute"], 10, Options(prompts="llava"))
    assert results["tasks"]["attribute"] == whole
    (other,) = results["others"]["attribute"]
    assert (other["prompts"], other["n"], other["predictions"]) == (
        "llava", 10, "attribute.llava",
    )  # fmt: skip
    assert predictions(run.path, "attribute").read() == rows
    short = "Answer the question using a single word or phrase."
    assert all(short in row["prompt"] for row in predictions(run.path, "attribute.llava").read())
    assert "on 10 questions (prompts llava)" in run.report_file.read_text()
    assert not any(short in shot.question for shot in gallery(run.path, "attribute"))
    with_reasoning = evaluate_run(run.path, ["attribute"], 10, Options(think=True))
    assert with_reasoning["tasks"]["attribute"] == whole
    assert "(thinking step by step)" in run.report_file.read_text()


def test_more_questions_become_the_score(run):
    few = evaluate_run(run.path, ["attribute"], 10, Options(shots=(1,), seeds=1))["tasks"]
    results = evaluate_run(run.path, ["attribute"], 30)
    task = results["tasks"]["attribute"]
    assert task["n"] == 30 and task["shots"] == few["attribute"]["shots"]
    assert results["others"]["attribute"] == [few["attribute"]]


def test_scores_of_other_weights_go(run):
    evaluate_run(run.path, ["attribute"], 40)
    evaluate_run(run.path, ["attribute"], 10)
    (run.path / "model.safetensors").write_bytes(b"other weights")
    results = evaluate_run(run.path, ["attribute"], 5)
    assert results["tasks"]["attribute"]["n"] == 5 and "others" not in results


def test_scores_that_are_no_numbers_are_told(run, monkeypatch):
    from lucida.eval.benchmarks.world import WorldBenchmark

    monkeypatch.setattr(WorldBenchmark, "scores", lambda *_: [0.5, float("nan"), 1.0])
    with pytest.raises(RunError, match=r"1 of 3 scores of attribute are not finite numbers.*nan"):
        evaluate_run(run.path, ["attribute"], 3)


def test_a_task_without_examples_is_told(run, monkeypatch):
    from lucida.eval.benchmarks.world import WorldBenchmark

    monkeypatch.setattr(WorldBenchmark, "examples", lambda *_: [])
    with pytest.raises(RunError, match="attribute has no examples"):
        evaluate_run(run.path, ["attribute"], 3)
    assert run.asked == {}
