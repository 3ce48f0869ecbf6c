"""The command line: fast help, one message per mistake, exit codes, thin verbs."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from lucida.apps import cli
from lucida.core.errors import RunError
from lucida.core.recipe import load_recipe
from lucida.core.results import Results
from lucida.core.runs import RunFolder


def call(capsys, *words):
    """Runs a command line in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    printed = capsys.readouterr()
    return caught.value.code or 0, printed.out, printed.err


@pytest.fixture
def verbs(monkeypatch):
    """Stand-ins for what the verbs import; they record their calls."""
    calls = []

    def module(name, **functions):
        stand_in = types.ModuleType(name)
        vars(stand_in).update(functions)
        monkeypatch.setitem(sys.modules, name, stand_in)

    def record(name, result=None):
        return lambda *arguments: calls.append((name, *arguments)) or result

    module("lucida.training.loop", train_run=record("train"))
    module("lucida.eval.run", evaluate_run=record("eval", {"tasks": {}}), evaluate=record("asked"))
    module("lucida.apps.chat", main=record("chat"))
    module("lucida.apps.ask", main=record("ask"))
    shown = {"show_scores": record("scores"), "show_shots": record("shots")}
    module("lucida.apps.demo", main=record("demo"), **shown)
    return calls


def test_help_is_fast_and_imports_no_torch():
    assert min(seconds_of_help() for _ in range(3)) < 0.5
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lucida", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "pydantic"}
    for verb in ("train", "eval", "chat", "show", "explain", "schema", "runs", "demo"):
        assert verb in done.stdout


def seconds_of_help():
    """Processor time, which a busy machine does not stretch as it does the clock."""
    code = """
import atexit, time
atexit.register(lambda: print(time.process_time()))
from lucida.apps import cli
cli.main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize("verb", ["show", "explain", "schema", "runs"])
def test_verbs_about_recipes_import_no_torch(verb):
    code = f"""
import sys
from lucida.apps import cli
try:
    cli.main([{verb!r}])
finally:
    assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_train_resolves_the_recipe_and_its_folder(verbs, capsys):
    code, _, _ = call(capsys, "train", "mini", "stages.sft.budget.steps=3")
    assert code == 0
    [(name, recipe, folder, command, observers, accept)] = verbs
    assert accept is False
    assert name == "train"
    assert recipe == load_recipe("mini", ["stages.sft.budget.steps=3"])
    assert folder == Path("runs/mini")
    assert command.split()[0] == "lucida"
    [scores] = observers  # for stages with evaluate_every; of retention the recipe has nothing
    assert not scores.between_stages


def test_train_takes_another_folder(verbs, capsys, tmp_path):
    assert call(capsys, "train", "mini", "--run", str(tmp_path), "seed=1")[0] == 0
    assert verbs[0][2] == tmp_path


def test_eval_of_no_task_is_no_eval_of_all(verbs, capsys, tmp_path):
    for empty in ("", " , "):
        code, _, err = call(capsys, "eval", str(tmp_path), "--task", empty)
        assert code == 1
        assert "--task names no task" in err
    assert verbs == []


def test_eval_of_a_model_that_is_no_run_says_how(verbs, capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    code, _, err = call(capsys, "eval", str(tmp_path))
    assert code == 1
    assert f"`lucida eval hf:{tmp_path} --task NAME --out DIR`" in err
    assert verbs == []


def test_eval_passes_tasks_and_shows_scores(verbs, capsys, tmp_path):
    code, _, _ = call(
        capsys, "eval", str(tmp_path), "--task", "counting", "--task", "boxes", "--limit", "5"
    )
    assert code == 0
    assert verbs == [
        ("eval", tmp_path, ["counting", "boxes"], 5),
        ("scores", Results()),
    ]


def test_eval_passes_prompts_and_the_folder_of_files(verbs, capsys, tmp_path):
    words = ["--task", "vqav2", "--prompts", "lmms", "--data", "files"]
    assert call(capsys, "eval", str(tmp_path), *words)[0] == 0
    options = verbs[0][4]
    assert (options.prompts, options.data) == ("lmms", "files")


def test_chat_and_demo_pass_what_was_typed(verbs, capsys, tmp_path):
    assert call(capsys, "chat", str(tmp_path), "--image", "a.png", "--image", "b.png")[0] == 0
    assert call(capsys, "demo", "--run", str(tmp_path), "seed=1")[0] == 0
    assert verbs == [
        ("chat", tmp_path, [Path("a.png"), Path("b.png")], None, 64, 0.0, None),
        ("demo", tmp_path, "mini", ["seed=1"]),
    ]


def test_ask_passes_what_was_typed(verbs, capsys, tmp_path):
    assert call(capsys, "ask", str(tmp_path), "--questions", "q.csv", "--out", "a.jsonl")[0] == 0
    assert verbs == [("ask", tmp_path, Path("q.csv"), Path("a.jsonl"), 64)]


def test_show_prints_a_whole_recipe(capsys):
    code, out, _ = call(capsys, "show", "mini", "seed=5")
    assert code == 0
    values = yaml.safe_load(out)
    assert values["seed"] == 5
    assert values["model"]["image"]["policy"] == "letterbox"


def test_show_lists_presets(capsys):
    assert "mini-two-stage" in call(capsys, "show")[1]


def test_schema_is_json(capsys):
    assert "Family" in json.loads(call(capsys, "schema")[1])["$defs"]


def test_explain_prints_a_field(capsys):
    assert "default 0.03" in call(capsys, "explain", "stages.optim.warmup")[1]


def test_runs_lists_what_is_there(capsys, tmp_path):
    assert "no runs" in call(capsys, "runs", str(tmp_path))[1]
    run = RunFolder(tmp_path / "first").prepare()
    run.write_recipe(load_recipe("mini"))
    run.write_results({"tasks": {"counting": {"score": 0.875}}})
    (RunFolder(tmp_path / "broken").prepare().recipe_file).write_text("{")
    code, out, err = call(capsys, "runs", str(tmp_path))
    assert code == 0
    assert "0.875" in out
    assert "unreadable" in out
    assert "is not YAML" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "mnii"], "did you mean `mini`?"),
        (["train", "mini", "sead=1"], "did you mean `seed`?"),
        (["train", "seed=1"], "name the recipe first"),
        (["chat", "no/such/run"], "no/such/run: there is no such run folder"),
        (["eval", "no/such/run"], "there is no such run folder"),
        (["explain", "modle"], "did you mean `model`?"),
    ],
)
def test_a_mistake_is_one_message_without_traceback(verbs, capsys, words, message):
    code, out, err = call(capsys, *words)
    assert code == 1
    assert message in err
    assert err.startswith("lucida: ")
    assert "Traceback" not in err
    assert out == ""
    assert verbs == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, place):
    words = ["show", "mnii"]
    words.insert(place, "--debug")
    code, _, err = call(capsys, *words)
    assert code == 1
    assert "Traceback" in err
    assert "did you mean `mini`?" in err


@pytest.mark.parametrize(
    "words", [["trian"], ["train"], ["show", "--no-such"], ["eval", "x", "--limit", "0"], []]
)
def test_a_wrong_command_line_is_exit_code_2(capsys, words):
    assert call(capsys, *words)[0] == 2


def raising(problem):
    def verb(*arguments):
        raise problem

    return verb


def test_ctrl_c_says_that_the_run_continues(verbs, capsys, monkeypatch):
    monkeypatch.setattr(
        sys.modules["lucida.training.loop"], "train_run", raising(KeyboardInterrupt())
    )
    monkeypatch.setattr(sys, "argv", ["lucida", "train", "mini"])
    code, _, err = call(capsys, "train", "mini")
    assert code == 130
    assert "`lucida train mini` continues from what is saved" in err


def test_errors_of_the_rooms_are_messages_and_bugs_say_so(verbs, capsys, monkeypatch):
    loop = sys.modules["lucida.training.loop"]
    monkeypatch.setattr(loop, "train_run", raising(RunError("the disk is full")))
    code, _, err = call(capsys, "train", "mini")
    assert (code, err) == (1, "lucida: the disk is full\n")
    monkeypatch.setattr(loop, "train_run", raising(ZeroDivisionError("x")))
    code, _, err = call(capsys, "train", "mini")
    assert code == 1
    assert "unexpected ZeroDivisionError: x" in err
    assert "--debug" in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m lucida schema | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_version_is_printed(capsys):
    assert call(capsys, "--version")[1].strip().count(".") == 2


def test_the_unit_of_boxes_is_checked_before_anything_is_loaded(capsys, tmp_path):
    asked = ("--task", "boxes", "--out", str(tmp_path / "out"), "--boxes", "inches")
    code, _, err = call(capsys, "eval", "hf:nowhere", *asked)
    assert code == 1 and "unknown unit of boxes `inches`" in err
    code, _, err = call(capsys, "eval", str(tmp_path), "--boxes", "pixels")
    assert code == 1 and "--boxes" in err and "leave --boxes out" in err
