"""A run that was stopped at any moment ends with the weights of one that was not, bit for bit.

The trainer is a real process, and the test kills it.
"""

import json
import os
import random
import signal
import time

import pytest
from ranks import train_alone
from tiny_training import adapted_recipe, tiny_recipe

from forking import start
from lucida.core.errors import RunError
from lucida.core.spec import Recipe
from lucida.training.loop import train_run
from lucida.training.state import checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")


class Launcher:
    """Starts trainers, one at a time."""

    def __init__(self, log):
        self.log = log
        self.process = None

    def start(self, recipe, folder) -> int:
        cache = str(folder.parent / f"{folder.name}-cache")
        environment = {"LUCIDA_CACHE": cache, "OMP_NUM_THREADS": "1"}
        words = recipe.model_dump_json(), folder
        self.process = start(self.log, train_alone, *words, environment=environment)
        return self.process.pid

    def wait(self) -> int:
        self.process.join(240)
        return self.process.exitcode

    def kill_at(self, recipe, folder, number, step, jitter) -> int:
        """Start a trainer and send it a signal a moment after it has recorded `step` steps."""
        child = self.start(recipe, folder)
        while total_steps(folder) < step and sent(child, 0):
            time.sleep(0.001)
        time.sleep(jitter)
        sent(child, number)
        return self.wait()


def sent(process: int, number: int) -> bool:
    """Send a signal (0 only asks); False when the process is gone."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    return Launcher(tmp_path_factory.mktemp("launcher") / "log.txt")


@pytest.fixture(scope="module")
def uninterrupted(parts, launcher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    launcher.start(tiny_recipe(parts), folder)
    assert launcher.wait() == 0, launcher.log.read_text()
    return folder


def records(folder) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def total_steps(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b'"grad_norm"') if path.exists() else 0


def assert_same_run(folder, uninterrupted):
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    timing = ("tokens_per_second", "samples_per_second", "data_wait", "seconds")
    for mine, theirs in zip(records(folder), records(uninterrupted), strict=True):
        assert [v for k, v in mine.items() if k not in timing] == [
            v for k, v in theirs.items() if k not in timing
        ]
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def exit_code_of(number) -> int:
    return -signal.SIGKILL if number == signal.SIGKILL else 1


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(seed, recipe, launcher, uninterrupted, tmp_path):
    kill_at_random(seed, recipe, launcher, uninterrupted, tmp_path / "run")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_adapters_killed_at_random_moments(kind, parts, launcher, tmp_path):
    values = adapted_recipe(parts).model_dump(mode="json")
    for stage in values["stages"]:
        stage["optim"]["kind"] = kind
    recipe, whole = Recipe.model_validate(values), tmp_path / "whole"
    launcher.start(recipe, whole)
    assert launcher.wait() == 0, launcher.log.read_text()
    kill_at_random(0, recipe, launcher, whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["reset", "mrope", "mrope_interleaved"])
def test_positions_of_pictures_killed_at_random_moments(positions, parts, launcher, tmp_path):
    values = tiny_recipe(parts).model_dump(mode="json")
    values["model"]["language"]["positions"] = positions
    recipe, whole = Recipe.model_validate(values), tmp_path / "whole"
    launcher.start(recipe, whole)
    assert launcher.wait() == 0, launcher.log.read_text()
    kill_at_random(1, recipe, launcher, whole, tmp_path / "run")


def kill_at_random(seed, recipe, launcher, uninterrupted, folder):
    """Stop a run four times, twice without notice, and compare it with one never stopped."""
    moments = random.Random(seed)
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    moments.shuffle(kinds)
    for number in kinds:
        more = moments.randrange(0, 4)
        step = total_steps(folder) + more
        if step < 12:
            code = launcher.kill_at(recipe, folder, number, step, moments.random() * 0.03)
            at_once = () if more else (-number,)  # before anybody waits for the end of a step
            assert code in (exit_code_of(number), 0, *at_once), launcher.log.read_text()
    launcher.start(recipe, folder)
    assert launcher.wait() == 0, launcher.log.read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_killed_very_often(seed, recipe, launcher, uninterrupted, tmp_path):
    """Also during start-up, during a checkpoint and while the model is saved."""
    moments, folder = random.Random(seed), tmp_path / "run"
    for _ in range(12):
        child = launcher.start(recipe, folder)
        time.sleep(moments.random() * 0.9)
        number = moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        sent(child, number)
        launcher.wait()
    launcher.start(recipe, folder)
    assert launcher.wait() == 0, launcher.log.read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_loses_no_step(number, recipe, launcher, tmp_path):
    folder = tmp_path / "run"
    assert launcher.kill_at(recipe, folder, number, 2, 0.0) == 1
    done = total_steps(folder)
    assert done >= 2
    assert [path.name for path in checkpoints(folder)] == [f"step-{done:06d}"]
    assert f"stopped by {number.name} at step {done}" in launcher.log.read_text()


def test_two_processes_cannot_train_one_folder(recipe, launcher, tmp_path):
    folder = tmp_path / "run"
    child = launcher.start(recipe, folder)
    try:
        while total_steps(folder) < 1 and sent(child, 0):
            time.sleep(0.001)
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(RunError, match=f"process {child}"):
            train_run(recipe, folder)
    finally:
        os.kill(child, signal.SIGCONT)
        os.kill(child, signal.SIGKILL)
        launcher.wait()


def test_a_finished_run_is_left_alone(recipe, launcher, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    assert train_run(recipe, uninterrupted) == uninterrupted
    after = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {".lock"}
