"""Numbers and pictures of a run in trackers, each read back as its own program reads them."""

import json
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from lucida.apps.track import Followers, by_step, flatten, track
from lucida.apps.trackers import TRACKERS, Tracker
from lucida.core.errors import LucidaError
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder

LOSSES = [4.0, 2.0, 1.0]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three steps, its first two pictures asked about."""
    for name in ("WANDB_DIR", "TRACKIO_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    run = RunFolder(tmp_path / "run").prepare()
    run.write_recipe(load_recipe("mini", []))
    for step, loss in enumerate(LOSSES, 1):
        row = {"stage": "sft", "step": step, "total_step": step, "loss": loss, "skipped": False}
        run.metrics.append(row | {"sources": {"world": 12}, "token_loss": None})
    return run


def answer(run, count=2):
    """Scores and predictions, as an evaluation leaves them."""
    from lucida.eval.benchmarks import benchmark

    examples = benchmark("attribute").examples(count)
    file = run.path / "predictions" / "attribute.jsonl"
    file.parent.mkdir()
    rows = [{"id": each.id, "output": "red", "score": 1.0} for each in examples]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"score": 0.5, "interval": [0, 1], "n": count, "metric": "accuracy", "chance": 0.1}
    run.write_results({"tasks": {"attribute": task}})
    return examples


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_tensorboard_has_every_step_once(run):
    pytest.importorskip("tensorboard")
    answer(run)
    assert track(run.path, "tensorboard") == 3
    assert track(run.path, "tensorboard") == 0
    run.metrics.append({"stage": "sft", "step": 4, "total_step": 4, "loss": 0.5})
    assert track(run.path, "tensorboard") == 1
    events = read_tensorboard(run.path / "trackers" / "tensorboard")
    losses = [(each.step, each.value) for each in events.Scalars("loss")]
    assert losses == [(1, 4.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert {"sources/world", "skipped", "score/attribute"} <= set(events.Tags()["scalars"])
    assert "answers/attribute/1" in events.Tags()["images"]
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("answers/attribute")]
    assert b"said: red" in events.Tensors(texts[0])[0].tensor_proto.string_val[0]


def test_mlflow_has_every_step_in_one_run(run):
    mlflow = pytest.importorskip("mlflow")
    track(run.path, "mlflow", offline=True)
    answer(run)
    track(run.path, "mlflow", offline=True)
    client = mlflow.MlflowClient()
    (experiment,) = [each for each in client.search_experiments() if each.name == "lucida"]
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((each.step, each.value) for each in history) == [(1, 4.0), (2, 2.0), (3, 1.0)]
    assert found.data.metrics["score/attribute"] == 0.5
    files = [each.path for each in client.list_artifacts(found.info.run_id, "answers/attribute")]
    assert "answers/attribute/1.png" in files


@pytest.mark.slow  # half a minute: gradio is imported
def test_trackio_has_every_step(run):
    """In a process of its own, as it reads its settings when it is imported."""
    if find_spec("trackio") is None:
        pytest.skip("pip install trackio")
    answer(run)
    command = [sys.executable, "-m", "lucida", "track", str(run.path), "--to", "trackio"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    folder = run.path / "trackers" / "trackio"
    with sqlite3.connect(folder / "lucida.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    told = [(step, json.loads(values)) for step, values in rows]
    losses = [(step, each["loss"]) for step, each in told if "loss" in each]
    assert losses == [(1, 4.0), (2, 2.0), (3, 1.0)]
    assert any(each.get("score/attribute") == 0.5 for _, each in told)
    (shown,) = [each["answers/attribute/1"] for _, each in told if "answers/attribute/1" in each]
    assert "said: red" in shown["caption"]
    assert (folder / "media" / shown["file_path"]).read_bytes().startswith(b"\x89PNG")


def test_wandb_keeps_it_here_when_offline(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    answer(run)
    track(run.path, "wandb", offline=True)
    folder = run.path / "trackers" / "wandb"
    (file,) = folder.rglob("run-*.wandb")
    deadline = time.monotonic() + 30  # its own process writes it
    while b"score/attribute" not in (content := file.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert b"score/attribute" in content and b"sources/world" in content
    assert list(folder.rglob("media/images/**/*.png"))


def test_what_comes_later_of_a_step_is_told_too(run, monkeypatch):
    """A validation loss has the step of the row before it, and comes when that was told already."""
    heard = []

    class Listener(Tracker):
        package = "json"

        def tell(self, step, values):
            heard.append((step, dict(values)))

        def show(self, step, title, pictures):
            raise AssertionError("nothing was measured")

        def close(self):
            pass

    monkeypatch.setitem(TRACKERS, "listener", Listener)
    assert track(run.path, "listener") == 3
    run.metrics.append({"stage": "sft", "step": 3, "total_step": 3, "validation_loss": 0.75})
    assert track(run.path, "listener") == 1
    assert heard[3:] == [(3, {"validation_loss": 0.75})]
    assert track(run.path, "listener") == 0
    (run.path / "tracked.json").write_text('{"listener": {"step": 2}}')  # as it was written before
    assert track(run.path, "listener") == 1 and heard[-1][0] == 3


def test_names_lead_to_their_values():
    rows = [
        {"stage": "a", "step": 1, "total_step": 5, "loss": 1.0, "sources": {"x": 2}},
        {"stage": "a", "step": 1, "total_step": 5, "evaluation": {"tasks": {"t": {"score": 0.5}}}},
        {"stage": "a", "step": 2, "total_step": 6, "loss": None, "said": "words"},
    ]
    assert dict(by_step(rows)) == {
        5: {"loss": 1.0, "sources/x": 2, "evaluation/tasks/t/score": 0.5},
        6: {},
    }
    assert dict(flatten({"a": {"b": 1}, "c": [2]})) == {"a/b": 1, "c": [2]}


def test_a_tracker_that_is_none_is_told_with_the_nearest(run):
    with pytest.raises(LucidaError, match="tensorboard"):
        track(run.path, "tensorbord")
    with pytest.raises(LucidaError, match="not a run folder"):
        track(run.path / "nothing", "tensorboard")


def test_a_broken_tracker_stops_nothing(run, tmp_path, monkeypatch, capsys):
    """A package that fails when it is imported: only its own process ends."""
    (tmp_path / "wandb.py").write_text("raise RuntimeError('broken')\n")
    from lucida.apps import track as module

    paths = [str(tmp_path), str(module.Path(module.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    followers = Followers(run.path, ["wandb"])
    followers.starter.join(60)
    process = followers.processes["wandb"]
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    run.metrics.append({"stage": "sft", "step": 4, "total_step": 4, "loss": 0.5})
    followers.end()
    assert process.returncode not in (None, 0)
    assert "broken" in (run.path / "trackers" / "wandb.log").read_text()
    assert len(run.metrics.read()) == 4


def test_a_follower_tells_what_comes_and_ends_with_the_training(run, monkeypatch):
    pytest.importorskip("tensorboard")
    followers = Followers(run.path, ["tensorboard"])
    followers.starter.join(60)
    run.metrics.append({"stage": "sft", "step": 4, "total_step": 4, "loss": 0.5})
    followers.end()  # as the end of this process would
    assert followers.processes["tensorboard"].wait(300) == 0
    events = read_tensorboard(run.path / "trackers" / "tensorboard")
    assert [each.value for each in events.Scalars("loss")] == [4.0, 2.0, 1.0, 0.5]


def test_every_tracker_that_is_missing_says_what_to_install(monkeypatch, run):
    from lucida.apps import trackers

    def missing(name):
        raise ImportError("gone", name=name)

    monkeypatch.setattr(trackers, "import_module", missing)
    for name in TRACKERS:
        with pytest.raises(LucidaError, match="pip install"):
            track(run.path, name)
