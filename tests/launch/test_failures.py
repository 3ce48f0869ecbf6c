"""What goes wrong on one of several processes: one message, and all of them are gone soon."""

import os
import re
import signal
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_training import tiny_recipe

from forking import SERVER, exit_like_python
from lucida.core.spec import EngineSpec, Recipe
from lucida.training.watch import Watch

SECONDS = 30.0
"""How soon after the fault all are gone."""


def plain(parts, **engine) -> Recipe:
    """One stage of many short steps, nothing else in it."""
    recipe = tiny_recipe(parts, language="language-plain")
    stage = recipe.stages[1].model_copy(update={"validate_every": None, "checkpoint_every": None})
    return recipe.model_copy(update={"stages": [stage], "engine": EngineSpec(**engine)})


def fail(rank: int, fault: str) -> None:
    """Make this rank go wrong in its third step, or in what it begins with."""
    import torch

    from lucida.core.errors import DataError
    from lucida.training import meeting
    from lucida.training.stage_run import StageRun

    true_step = StageRun.step

    def step(stage):
        if rank == 1 and stage.run.position.total == 2:
            if fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "stands still":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault == "cannot read":
                raise DataError("a file of this node is gone")
            elif fault == "has too little memory":
                torch.empty(2**50)
            elif fault == "hangs":
                stage.stream = (time.sleep(600) for _ in range(1))
        true_step(stage)

    StageRun.step = step
    if fault == "has other packages" and rank == 1:
        others = meeting.describe_packages() | {"numpy": "1.0"}
        meeting.describe_packages = lambda more=(): others


def train(rank: int, environment: dict, recipe: str, folder: Path, fault: str, said: Path) -> None:
    """One rank as the command line has it; what it says goes into a file."""
    os.environ.update(environment)
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    import typer

    from lucida.apps.command import guarded
    from lucida.training.loop import train_run

    fail(rank, fault)
    value, code = Recipe.model_validate_json(recipe), 0
    if fault == "has another recipe" and rank == 1:
        value = value.model_copy(update={"seed": 6})
    if fault == "has other data" and rank == 1:
        os.chdir(Path.cwd() / "elsewhere")
    try:
        guarded(lambda: train_run(value, folder))()
    except typer.Exit as problem:
        code = problem.exit_code
    exit_like_python(code)


def on_two(recipe: Recipe, folder: Path, fault: str, port: int | None = None):
    """Two ranks without a launcher: exit codes, what each said, and seconds after the fault."""
    port = port or free_port()
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    said = [folder.parent / f"said{rank}.txt" for rank in range(2)]
    ranks = [
        SERVER.Process(
            target=train,
            args=(
                rank,
                dict(os.environ) | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                recipe.model_dump_json(),
                folder,
                fault,
                said[rank],
            ),
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    metrics, begun = folder / "metrics.jsonl", time.monotonic()
    for rank in ranks:
        while rank.is_alive() and time.monotonic() - begun < 240:
            told = said[0].read_text() if said[0].exists() else ""
            if fault == "stands still" and "no sign of life" in told:
                ranks[1].kill()  # as any launcher does; it may have gone already
            rank.join(timeout=0.1)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    since = time.time() - metrics.stat().st_mtime if metrics.exists() else 0.0
    told = [file.read_text() for file in said]
    assert None not in codes, "\n---\n".join(told)
    return codes, told, since


def count_messages(told: list[str]) -> list[int]:
    """How many of Lucida's error messages each rank wrote."""
    return [sum(line.startswith("lucida") for line in text.splitlines()) for text in told]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_rank_with_another_recipe(parts, tmp_path):
    """Not slow: one of these always runs."""
    codes, told, _ = on_two(plain(parts), tmp_path / "run", "has another recipe")
    assert codes == [1, 1]
    assert "lucida: rank 1 differs from rank 0 in recipe, seed (expected 5, got 6)" in told[0]
    assert count_messages(told) == [1, 0], told[1]


@pytest.mark.slow
def test_a_rank_with_other_packages(parts, tmp_path):
    codes, told, _ = on_two(plain(parts), tmp_path / "run", "has other packages")
    assert codes == [1, 1]
    assert "rank 1 differs from rank 0 in numpy (expected " in told[0] and "got 1.0" in told[0]
    assert count_messages(told) == [1, 0]


@pytest.mark.slow
def test_a_rank_with_other_data(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    values = plain(parts).model_dump(mode="json")
    source = values["stages"][0]["mixture"]["sources"]["pictures"]
    text = Path(source["path"]).read_text()
    source |= {"path": "pictures.json", "images": str(parts / "pictures")}
    (tmp_path / "pictures.json").write_text(text)
    (tmp_path / "elsewhere" / "pictures.json").write_text(text.replace("blue", "teal"))
    codes, told, _ = on_two(Recipe.model_validate(values), tmp_path / "run", "has other data")
    assert codes == [1, 1]
    assert "rank 1 differs from rank 0 in stages.sft.mixture.sources.pictures, " in told[0]
    assert "bring the same data and parts to every node" in told[0]
    assert count_messages(told) == [1, 0]


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_its_step(parts, tmp_path):
    folder = tmp_path / "run"
    codes, told, since = on_two(plain(parts, patience=10), folder, "hangs")
    assert codes == [1, 1]
    assert "rank 1 hangs, for 10 s (reading its records, step 3; the others wait in: " in told[0]
    assert count_messages(told) == [1, 0]
    stands = (folder / "stands-rank1.txt").read_text()
    assert "test_failures.py" in stands  # the line that sleeps
    assert (folder / "stands-rank0.txt").exists()
    assert since < SECONDS


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_named(parts, tmp_path):
    codes, told, since = on_two(plain(parts, patience=10), tmp_path / "run", "stands still")
    assert codes == [1, -signal.SIGKILL]
    # Signs come every two seconds, in which some steps may be taken.
    said = r"rank 1 gave no sign of life for 10 s \(the last one: .*(, step [12]|beginning)\)"
    assert re.search(said, told[0])
    assert since < SECONDS


@pytest.mark.slow
def test_a_rank_that_dies_is_named(parts, tmp_path):
    codes, told, since = on_two(plain(parts), tmp_path / "run", "dies")
    assert codes == [1, -signal.SIGKILL]
    assert "lucida: " in told[0] and "rank 1 has gone without a word after step 2" in told[0]
    assert count_messages(told)[0] == 1 and "bug" not in told[0]
    assert since < SECONDS


@pytest.mark.slow
def test_a_rank_with_an_error_of_its_own_says_it_alone(parts, tmp_path):
    codes, told, since = on_two(plain(parts), tmp_path / "run", "cannot read")
    assert codes == [1, 1]
    said = [line for line in told[1].splitlines() if line.startswith("lucida")]
    assert said == ["lucida, rank 1: a file of this node is gone"]
    assert count_messages(told) == [0, 1]
    assert since < SECONDS


@pytest.mark.slow
def test_a_rank_with_too_little_memory_says_so_with_the_remedy(parts, tmp_path):
    codes, told, since = on_two(plain(parts), tmp_path / "run", "has too little memory")
    assert codes == [1, 1]
    assert "lucida, rank 1: rank 1 needs more memory than the machine has left" in told[1]
    assert "batch.accumulate" in told[1] and count_messages(told) == [0, 1]
    assert since < SECONDS


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_deepspeed_that_is_missing_is_told_once(parts, tmp_path):
    codes, told, _ = on_two(plain(parts, kind="deepspeed"), tmp_path / "run", "none")
    assert codes == [1, 1]
    assert "engine.kind=deepspeed needs DeepSpeed; pip install 'lucida[deepspeed]'" in told[0]
    assert count_messages(told) == [1, 0]


@pytest.mark.slow
def test_a_port_that_is_taken(parts, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        codes, told, _ = on_two(plain(parts, patience=5), tmp_path / "run", "", port)
    assert codes == [1, 1]
    assert f"the port where the processes meet is taken: 127.0.0.1:{port}" in told[0]


def test_a_store_that_went_with_rank_0_is_no_error_of_its_own():
    class Gone:
        def set(self, key, value):
            raise RuntimeError("recvValue failed: connection was likely closed")

    watch = Watch.__new__(Watch)
    watch.store, watch.rank = Gone(), 1
    assert watch.is_told("rank 1 differs from rank 0") is False
