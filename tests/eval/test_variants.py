"""The same task asked otherwise: baselines, demonstrations, likelihoods, aloud; and the difference
between two evaluations."""

import json
import shutil

import pytest

import lucida.eval.run
from lucida.apps.demo import show_scores
from lucida.core.errors import RunError
from lucida.data.sample import BoxPart, ImagePart
from lucida.eval.benchmarks import benchmark
from lucida.eval.difference import differences, tasks_of_one, write_page
from lucida.eval.few_shot import add_demonstrations, chosen, spread
from lucida.eval.gallery import extremes, predictions
from lucida.eval.plan import (
    THINK_TOKENS,
    Options,
    Variant,
    read_conclusion,
    remove_pictures,
    shuffle_pictures,
    with_reasoning,
)
from lucida.eval.run import evaluate_run
from lucida.eval.store import ScoredResponses
from lucida.eval.summary import summarise


def test_pictures_removed_and_shuffled():
    examples = benchmark("comparison").examples(30)
    for before, after in zip(examples, map(remove_pictures, examples), strict=True):
        assert after.sample.images == ()
        assert not any(isinstance(p, ImagePart) for t in after.sample.stem for p in t.parts)
        assert after.sample.branches == before.sample.branches
    wrong = shuffle_pictures(examples, 3)
    assert wrong == shuffle_pictures(examples, 3) != shuffle_pictures(examples, 4)
    keys = [tuple(s.key for s in e.sample.images) for e in examples]
    other = [tuple(s.key for s in e.sample.images) for e in wrong]
    assert all(a != b for a, b in zip(keys, other, strict=True))
    assert set(keys) == set(other)
    assert len(set(zip(keys, other, strict=True))) == len(set(keys)), (
        "a picture's questions stay together"
    )


def test_thinking_aloud():
    example = benchmark("attribute").examples(1)[0]
    loud = with_reasoning(example)
    assert loud.sample.branches[0][-1].parts[-1].endswith("step by step.")
    assert loud.question.endswith("step by step.")
    told = benchmark("spatial")  # its models were taught to point before they judge
    example = with_reasoning(told.examples(1)[0], told.reasoning)
    question = f"point first. {told.examples(1)[0].question}"
    assert example.question == question == example.sample.branches[0][-1].parts[-1]
    assert read_conclusion("First.\nThe answer is: red.\n") == "red.\n"
    assert read_conclusion("a\nred\n\n") == "red"
    assert read_conclusion("") == ""
    assert read_conclusion("<think>The answer is red. Or not.</think>\nblue") == "blue"
    assert read_conclusion("<think>The answer is red, or") == ""


def test_reasoning_has_room(run, monkeypatch):
    """A task's own limit is that of a bare answer."""
    longest = []
    load = lucida.eval.run.load_answerer

    def loud(path):
        answerer = load(path)
        stream = answerer.stream
        answerer.stream = lambda e, protocol, new: longest.append(new) or stream(e, protocol, new)
        return answerer

    monkeypatch.setattr("lucida.eval.run.load_answerer", loud)
    evaluate_run(run.path, ["attribute"], 4)
    evaluate_run(run.path, ["attribute"], 4, Options(think=True))
    usual = run.recipe.evaluation.max_new_tokens
    assert longest == [usual, usual, THINK_TOKENS, THINK_TOKENS]  # each time the blind one too


@pytest.mark.parametrize("name", ["attribute", "comparison", "boxes"])
def test_demonstrations_are_interleaved_in_order(name):
    task = benchmark(name)
    examples = task.examples(6)
    asked = add_demonstrations(task, examples, 2, seed=1)
    for before, after in zip(examples, asked, strict=True):
        (turns,) = after.sample.branches
        roles = [turn.role for turn in turns]
        assert roles[-1] == "user"
        assert roles.count("assistant") == 2
        shown = [p.index for turn in turns for p in turn.parts if isinstance(p, ImagePart)]
        assert shown == list(range(3 * len(before.sample.images))), "each once, in order"
        assert after.sample.images[-len(before.sample.images) :] == before.sample.images
        answers = [turn.parts[0] for turn in turns if turn.role == "assistant"]
        if name == "boxes":
            assert [box.index for box in answers if isinstance(box, BoxPart)] == [0, 1]
        else:
            assert all(answers)
        assert before.question in after.question
    again = add_demonstrations(task, examples[3:], 2, seed=1)
    prompts = [each.question for each in asked]
    assert [each.question for each in again] == prompts[3:], "the same whatever else is asked"
    assert [each.question for each in add_demonstrations(task, examples, 2, seed=2)] != prompts


def test_no_demonstration_shows_the_questions_picture():
    example = benchmark("attribute").examples(1)[0]
    pool = [example, *benchmark("attribute").train_examples(3)]
    assert all(example is not each for each in chosen(pool, example, 3, 0))
    with pytest.raises(RunError, match="other pictures"):
        chosen(pool, example, 4, 0)
    assert spread([0.5, 0.7, 0.6]) == {
        "mean": pytest.approx(0.6), "sd": pytest.approx(0.1), "scores": [0.5, 0.7, 0.6]
    }  # fmt: skip
    assert spread([0.5])["sd"] is None


def test_everything_beside_a_score(run):
    recipe = run.recipe_file.read_text().replace("baselines: []", "baselines: [removed, shuffled]")
    run.recipe_file.write_text(recipe)
    options = Options(("generate", "likelihood"), shots=(0, 2), seeds=3)
    results = evaluate_run(run.path, ["attribute"], 40, options)
    task = results["tasks"]["attribute"]
    removed, wrong = task["baselines"]["removed"], task["baselines"]["shuffled"]
    assert removed["score"] < 0.3 < wrong["score"], "this model only needs some picture"
    assert removed["gain"]["mean"] == pytest.approx(task["score"] - removed["score"])
    assert removed["gain"]["interval"][0] > 0
    assert task["floor"] is False
    assert set(task["ways"]) == {"generate", "likelihood"}
    by = task["ways"]["likelihood"]["by"]
    assert by["whole"] == by["normalised"] == task["ways"]["likelihood"]["score"] != by["first"]
    assert len(task["shots"]["2"]["scores"]) == 3
    assert "0" not in task["shots"]
    with_pictures = {count for _, count in run.asked["run"][0]}
    assert with_pictures == {0, 1, 3}
    page = run.report_file.read_text()
    assert "pictures removed" in page
    assert "2-shot" in page
    asked = len(run.asked["run"][0])
    assert evaluate_run(run.path, ["attribute"], 40, options)["tasks"] == results["tasks"]
    assert run.asked["run"][1] == []
    assert asked == 40 * (1 + 1 + 2 + 3)
    kept = evaluate_run(run.path, ["attribute"], 40)["tasks"]["attribute"]
    assert kept["shots"] == task["shots"]


def test_a_result_at_the_floor_is_marked(run):
    for path in (run.path, run.path / "blind"):
        (path / "model.safetensors").write_bytes(b"new")
    results = evaluate_run(run.path / "blind", ["presence"], 40)
    assert results["tasks"]["presence"]["floor"] is True


def test_questions_about_one_picture_prove_nothing():
    task = benchmark("attribute")
    for count, floor in ((5, True), (10, False)):
        examples = task.examples(count)
        words = [example.answers[0] for example in examples]
        right = ScoredResponses(words, words, [1.0] * count, [{}] * count, [None] * count)
        found = summarise(task, examples, right, None, 200, 0)
        assert found["score"] == 1 > max(found["chance"], found["majority"])
        assert (found["clusters"], found["floor"]) == (count // 5, floor)


def test_unknown_duplicate_and_damaged_rows_are_refused(run):
    evaluate_run(run.path, ["attribute"], 10)
    file = run.path / "predictions" / "attribute.jsonl"
    whole = file.read_text()
    first = whole.splitlines(keepends=True)[0]
    file.write_text(whole + first)
    with pytest.raises(RunError, match="row 11 answers a question again"):
        evaluate_run(run.path, ["attribute"], 10)
    row = json.loads(first) | {"id": "nowhere/0"}
    file.write_text(whole + json.dumps(row) + "\n")
    with pytest.raises(RunError, match=r"no such example.*nowhere/0"):
        evaluate_run(run.path, ["attribute"], 10)
    for damaged in ('{"id": "x"}', "[1]", "7", "null"):
        file.write_text(f"{whole}{damaged}\n")
        with pytest.raises(RunError, match=r"row 11 is no prediction|line 11 is not a JSON object"):
            evaluate_run(run.path, ["attribute"], 10)
    file.write_text(whole)
    (file.parent / "settings.json").write_text('{"weights"')
    with pytest.raises(RunError, match=r"settings\.json: this file is damaged.*delete it"):
        evaluate_run(run.path, ["attribute"], 10)
    assert file.read_text() == whole, "no answer is thrown away unasked"


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: None,
        lambda found: [-1.0, -2.0],
        lambda found: {"whole": found["whole"]},
        lambda found: found | {"first": found["first"][:-1]},
        lambda found: found | {"whole": ["a", *found["whole"][1:]]},
        lambda found: found | {"normalised": 7},
    ],
)
def test_likelihoods_of_another_shape_are_refused(run, damage):
    asked = Options(("likelihood",))
    evaluate_run(run.path, ["presence"], 5, asked)
    file = run.path / "predictions" / "presence.likelihood.jsonl"
    stored = [json.loads(line) for line in file.read_text().splitlines()]
    stored[2]["likelihoods"] = damage(stored[2]["likelihoods"])
    file.write_text("".join(json.dumps(row) + "\n" for row in stored))
    with pytest.raises(RunError, match=r"row 3 has other likelihoods.*for each of whole, first"):
        evaluate_run(run.path, ["presence"], 5, asked)


def test_odd_outputs_survive_the_disk(run, monkeypatch):
    odd = [
        "",
        "half \ud83d",
        "a\rb",
        "line\u2028sep",
        "\x00\U0001f600 ",
        "x" * 100_000,
        '"}\n{"',
        "\u202e",
    ]

    class Odd:
        protocols, identity = ("generate",), {}

        def stream(self, examples, protocol, new):
            from lucida.eval.asking import Response

            for index, _ in enumerate(examples):
                yield index, Response(odd[index % len(odd)])

        def read_box(self, text, width, height):
            return None

    monkeypatch.setattr("lucida.eval.run.load_answerer", lambda path: Odd())
    first = evaluate_run(run.path, ["attribute"], 14)
    rows = predictions(run.path, "attribute").read()
    assert {row["output"] for row in rows} == {t.replace("\ud83d", "\ufffd") for t in odd}
    assert evaluate_run(run.path, ["attribute"], 14)["tasks"] == first["tasks"]


def test_the_table_and_the_report_say_how_a_task_was_asked(run, capsys):
    evaluate_run(run.path, ["attribute", "presence"], 10, Options(("likelihood",)))
    evaluate_run(run.path, ["caption"], 10, Options(think=True))
    capsys.readouterr()
    show_scores(run.results)
    told = "".join(capsys.readouterr())
    assert "asked by likelihood: attribute, presence\n" in told
    assert "asked to think step by step: caption\n" in told
    html = run.report_file.read_text()
    assert html.count("asked by likelihood") == 2
    assert html.count("asked to think step by step") == 1
    evaluate_run(run.path, ["attribute", "presence", "caption"], 10)
    show_scores(run.results)
    assert "asked" not in "".join(capsys.readouterr())


def test_protocols_that_a_task_lacks_stop_before_asking(run):
    with pytest.raises(RunError, match="boxes cannot be asked by that protocol"):
        evaluate_run(run.path, ["attribute", "boxes"], 5, Options(("likelihood",)))
    assert run.asked == {}


def test_the_difference_of_two_evaluations(run):
    evaluate_run(run.path, ["attribute", "boxes"], 40)
    file = run.path / "blind" / "predictions" / "attribute.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:30]))
    blind = run.path / "blind"
    (blind / "results.json").write_text(run.results_file.read_text())
    found, _ = differences(blind, run.path)
    assert (found.task, found.gain.n, found.only) == ("attribute", 30, (0, 10))
    assert found.gain.mean == pytest.approx(found.scores[1] - found.scores[0])
    assert found.gain.low > 0
    assert 0 < len(found.changes) < 30
    assert all(c.first["score"] != c.second["score"] for c in found.changes)
    page = write_page(run.path / "blind", run.path, [found], run.path / "diff.html")
    html = page.read_text()
    assert html.count("<article") == len(found.changes)
    assert html.count('<img src="data:image/png;base64,') == len(found.changes)
    back = differences(run.path, run.path / "blind")[0]
    assert back.only == (10, 0)
    assert back.gain.mean == pytest.approx(-found.gain.mean)
    same = differences(run.path, run.path)
    assert [(each.gain.mean, each.changes) for each in same] == [(0.0, []), (0.0, [])]
    with pytest.raises(RunError, match="no scores"):
        differences(run.path, run.path.parent)


def test_a_difference_about_one_picture_is_not_sure(run):
    evaluate_run(run.path, ["attribute"], 5)
    evaluate_run(run.path, ["boxes"], 5)
    other = run.path / "other"
    shutil.copytree(run.path / "predictions", other / "predictions")
    (other / "recipe.yaml").write_text(run.recipe_file.read_text())
    results = json.loads(run.results_file.read_text())
    del results["tasks"]["boxes"]
    (other / "results.json").write_text(json.dumps(results))
    file = other / "predictions" / "attribute.jsonl"
    stored = [json.loads(line) | {"score": 2.0} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in stored))
    (found,) = differences(run.path, other)
    assert found.gain.clusters == 1 and found.gain.low > 0
    assert found.state == ""
    assert found.notes == ["all are about one picture, so the interval says nothing"]
    html = write_page(run.path, other, [found], run.path / "diff.html").read_text()
    assert "Only A was asked boxes." in html and "Only B" not in html
    assert "all are about one picture" in html
    assert (
        "Only B was asked boxes."
        in write_page(other, run.path, [found], run.path / "diff.html").read_text()
    )


def test_a_difference_of_other_questions_says_so(run):
    evaluate_run(run.path, ["attribute"], 40)
    usual = run.path / "usual"
    usual.mkdir()
    (usual / "recipe.yaml").write_text(run.recipe_file.read_text())
    (usual / "results.json").write_text(run.results_file.read_text())
    (run.path / "predictions").rename(usual / "predictions")
    evaluate_run(run.path, ["attribute"], 30, Options(think=True))
    (found,) = differences(usual, run.path)
    assert (found.gain.n, found.reworded, found.only) == (30, 30, (10, 0))
    assert found.notes == [
        "left out: 10 that only A answered, 0 only B",
        "30 of 30 were asked in other words",
    ]
    html = write_page(usual, run.path, [found], run.path / "diff.html").read_text()
    assert "30 of 30 were asked in other words" in html
    assert differences(usual, usual)[0].notes == []


def test_what_is_scored_together_is_compared_over_the_same_examples(run, tmp_path):
    """CIDEr-D among 40 captions and among 12 has other weights: equal answers must not differ."""
    few = tmp_path / "few"
    shutil.copytree(run.path, few)
    score = evaluate_run(few, ["caption"], 12)["tasks"]["caption"]["score"]
    evaluate_run(run.path, ["caption"], 40)
    assert tasks_of_one(few, run.path) == []
    evaluate_run(few, ["presence"], 12)
    assert (tasks_of_one(few, run.path), tasks_of_one(run.path, few)) == (["presence"], [])
    (found,) = differences(run.path, few)
    assert (found.gain.n, found.gain.mean, found.changes) == (12, 0.0, [])
    assert found.scores == pytest.approx((score, score))
    among = [row["score"] for row in predictions(run.path, "caption").read()][:12]
    assert sum(among) / 12 != pytest.approx(score)


def test_a_baseline_of_fewer_captions_is_compared_with_as_many(run):
    """A model that is as right with the wrong picture gains nothing by the right one."""
    recipe = run.recipe_file.read_text().replace("baselines: []", "baselines: [shuffled]")
    run.recipe_file.write_text(recipe.replace("baseline_limit: 200", "baseline_limit: 10"))
    row = evaluate_run(run.path, ["caption"], 40)["tasks"]["caption"]["baselines"]["shuffled"]
    assert row["n"] == 10
    assert row["score"] > 0
    assert row["gain"] == {"mean": pytest.approx(0), "interval": pytest.approx([0, 0])}


def test_the_worst_and_the_best(run):
    evaluate_run(run.path, ["attribute"], 40)
    worst, best = extremes(run.path, "attribute", 3)
    assert {shot.score for shot in worst} == {0.0}
    assert {shot.score for shot in best} == {1.0}
    assert len(worst) == len(best) == 3


def test_names_of_variants():
    task = benchmark("attribute")
    assert Variant("generate").key(task) == "attribute"
    variant = Variant("likelihood", shots=4, seed=2, think=True)
    assert variant.key(task) == "attribute.likelihood.4-shot-2.think"
    assert Variant("generate", pictures="removed").key(task) == "attribute.removed"
