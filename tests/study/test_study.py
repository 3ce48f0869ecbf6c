"""One real study from file to report, and what happens when runs fail, die or are started twice."""

import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from forking import Asked, start
from lucida.apps.arms import plan_arms
from lucida.apps.command import app
from lucida.apps.verbs import study as verbs  # noqa: F401 - puts the verbs there
from lucida.core.errors import RecipeError, RunError
from lucida.core.files import atomic_write
from lucida.core.locking import sole_writer
from lucida.core.runs import RunFolder, read_json
from lucida.eval.during_training import observers
from lucida.eval.store import weights_hash
from lucida.study import execute
from lucida.study.analysis import Look, analyse, compare, is_decided
from lucida.study.design import BASELINE, load_design
from lucida.study.execute import StudyFolder, run_study, split_by_training, take_over
from lucida.study.looks import run_to_looks
from lucida.study.measure import how_soon, measure
from lucida.study.noise import known_noise, learn_noise
from lucida.study.report import content
from lucida.study.shared_stages import watch_stages
from lucida.study.worker import OUTCOME, find_place, work
from lucida.training.loop import train_run

TEXT = """
name: probe
question: Does the projector need positions?
baseline: mini
common:
  stages.sft.budget.steps: 2
  stages.sft.batch.samples: 2
  stages.sft.mixture.sources.world.count: 32
changes: {without: {model.projector.position: false}}
seeds: %s
evaluation: {tasks: [attribute, presence-adversarial], limit: 6}
primary: {margin: 3}
"""


@pytest.fixture
def design(tmp_path):
    def make(seeds="[0]"):
        file = tmp_path / "probe.yaml"
        file.write_text(TEXT % seeds)
        return load_design(file)

    return make


def write_run(folder, arm, seed, score, recipe, ids=4):
    """A run folder as training and evaluation leave it, with `score` of `ids` answers right."""
    run = RunFolder(folder.run(arm, seed).path).prepare()
    run.write_recipe(recipe)
    tasks = {}
    for task in recipe.evaluation.tasks:
        rows = [
            {"id": f"{task}/{n}", "cluster": f"{task}/{n // 2}", "prompt": "?", "output": "",
             "score": float((n + seed) % ids < score)}
            for n in range(ids)
        ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run.path / "predictions").mkdir(exist_ok=True)
        atomic_write(run.path / "predictions" / f"{task}.jsonl", text)
        tasks[task] = {"score": score / ids, "interval": [0, 1], "metric": "accuracy",
                       "n": ids, "chance": 0.25}  # fmt: skip
    run.write_results({"tasks": tasks, "seconds": {"train": 1.0}})


def finish(folder, arm, seed, **outcome):
    path = folder.run(arm, seed).path
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"state": "done", "seconds": 1.0, "memory_mb": 1.0} | outcome)
    (path / OUTCOME).write_text(text)


def fill(design, folder, scores):
    """All runs of a design, written rather than trained; a text is why one failed."""
    folder.declare(design)
    for arm, seed in design.runs:
        score = scores[arm][seed]
        if isinstance(score, str):
            finish(folder, arm, seed, state="failed", why=score)
        else:
            write_run(folder, arm, seed, score, design.recipe(arm, seed))
            finish(folder, arm, seed)


@pytest.fixture
def forked(monkeypatch):
    """Lets the workers of a study be forked; of the arms named the program is started."""
    start_program = execute.Worker.start

    def fork(*programs):
        def begin(folder, arm, seed):
            if arm in programs:
                return start_program(folder, arm, seed)
            recipe, place = folder.recipe(arm, seed), folder.run(arm, seed).path
            place.mkdir(parents=True, exist_ok=True)
            threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            words = recipe.resolve(), place.resolve()
            process = start(place / execute.LOG, work, *words, environment=threads)
            return execute.Worker(arm, seed, Asked(process), io.BytesIO())

        monkeypatch.setattr(execute.Worker, "start", begin)

    return fork


def test_a_study_from_file_to_report(tmp_path, design, forked):
    """Two arms, trained for real in processes of their own, side by side."""
    design()
    forked(BASELINE)
    out, file = tmp_path / "out", tmp_path / "probe.yaml"
    words = ["study", "run", str(file), "--out", str(out), "--jobs", "2"]
    first = CliRunner().invoke(app, words)
    logs = [log.read_text() for log in out.glob("runs/*/worker.log")]
    assert first.exit_code == 0, (first.output, logs)
    assert "without cannot be told from the baseline" in first.output
    assert "which says nothing about chance" in first.output
    results = json.loads((out / "results.json").read_text())
    assert [each["state"] for each in results["ends"]] == ["done", "done"]
    assert results["cost"]["without"]["samples"] == 4
    page = (out / "report.html").read_text()
    assert "model.projector.position: true -&gt; false" in page and "http" not in page
    inputs = [json.loads(f.read_text()) for f in out.glob("runs/*/inputs.json")]
    assert inputs[0] == inputs[1]
    times = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/*")}
    assert CliRunner().invoke(app, words).exit_code == 0
    assert times == {file: file.stat().st_mtime_ns for file in out.glob("runs/*/*")}
    runs = [str(out / "runs" / f"{arm}-seed0") for arm in (BASELINE, "without")]
    words = ["compare", *runs, "--out", str(tmp_path / "both")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "(exploratory)" in said.output


def test_arms_that_ask_otherwise_share_one_training(tmp_path, forked):
    """`without` trains for itself; two others ask what the baseline and it have trained."""
    forked()
    half = {"evaluation.visual_tokens": {"keep": 0.5, "by": "random"}}
    changes = {
        "without": {"model.projector.position": False},
        "half": half,
        "without-half": {"model.projector.position": False} | half,
    }
    file = tmp_path / "probe.yaml"
    text = TEXT.replace("{without: {model.projector.position: false}}", json.dumps(changes))
    file.write_text(text % "[0]")
    probe, folder = load_design(file), StudyFolder(tmp_path / "out")
    assert probe.trained_by == {"half": BASELINE, "without-half": "without"}
    assert any("half: the model that baseline has trained" in note for note in probe.notes)
    first, behind, after = split_by_training(probe, folder, list(probe.runs))
    assert first == [(BASELINE, 0), ("without", 0)] and not behind
    assert after == [("half", 0), ("without-half", 0)]
    run_study(probe, folder, jobs=2, arms=["half"])
    logs = [log.read_text() for log in folder.path.glob("runs/*/worker.log")]
    runs = {arm: folder.run(arm, 0) for arm in (BASELINE, "half")}
    ends = {arm: folder.outcome(arm, 0) for arm in runs}
    assert {end["state"] for end in ends.values()} == {"done"}, logs
    assert {arm: end.get("trained") for arm, end in ends.items()} == {
        BASELINE: None,
        "half": "baseline-seed0",
    }
    assert len({weights_hash(run.path) for run in runs.values()}) == 1
    assert runs["half"].recipe == probe.recipe("half", 0)
    assert runs["half"].metrics.read() == runs[BASELINE].metrics.read()
    tasks = probe.study.evaluation.tasks
    cost = [measure(run.path, tasks).cost for run in (runs[BASELINE], runs["half"])]
    assert cost[0]["seconds"] == cost[1]["seconds"] and cost[1]["samples"] == 4
    settings = [
        json.loads((run.path / "predictions" / "settings.json").read_text())
        for run in (runs[BASELINE], runs["half"])
    ]
    assert "visual tokens" not in settings[0]
    assert settings[1]["visual tokens"] == {"keep": 0.5, "by": "random", "layer": None}
    rows = {file: file.stat().st_mtime_ns for file in folder.path.glob("runs/*/*")}
    run_study(probe, folder, arms=["half"])
    assert rows == {file: file.stat().st_mtime_ns for file in folder.path.glob("runs/*/*")}


STAGES_TEXT = """
name: staged
question: Does the second stage need the language model?
baseline: mini-two-stage
common:
  stages.align.budget: {steps: 2}
  stages.align.batch.samples: 2
  stages.sft.budget: {steps: 2}
  stages.sft.batch.samples: 2
changes:
  frozen: {stages.sft.train.language: frozen}
  aligned: {stages.sft: null}
  longer: {stages.align.budget: {steps: 3}}
seeds: [0]
evaluation: {tasks: [attribute], limit: 4}
primary: {margin: 3}
"""


def test_first_stages_that_arms_share_are_trained_once(tmp_path):
    """What goes on behind them has the weights, bit for bit, that it would have had alone."""
    file = tmp_path / "staged.yaml"
    file.write_text(STAGES_TEXT)
    probe, folder = load_design(file), StudyFolder(tmp_path / "out")
    folder.declare(probe)
    assert probe.shared_stages == {BASELINE: 0, "frozen": 1, "aligned": 1, "longer": 0}
    costs = plan_arms(probe)
    assert costs["aligned"]["shared"] == 1 and costs["longer"]["shared"] == 0
    assert 0 < costs["frozen"]["shared"] < 1
    first, behind, after = split_by_training(probe, folder, list(probe.runs))
    assert first == [(BASELINE, 0), ("longer", 0)] and not after
    assert behind == [("frozen", 0), ("aligned", 0)]
    for arm, seed in [*first, *behind]:
        work(folder.recipe(arm, seed), folder.run(arm, seed).path)
    alone = tmp_path / "alone"
    for arm in ("frozen", "aligned"):
        run, recipe = folder.run(arm, 0), probe.recipe(arm, 0)
        train_run(recipe, alone / arm, "", observers(recipe))
        assert weights_hash(run.path) == weights_hash(alone / arm), arm
        rows, whole = run.metrics.read(), RunFolder(alone / arm).metrics.read()
        taken = [row["total_step"] for row in rows if "grad_norm" in row]
        assert taken == [row["total_step"] for row in whole if "grad_norm" in row]
        assert read_json(run.path / "inputs.json") == read_json(alone / arm / "inputs.json")
    steps = {
        arm: sum(row.get("stage") == "align" and "grad_norm" in row for row in of.metrics.read())
        for arm in probe.arms
        if (of := folder.run(arm, 0))
    }
    assert steps == {BASELINE: 2, "frozen": 2, "aligned": 2, "longer": 3}
    assert len(list((folder.path / "stages").iterdir())) == 1
    other = folder.run("other", 0)  # what was begun without is left alone, and what nobody shares
    recipes = sorted((folder.path / "recipes").glob("*.yaml"))
    assert watch_stages(other.path, probe.recipe(BASELINE, 0), recipes, {})
    assert not watch_stages(other.path, probe.recipe("longer", 0), recipes, {})
    (other.path / "checkpoints").mkdir(parents=True)
    assert not watch_stages(other.path, probe.recipe(BASELINE, 0), recipes, {})
    first_steps = [
        next(row for row in folder.run(arm, 0).metrics.read() if "grad_norm" in row)
        for arm in (BASELINE, "frozen")
    ]
    assert first_steps[0] == first_steps[1]  # taken once, its seconds tell
    run_study(probe, folder)
    assert not (folder.path / "stages").exists()


def test_noise_within_one_trained_model_says_nothing_about_two(tmp_path):
    file = tmp_path / "probe.yaml"
    half = "half: {evaluation.visual_tokens: {keep: 0.5, by: grid}}"
    file.write_text(TEXT.replace("{without:", f"{{{half}, without:") % "[0, 1]")
    probe = load_design(file)
    folder = StudyFolder(tmp_path / "all" / "out")
    scores = {BASELINE: [1, 2], "without": [3, 3], "half": [2, 1]}
    fill(probe, folder, scores)
    learn_noise(analyse(probe, folder), tmp_path / "noise.json")
    known = json.loads((tmp_path / "noise.json").read_text())["mini"]
    assert {key.split(", ")[1] for key in known} == {"without"}


def test_failed_runs_are_results(tmp_path, design):
    probe, folder = design("[0, 1, 2]"), StudyFolder(tmp_path / "out")
    fill(probe, folder, {BASELINE: [1, 2, 2], "without": [3, "the loss was not finite", 3]})
    found = analyse(probe, folder)
    assert [each["why"] for each in found.lost] == ["the loss was not finite"]
    assert found.findings[0].seeds == 2
    assert found.findings[0].differences == pytest.approx([50, 25])
    assert found.findings[0].mean == pytest.approx(37.5)
    assert folder.to_do(probe) == []
    assert folder.to_do(probe, again=True) == [("without", 1)]


def test_a_run_that_another_study_finished_is_taken_from_there(tmp_path, design):
    probe, first = design("[0, 1]"), StudyFolder(tmp_path / "all" / "first")
    fill(probe, first, {BASELINE: [1, 2], "without": [3, 3]})
    second = StudyFolder(tmp_path / "all" / "second")
    assert not take_over(probe, second, BASELINE, 0)  # nothing says what that run was
    for seed in (0, 1):
        finish(first, BASELINE, seed, place=find_place())
    finish(first, "without", 0, place={"cpu": "another"})
    assert take_over(probe, second, BASELINE, 1) and not take_over(probe, second, BASELINE, 0 + 1)
    assert not take_over(probe, second, "without", 0)
    assert second.outcome(BASELINE, 1)["from"] == f"first/runs/{BASELINE}-seed1"
    copied, tasks = second.run(BASELINE, 1).path, probe.study.evaluation.tasks
    assert measure(copied, tasks).tasks == measure(first.run(BASELINE, 1).path, tasks).tasks


def test_a_folder_is_read_without_its_baseline_file_and_after_new_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: mini\nname: mine\nchanges: {seed: 3}\n")
    (tmp_path / "probe.yaml").write_text((TEXT % "[0]").replace("mini", "mine.yaml"))
    folder = StudyFolder(tmp_path / "out")
    folder.declare(load_design(tmp_path / "probe.yaml"))
    (tmp_path / "mine.yaml").unlink()
    folder.check(load_design(folder.path))
    file = folder.path / "declared.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hash": "of older fields"}))
    folder.check(load_design(folder.path))
    recipe = folder.recipe("without", 0)
    recipe.write_text(recipe.read_text().replace("steps: 2", "steps: 3"))
    with pytest.raises(RunError, match="another study was declared"):
        folder.check(load_design(folder.path))


def test_a_worker_that_dies_leaves_its_run_to_do(tmp_path, design, monkeypatch, capfd):
    probe, folder = design(), StudyFolder(tmp_path / "out")
    monkeypatch.setattr(execute, "_paths", lambda *each: ("/dev/null/none", tmp_path / "nowhere"))
    with pytest.raises(RunError, match="2 of 2 runs ended without an outcome") as told:
        run_study(probe, folder, jobs=2)
    assert "goes on where they stopped" in str(told.value)
    assert folder.to_do(probe) == list(probe.runs)
    line = r"ended without an outcome: .*there is no recipe `/dev/null/none`.* \(exit code 1\)"
    assert len(re.findall(line, capfd.readouterr().err)) == 2


def test_sigterm_ends_the_workers_too(tmp_path, design, monkeypatch):
    probe, folder, started = design(), StudyFolder(tmp_path / "out"), []

    def start(folder, arm, seed):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        started.append(process)
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return execute.Worker(arm, seed, process, io.BytesIO())

    monkeypatch.setattr(execute.Worker, "start", start)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_study(probe, folder, jobs=2)
    assert all(process.poll() is not None for process in started)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_gets_one_signal_and_finishes_its_step(tmp_path, design, monkeypatch, asked):
    """A second one would end it at once, without a checkpoint."""
    probe, folder, file = design(), StudyFolder(tmp_path / "out"), tmp_path / "signals"
    code = f"""
import signal, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
print("ready", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.2)
open({str(file)!r}, "w").write(str(len(got)))
"""

    def start(folder, arm, seed):
        words = [sys.executable, "-c", code]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        process.stdout.readline()
        os.kill(os.getpid(), asked)
        return execute.Worker(arm, seed, process, io.BytesIO())

    monkeypatch.setattr(execute.Worker, "start", start)
    before = signal.signal(asked, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run_study(probe, folder)
    finally:
        signal.signal(asked, before)
    assert file.read_text() == "1"


def test_ctrl_c_in_a_terminal_reaches_a_worker_only_through_us(tmp_path, design, monkeypatch):
    monkeypatch.setattr(execute, "_paths", lambda *each: ("/dev/null/none", tmp_path / "nowhere"))
    worker = execute.Worker.start(StudyFolder(tmp_path / "out"), BASELINE, 0)
    assert os.getpgid(worker.process.pid) == worker.process.pid
    worker.end()


def test_some_arms_can_run_first(tmp_path, design, monkeypatch):
    probe, folder = design("[0, 1]"), StudyFolder(tmp_path / "out")
    started = []

    def pretend(folder, todo, jobs):
        started.extend(todo)
        for each in todo:
            finish(folder, *each)

    monkeypatch.setitem(execute.EXECUTORS, "local", pretend)
    with pytest.raises(RunError, match="did you mean `without`"):
        run_study(probe, folder, arms=["witout"])
    probe.arms["other"] = {"model.projector.norm": False}
    run_study(probe, folder, arms=["without"])
    assert {arm for arm, _ in started} == {BASELINE, "without"} and len(started) == 4
    assert [arm for arm, _ in folder.to_do(probe)] == ["other", "other"]


def test_submitit_runs_all_and_tells_what_died(tmp_path, design, monkeypatch, capfd):
    """Real jobs of its local executor; the work is pretended, and one of two arms dies."""
    package = pytest.importorskip("submitit")
    local = functools.partial(package.AutoExecutor, cluster="local")  # also where SLURM is
    monkeypatch.setattr(package, "AutoExecutor", local)

    def pretend(recipe_file, folder):
        if "without" in folder.name:
            raise ValueError("this one dies")
        folder.mkdir(parents=True)
        (folder / "outcome.json").write_text('{"state": "done"}')

    monkeypatch.setattr(execute, "work", pretend)
    probe, folder = design(), StudyFolder(tmp_path / "out")
    with pytest.raises(RunError, match="1 of 2 runs ended without an outcome: without-seed0"):
        run_study(probe, folder, jobs=2, executor="submitit")
    assert folder.outcome(BASELINE, 0)["state"] == "done"
    assert "this one dies" in (folder.run("without", 0).path / execute.LOG).read_text()
    assert "without seed 0: ended without an outcome: " in capfd.readouterr().err
    assert folder.to_do(probe) == [("without", 0)]


def looking(tmp_path, looks):
    text = (TEXT % "[0, 1, 2, 3]").replace("{margin: 3}", f"{{margin: 3, looks: {looks}}}")
    (tmp_path / "looks.yaml").write_text(text)
    return load_design(tmp_path / "looks.yaml")


@pytest.mark.parametrize(("gain", "stops"), [((3, 4, 3, 4), False), ((4, 4, 4, 4), True)])
def test_a_study_stops_at_the_look_that_decides(tmp_path, monkeypatch, gain, stops):
    """Where all seeds say the same after two, at their level, the other two are not run."""
    probe, folder = looking(tmp_path, [2, 4]), StudyFolder(tmp_path / "out")

    def pretend(folder, todo, jobs):
        for arm, seed in todo:
            score = 4 if arm == BASELINE else gain[seed]
            write_run(folder, arm, seed, score, probe.recipe(arm, seed))
            finish(folder, arm, seed)

    monkeypatch.setitem(execute.EXECUTORS, "local", pretend)
    run_to_looks(probe, folder)
    assert (len(folder.to_do(probe)) == 4) is stops
    look = analyse(probe, folder).look
    assert (look.number, look.seeds) == ((1, 2) if stops else (2, 4))
    assert look.level < 0.05 and is_decided(analyse(probe, folder)) is stops


def test_looks_have_to_rise_to_all_seeds(tmp_path):
    for looks in ([1, 4], [2, 3], [3, 2, 4]):
        with pytest.raises(RecipeError, match="have to rise from at least 2 seeds to all 4"):
            looking(tmp_path, looks)
    probe, folder = looking(tmp_path, [3, 4]), StudyFolder(tmp_path / "out")
    folder.declare(probe)
    for arm in (BASELINE, "without"):
        write_run(folder, arm, 0, 2, probe.recipe(arm, 0))
        finish(folder, arm, 0)
    found = analyse(probe, folder)
    assert found.look.number == 0 and found.findings[0].verdict == "cannot tell"
    assert any(
        "before the first of 2 looks" in note for note in content(found, folder.path)["notes"]
    )
    for arm, score in ((BASELINE, 1), ("without", 2)):
        write_run(folder, arm, 1, score, probe.recipe(arm, 1))
        finish(folder, arm, 1)
    (said,) = content(analyse(probe, folder), folder.path)["sentences"]
    assert said.endswith("from 2 seeds, before the first look"), said


def test_two_launches_and_another_declaration_are_refused(tmp_path, design):
    folder = StudyFolder(tmp_path / "out")
    folder.declare(design())
    with pytest.raises(RunError, match="another study was declared"):
        run_study(design("[0, 1]"), folder)
    code = "import sys; from lucida.core.locking import sole_writer; from pathlib import Path\n"
    code += "with sole_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    import subprocess
    import sys

    words = [sys.executable, "-c", code, str(folder.path)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match=f"process {other.pid} is writing"):
            run_study(design(), folder)
    finally:
        other.communicate()
    with sole_writer(folder.path):
        pass


def test_a_published_study_is_run_again_in_its_folder(tmp_path, design):
    """What is published are the declaration and the reports, without recipes and runs."""
    folder, study = StudyFolder(tmp_path / "out"), design()
    declared = folder.declare(study)
    files = {each.name: each.read_bytes() for each in (folder.path / "recipes").iterdir()}
    shutil.rmtree(folder.path / "recipes")
    with pytest.raises(RunError, match="another study was declared"):
        folder.declare(design("[0, 1]"))
    assert folder.declare(study) == declared
    assert {each.name: each.read_bytes() for each in (folder.path / "recipes").iterdir()} == files


def test_other_examples_are_refused(tmp_path, design):
    probe, folder = design(), StudyFolder(tmp_path / "out")
    fill(probe, folder, {BASELINE: [1], "without": [2]})
    write_run(folder, "without", 0, 2, probe.recipe("without", 0), ids=6)
    with pytest.raises(RunError, match="without and baseline, attribute: runs were asked diff"):
        analyse(probe, folder)
    write_run(folder, "without", 0, 2, probe.recipe("without", 0))
    file = folder.run("without", 0).path / "predictions" / "attribute.jsonl"
    file.write_text(file.read_text().replace('"?"', '"what?"'))
    with pytest.raises(RunError, match=r"attribute: attribute/0: .*expected '\?', got 'what\?'"):
        analyse(probe, folder)


def test_nothing_to_compare_is_said(tmp_path, design):
    probe, folder = design(), StudyFolder(tmp_path / "out")
    with pytest.raises(RunError, match="has not begun"):
        analyse(probe, folder)
    fill(probe, folder, {BASELINE: [1], "without": ["broken"]})
    with pytest.raises(RunError, match="without-seed0 failed"):
        analyse(probe, folder)


def test_what_is_better_when_lower_counts_as_negative(tmp_path, design):
    probe, folder = design(), StudyFolder(tmp_path / "out")
    fill(probe, folder, {BASELINE: [1], "without": [2]})
    run = folder.run(BASELINE, 0)
    results = run.results
    results.tasks["attribute"].higher_is_better = False
    run.write_results(results)
    for samples, score in ((8, 0.5), (16, 0.25)):
        looked = {"tasks": {"attribute": {"score": score, "interval": [0, 1], "n": 4}}}
        run.metrics.append({"loss": 1.0, "samples": samples, "tokens": 9 * samples})
        run.metrics.append({"evaluation": looked})
    found = measure(run.path)
    assert found.outcome("attribute", []) == -0.25  # bits per byte are no points
    assert found.outcome("mean", ["attribute", "presence-adversarial"]) == (25 - 0.25) / 2
    assert found.curve == [(8, {"attribute": -0.5}), (16, {"attribute": -0.25})]
    assert (found.cost["samples"], found.cost["tokens"]) == (16, 144)


def test_all_intervals_are_those_of_the_level(tmp_path, design):
    probe, folder = design("[0, 1, 2]"), StudyFolder(tmp_path / "out")
    fill(probe, folder, {BASELINE: [0, 0, 0], "without": [2, 1, 3]})
    runs = {arm: {k: measure(folder.run(arm, k).path) for k in range(3)} for arm in probe.arms}
    wide, narrow = (compare(probe, runs, Look(1, 1, 3, level)).findings[0] for level in (0.01, 0.4))
    for name in ("own_interval", "bootstrap", "stabilised"):
        ends = [getattr(each, name) for each in (wide, narrow)]
        assert ends[0][0] < ends[1][0] < ends[1][1] < ends[0][1], name


def test_planning_knows_how_many_questions_share_a_picture(tmp_path, design):
    probe, folder, file = design("[0, 1]"), StudyFolder(tmp_path / "out"), tmp_path / "noise.json"
    fill(probe, folder, {BASELINE: [1, 2], "without": [3, 3]})
    learn_noise(analyse(probe, folder), file)
    assert known_noise(probe, file)[2] == 0.5  # two questions to each picture


def test_a_saturated_task_is_left_out_of_aggregates(tmp_path, design):
    probe, folder = design("[0, 1]"), StudyFolder(tmp_path / "out")
    fill(probe, folder, {BASELINE: [4, 4], "without": [4, 4]})
    found = analyse(probe, folder)
    assert set(found.flagged) == set(probe.study.evaluation.tasks)
    assert found.aggregates == {}
    assert found.findings[0].verdict == "equivalent"


def test_how_soon_as_worked_out_by_hand():
    found = how_soon([(100, {"a": 0.0}), (200, {"a": 50.0}), (300, {"a": 60.0})])
    assert found == pytest.approx({"half": 160, "ninety": 240, "area": 40})
    assert how_soon([(100, {"a": 1.0})]) == {}
