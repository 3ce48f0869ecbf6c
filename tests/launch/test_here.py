"""Processes of one machine, started for real: equal to one process, and none is left behind."""

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import tiny_recipe
from torch.testing import assert_close

from lucida.apps.launch import here
from lucida.core.errors import RunError
from lucida.core.recipe import dump_recipe
from lucida.training.loop import train_run

LUCIDA = [sys.executable, "-m", "lucida"]


def start(program):
    """A rank of a test: a Python program in a session of its own."""
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)


def test_one_that_fails_ends_all(monkeypatch):
    """One ignores what it is asked and has a child of its own; both are gone."""
    monkeypatch.setattr(here, "GRACE", 0.5)
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    lasting = subprocess.Popen(
        [sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    child = int(lasting.stdout.readline())
    ranks = [lasting, start("raise SystemExit(3)")]
    try:
        assert here.wait_for_ranks(ranks) == 1
    finally:
        begun = time.monotonic()
        here.end_ranks(ranks)
    assert time.monotonic() - begun < 10
    assert ranks[0].returncode == -signal.SIGKILL and ranks[1].returncode == 3
    state = Path(f"/proc/{child}/stat")
    until = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_one_that_was_stopped_does_not_end_the_one_that_writes():
    ranks = [start("import time; time.sleep(0.6)"), start("raise SystemExit(130)")]
    try:
        assert here.wait_for_ranks(ranks) == 1
        assert ranks[0].returncode == 0
    finally:
        here.end_ranks(ranks)


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of this machine cannot be used"):
            here.find_port(port)
    assert here.find_port(None) > 0


@pytest.fixture
def tiny(parts, tmp_path):
    """A recipe file of one stage without dropout, so that ranks agree."""
    recipe = tiny_recipe(parts, language="language-plain")
    recipe = recipe.model_copy(update={"stages": recipe.stages[1:]})
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe))
    return recipe, file


@pytest.mark.slow
@pytest.mark.parametrize("way", ["local", "torchrun"])
def test_two_processes_as_documented_equal_one(tiny, tmp_path, way):
    """`lucida launch --local`, and the line that it prints without, typed as it is."""
    recipe, file = tiny
    alone = train_run(recipe, tmp_path / "one")
    words = [str(file), "--gpus", "2", "--run", str(tmp_path / "two")]
    if way == "local":
        command = [*LUCIDA, "launch", *words, "--local"]
    else:
        printed = subprocess.run(
            [*LUCIDA, "launch", *words], check=True, capture_output=True, text=True
        )
        program, *rest = shlex.split(printed.stdout)
        assert program == "torchrun"
        command = [sys.executable, "-m", "torch.distributed.run", *rest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "engine: ddp, 2 processes" in done.stderr
    assert done.stderr.count("next: ") == 1
    mine, theirs = (load_file(each / "model.safetensors") for each in (alone, tmp_path / "two"))
    for name, value in mine.items():
        assert_close(value, theirs[name], atol=2e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_ctrl_c_stops_all_with_one_checkpoint(tiny, tmp_path):
    _, file = tiny
    folder = tmp_path / "two"
    longer = "stages.sft.budget.steps=2000"
    words = [*LUCIDA, "launch", str(file), longer, "stages.sft.validate_every=null"]
    words += ["stages.sft.checkpoint_every=null", "--local", "--gpus", "2", "--run", str(folder)]
    with (tmp_path / "said").open("w+") as said:
        running = subprocess.Popen(words, stderr=said)
        metrics = folder / "metrics.jsonl"
        until = time.monotonic() + 600
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
        said.seek(0)
        told = said.read()
    assert told.count("stopped by SIGINT at step") == 1, told
    assert told.count("finishing this step") == 1, told
    (checkpoint,) = (folder / "checkpoints").iterdir()
    position = json.loads((checkpoint / "state.json").read_text())["position"]
    assert position["total"] >= 3
