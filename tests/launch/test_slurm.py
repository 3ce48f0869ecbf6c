"""Jobs of SLURM: their options, and what is said without SLURM (LOG.md: tried with one machine)."""

import importlib.util

import pytest

from lucida.apps.launch.job import make_job
from lucida.apps.launch.slurm import read_minutes, read_options, split_options, submit
from lucida.core.errors import RunError

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
