"""What `lucida launch` prints is what torchrun and ssh understand."""

import shlex

import pytest
from torch.distributed.run import config_from_args, parse_args
from typer.testing import CliRunner

from lucida.apps.cli import app
from lucida.apps.launch.commands import read_hosts
from lucida.core.errors import RunError


def launch(*words, status=0):
    done = CliRunner().invoke(app, ["launch", *words])
    assert done.exit_code == status, done.output
    return done.stdout.splitlines() if status == 0 else done.stderr


def understood(line):
    """How torchrun reads its command line: nodes, processes, where they meet, and our words."""
    program, *words = shlex.split(line)
    assert program == "torchrun"
    arguments = parse_args(words)
    config, _, _ = config_from_args(arguments)
    assert arguments.module and arguments.training_script == "lucida"
    meeting = (config.rdzv_backend, config.rdzv_endpoint)
    size = (config.min_nodes, config.max_nodes, config.nproc_per_node)
    return size, meeting, arguments.training_script_args


def test_one_node():
    (line,) = launch("mini", "seed=3", "--gpus", "2", "--run", "runs/my run")
    size, _, words = understood(line)
    assert size == (1, 1, 2)
    # `--run` alone is what torchrun takes for its own `--run-path`.
    assert words == ["train", "mini", "seed=3", "--run", "runs/my run"]


def test_several_nodes_have_the_same_line():
    (line,) = launch("mini", "--nodes", "2", "--gpus", "8", "--accept-changes", "--port", "4000")
    size, meeting, words = understood(line)
    assert size == (2, 2, 8) and meeting == ("c10d", "FIRST_NODE:4000")
    assert words == ["train", "mini", "--run", "runs/mini", "--accept-changes"]


def test_a_line_of_ssh_for_each_host(tmp_path, monkeypatch):
    here = tmp_path / "with space"
    here.mkdir()
    monkeypatch.chdir(here)
    file = here / "hosts"
    file.write_text("# all\nalpha slots=4\n\nuser@beta slots=4 # the other\n")
    lines = [shlex.split(line) for line in launch("mini", "--ssh", str(file))]
    assert [words[:2] for words in lines] == [["ssh", "alpha"], ["ssh", "user@beta"]]
    there = {words[2] for words in lines}
    assert len(there) == 1
    where, _, line = there.pop().partition(" && ")
    assert shlex.split(where) == ["cd", str(here)]
    size, meeting, _ = understood(line)
    assert size == (2, 2, 4) and meeting == ("c10d", "alpha:29500")


@pytest.mark.parametrize(
    ("text", "processes", "words"),
    [
        ("a slots=2\nb slots=3\n", None, "got 2, 3"),
        ("a slots=2\n", 3, "got 2, 3"),
        ("a\nb\n", None, "got no number"),
        ("a\na\n", 1, "line 2: not a host"),
        ("a slots=x\n", 1, "line 1: not a host"),
        ("a b\n", 1, "line 1: not a host"),
        ("-oProxyCommand=x\n", 1, "line 1: not a host"),
        ("# nobody\n", 1, "no host is named"),
    ],
)
def test_hosts_that_cannot_be_used(tmp_path, text, processes, words):
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(RunError, match=words):
        read_hosts(file, processes)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mini"], "say how many processes with --gpus N"),
        (["mini", "--local", "--nodes", "2", "--gpus", "1"], "--local starts the processes of one"),
        (["mni", "--gpus", "2"], "did you mean `mini`?"),
        (["mini", "engine.kind=single", "--gpus", "2"], "engine.kind=single and 2 processes"),
        (["mini", "--local", "--ssh", "hosts"], "choose one"),
    ],
)
def test_what_cannot_be_launched(words, told):
    assert told in launch(*words, status=1)
