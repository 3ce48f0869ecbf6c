"""Evaluating a run folder: what is written, what is asked again and what never is."""

import json

import pytest

import lucida.eval.run
from lucida.apps.answering import measure_otherwise, read_visual_tokens
from lucida.core.errors import LucidaError, RunError
from lucida.core.spec import EvaluationSpec, FewerTokensSpec
from lucida.eval.benchmarks import benchmark
from lucida.eval.gallery import evaluation_of, gallery, predictions
from lucida.eval.plan import Options
from lucida.eval.run import evaluate_run, evaluate_target
from lucida.eval.store import weights_hash


def rows(run, task):
    return predictions(run.path, task).read()


def test_results_hold_score_interval_blind_and_chance(run):
    results = evaluate_run(run.path)
    assert results == json.loads(run.results_file.read_text())
    attribute = results["tasks"]["attribute"]
    low, high = attribute["interval"]
    assert low < attribute["score"] < high
    assert (attribute["n"], attribute["metric"]) == (40, "exact match")
    assert 0 < attribute["chance"] < attribute["score"]
    assert 0 < attribute["blind"] < attribute["score"]
    gain = attribute["gain"]
    assert gain["mean"] == pytest.approx(attribute["score"] - attribute["blind"])
    assert gain["interval"][0] > 0
    kinds = attribute["kinds"]
    assert sum(kind["n"] for kind in kinds.values()) == 40
    mean = sum(kind["score"] * kind["n"] for kind in kinds.values()) / 40
    assert mean == pytest.approx(attribute["score"])
    assert results["tasks"]["boxes"]["malformed"] > 0
    assert results["tasks"]["caption"]["score"] > results["tasks"]["caption"]["blind"]
    assert set(results["seconds"]) == {"train", "train_blind", "evaluate", "evaluate_blind"}
    assert results["seconds"]["train"] == pytest.approx(2.0)


def test_predictions_say_what_was_asked_answered_and_true(run):
    evaluate_run(run.path)
    for row in rows(run, "attribute"):
        assert list(row) == [
            "id", "kind", "cluster", "prompt", "output", "parsed", "truth", "score"
        ]  # fmt: skip
    by_id = {row["id"]: row for row in rows(run, "attribute")}
    example = benchmark("attribute").examples(40)[7]
    row = by_id[example.id]
    assert (row["prompt"], row["truth"]) == (example.question, list(example.answers))
    assert row["parsed"] == row["output"].strip()
    assert row["score"] == float(row["parsed"] != "nonsense")
    boxes = rows(run, "boxes")
    assert all(len(row["truth"]) == 4 for row in boxes)
    assert {row["score"] for row in boxes if row["parsed"] is None} == {0.0}


def test_nothing_is_asked_twice(run):
    first = evaluate_run(run.path)
    again = evaluate_run(run.path)
    assert again == first
    assert [len(asked) for asked in run.asked["run"]] == [200, 0]
    assert [len(asked) for asked in run.asked["blind"]] == [200, 0]
    more = evaluate_run(run.path, ["presence"], limit=60)
    assert len(run.asked["run"][-1]) == 20
    assert more["tasks"]["presence"]["n"] == 60
    assert more["tasks"]["attribute"] == first["tasks"]["attribute"]


def test_an_interrupted_evaluation_goes_on(run, monkeypatch):
    whole = evaluate_run(run.path)
    file = run.path / "predictions" / "attribute.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:25]) + lines[25][:30])  # killed while it wrote
    resumed = evaluate_run(run.path)
    assert resumed["tasks"] == whole["tasks"]
    assert len(run.asked["run"][-1]) == 15
    assert len(rows(run, "attribute")) == 40


def test_other_weights_are_asked_anew(run):
    evaluate_run(run.path)
    (run.path / "model.safetensors").write_bytes(b"other weights")
    results = evaluate_run(run.path, ["boxes"])
    assert len(run.asked["run"][-1]) == 40
    assert list(results["tasks"]) == ["boxes"], "scores of the old weights must not stay"


def test_without_a_blind_run_the_columns_are_empty(run):
    (run.path / "blind" / "config.json").unlink()
    results = evaluate_run(run.path, ["attribute"])
    task = results["tasks"]["attribute"]
    assert (task["blind"], task["blind_interval"], task["gain"]) == (None, None, None)


def test_mistakes_stop_before_anything_is_asked(run):
    with pytest.raises(LucidaError, match="did you mean `attribute`"):
        evaluate_run(run.path, ["atribute"])
    with pytest.raises(RunError, match="no task to evaluate"):
        evaluate_run(run.path, [])
    assert run.asked == {}
    with pytest.raises(RunError, match="not a run folder"):
        evaluate_run(run.path / "nowhere")
    (run.path / "model.safetensors").unlink()
    with pytest.raises(RunError, match="no trained model"):
        weights_hash(run.path)


def test_a_command_chooses_prompts_and_files(run, tmp_path):
    evaluate_run(run.path, ["attribute"], 10, Options(shots=(1,), seeds=1))
    short = "\nAnswer the question using a single word or phrase."
    results = evaluate_run(
        run.path, ["attribute"], 10, Options(prompts="llava", data=str(tmp_path))
    )
    task = results["tasks"]["attribute"]
    assert (task["prompts"], task["data"]) == ("llava", str(tmp_path))
    assert task["shots"] == {}, "what was asked in other words does not stand beside it"
    assert all(row["prompt"].endswith(short) for row in rows(run, "attribute"))
    assert all(shot.question.endswith(short) for shot in gallery(run.path, "attribute"))
    with pytest.raises(LucidaError, match=r"unknown prompts `lava`.*`llava`"):
        evaluate_run(run.path, ["attribute"], 10, Options(prompts="lava"))
    with pytest.raises(RunError, match="no such folder of published files"):
        evaluate_run(run.path, ["attribute"], 10, Options(data=str(tmp_path / "nowhere")))
    assert evaluate_run(run.path, ["attribute"], 10)["tasks"]["attribute"]["prompts"] == "plain"


def test_a_model_that_is_no_run_is_asked_in_the_chosen_words(knowing, tmp_path):
    folder = tmp_path / "other"
    evaluate_target(
        "hf:other",
        lambda folder: knowing(0.8),
        folder,
        EvaluationSpec(baselines=[], samples=100),
        ["attribute"],
        10,
        Options(prompts="llava"),
    )
    assert evaluation_of(folder).prompts == "llava"
    assert json.loads((folder / "results.json").read_text())["tasks"]["attribute"]["n"] == 10


def test_a_run_is_asked_with_fewer_visual_tokens_beside_its_own_scores(run, knowing, monkeypatch):
    """What is asked for reaches the model, and the run's own scores and answers stay."""
    evaluate_run(run.path, ["attribute"], 10)
    own, met = run.results_file.read_bytes(), []

    def load_answerer(path, weights, fewer):
        met.append((path, weights, fewer.by, fewer.keep))
        return knowing(0.2, {"visual tokens": fewer.model_dump(mode="json")})

    monkeypatch.setattr("lucida.eval.answerers.lucida_model.load_answerer", load_answerer)
    fewer = read_visual_tokens("merge:0.25")
    found = measure_otherwise(run.path, ["attribute"], 10, None, None, None, fewer)
    assert met == [(run.path, None, "merge", 0.25)]
    assert run.results_file.read_bytes() == own
    settings = json.loads((run.path / "merge-0.25/predictions/settings.json").read_text())
    assert settings["weights"] == weights_hash(run.path)
    assert settings["visual tokens"]["by"] == "merge"
    assert found.tasks["attribute"].score < run.results.tasks["attribute"].score
    assert read_visual_tokens("grid:16").keep == 16 and read_visual_tokens(None) is None
    for wrong in ("median:0.5", "merge", "merge:2.5", "merge:0"):
        with pytest.raises(RunError, match=r"WAY:KEEP") as told:
            read_visual_tokens(wrong)
        assert wrong in str(told.value)


def test_a_recipe_says_with_how_many_visual_tokens_it_is_asked(run, monkeypatch):
    """The key of the recipe: it reaches the loader, and other answers are asked for anew."""
    evaluate_run(run.path, ["attribute"], 10)
    recipe = run.recipe
    fewer = FewerTokensSpec(keep=0.5, by="random")
    spec = recipe.evaluation.model_copy(update={"visual_tokens": fewer})
    run.write_recipe(recipe.model_copy(update={"evaluation": spec}))
    load, met = lucida.eval.run.load_answerer, []

    def note(path, fewer):
        met.append((path.name, fewer))
        return load(path)

    monkeypatch.setattr("lucida.eval.run.load_answerer", note)
    evaluate_run(run.path, ["attribute"], 10)
    assert met == [("run", fewer), ("blind", fewer)]
    assert [len(asked) for asked in run.asked["run"]] == [10, 10]


def test_the_gallery_shows_each_picture_once_in_order(run):
    evaluate_run(run.path)
    shots = gallery(run.path, "boxes", 5)
    assert len({shot.id.rsplit("/", 1)[0] for shot in shots}) == 5
    assert all(shot.wanted is not None and shot.images for shot in shots)
    assert any(
        shot.answer.startswith("no box: ") for shot in shots + gallery(run.path, "boxes", 5, 5)
    )
    skipped = gallery(run.path, "boxes", 3, skip=2)
    assert [shot.id for shot in skipped] == [shot.id for shot in shots[2:]]
    assert all(len(shot.images) == 2 for shot in gallery(run.path, "comparison", 2))
