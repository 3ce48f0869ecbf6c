"""Jobs of SLURM: their options, and, by submitit's local executor, preemption and continuation."""

import importlib.util
import json
import os
import signal
import time

import pytest
from safetensors.torch import load_file
from tiny_training import tiny_recipe
from torch.testing import assert_close

from lucida.apps.launch.job import make_job
from lucida.apps.launch.slurm import read_minutes, read_options, split_options, submit
from lucida.core.errors import RunError
from lucida.core.recipe import dump_recipe
from lucida.train.loop import train_run

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs the extra slurm"
)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("12:00:00", 720),
        ("1-02", 26 * 60),
        ("1-02:30", 1590),
        ("2-00:00:01", 2881),
    ],
)
def test_times_as_slurm_writes_them(text, minutes):
    assert read_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "0", "1:2:3:4", "-5", "1-"])
def test_no_time(text):
    with pytest.raises(RunError, match="needs a time"):
        read_minutes(text)


def test_options():
    options = split_options("partition=gpu,time=1:00:00,gpus_per_node=h100:8")
    assert read_options(options) == (60, {"partition": "gpu", "gpus-per-node": "h100:8"})
    for wrong in ("partition", "=x", "time=", "time=1,time=2"):
        with pytest.raises(RunError, match="not an option of sbatch"):
            split_options(wrong)
    with pytest.raises(RunError, match="nodes=… is what the launcher sets"):
        read_options({"nodes": "2", "time": "5"})


@needs_submitit
def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    job = make_job("mini", [], tmp_path / "run", 1, 1)
    with pytest.raises(RunError, match=r"SLURM did not take the job: .*srun"):
        submit(job, {"time": "5"})


@pytest.mark.slow
@needs_submitit
def test_a_preempted_job_is_queued_again_and_goes_on(parts, tmp_path):
    """Two tasks; the notice reaches both, one checkpoint is written, and the same job ends the run
    as if nothing had been."""
    recipe = tiny_recipe(parts, language="language-plain")
    stage = recipe.stages[1].model_copy(update={"checkpoint_every": None, "validate_every": None})
    budget = stage.budget.model_copy(update={"steps": 60})
    recipe = recipe.model_copy(update={"stages": [stage.model_copy(update={"budget": budget})]})
    file, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(dump_recipe(recipe))
    alone = train_run(recipe, tmp_path / "alone")

    job = make_job(str(file), [], folder, nodes=1, processes=2)
    number, log = submit(job, {"time": "30", "gpus-per-node": "0"}, cluster="local")
    metrics, until = folder / "metrics.jsonl", time.monotonic() + 300

    def count():
        return metrics.read_text().count("grad_norm") if metrics.exists() else 0

    while count() < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(int(number), signal.SIGUSR2)  # the local executor's controller: it tells its tasks
    while not (folder / "config.json").exists():
        assert time.monotonic() < until, (tmp_path / log).read_text()
        time.sleep(0.1)
    os.waitpid(int(number), 0)
    entry = json.loads((folder / "environment.json").read_text())
    (again,) = entry["resumed"]
    assert again["command"] == entry["command"] and again["processes"] == 2
    mine, theirs = (load_file(each / "model.safetensors") for each in (alone, folder))
    for name, value in mine.items():
        assert_close(value, theirs[name], atol=1e-4, rtol=0, msg=name)
