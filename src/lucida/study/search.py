"""Search over many values at once, and a study that puts what it found to the test.

    name: rates
    baseline: mini-short
    axes:
      stages.sft.train.language: {low: 2.0e-4, high: 1.0e-2, log: true}
      model.projector.depth: [1, 2, 3]
    trials: 24
    evaluation: {tasks: [counting], limit: 300, curve: 50}
    outcome: counting

Optuna proposes (tree-structured Parzen estimators) and, with `evaluation.curve`, ends what is below
the median of the others half-way. All trials have one seed, so the best of them is lucky as well as
good: DIR/confirm.yaml is a study of it against the baseline with seeds that the search did not see.

DIR/
  trials.log               Optuna's journal: what was proposed and told, for a later call
  recipes/KEY-seedK.yaml   KEY: eight digits of the values' hash
  runs/KEY-seedK/          as in a study; equal values are trained once
  results.json             all trials, best first
  confirm.yaml             the study of the best
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.files import atomic_write, make_folder
from lucida.core.locking import sole_writer
from lucida.core.progress import say
from lucida.core.recipe import dump_recipe, load_recipe
from lucida.core.runs import read_json
from lucida.eval.benchmarks import find_task
from lucida.study.axes import Search, draw_value, make_trial, read_values
from lucida.study.design import BASELINE, MEAN, Design, Study, study_text
from lucida.study.execute import StudyFolder, Worker, ended_together
from lucida.study.measure import measure
from lucida.study.worker import OUTCOME

if TYPE_CHECKING:
    import optuna

JOURNAL, RESULTS, CONFIRM = "trials.log", "results.json", "confirm.yaml"
WARM = 5
"""Trials that are drawn at random, and never ended early, before there is something to compare."""


@dataclass
class Trial:
    """A trial under way. `worker` is None where equal values have an outcome already."""

    asked: optuna.Trial
    design: Design
    folder: StudyFolder
    worker: Worker | None = None
    told: int = 0
    """Scores on the way that Optuna has heard of."""

    @property
    def run(self) -> tuple[str, int]:
        """Arm and seed."""
        return next(arm for arm in self.design.arms if arm != BASELINE), self.design.study.seeds[0]

    @cached_property
    def signs(self) -> dict[str, int]:
        """Task → -1 where less is better."""
        spec = self.design.recipe(*self.run).evaluation
        told = {name: find_task(spec, name) for name in self.design.study.evaluation.tasks}
        return {name: 1 if task.higher_is_better else -1 for name, task in told.items()}

    def falls_behind(self, outcome: str) -> bool:
        """Tells Optuna the new scores on the way; whether it advises to end the trial."""
        scores = [
            (row["total_step"], row["evaluation"]["tasks"])
            for row in self.folder.run(*self.run).metrics.read()
            if row.get("evaluation")
        ]
        for step, tasks in scores[self.told :]:
            names = list(tasks) if outcome == MEAN else [outcome]
            known = {name: tasks[name]["score"] for name in names}
            found = [self.signs[n] * score for n, score in known.items() if score is not None]
            if found:
                self.asked.report(100 * sum(found) / len(found), step)
        self.told = len(scores)
        return self.asked.should_prune()


def run_search(search: Search, base: str, path: Path, jobs: int = 1) -> list[dict]:
    """All trials, `jobs` at a time; gives them as `results.json` has them, best first.

    A trial that Lucida refuses or that diverges is a result, and so is one that was ended early.
    What a stopped search had under way is proposed first by the next call, and goes on from its
    checkpoint. RunError without Optuna, when another process searches here, when another search was
    begun here, or when no trial came to its end.
    """
    try:
        import optuna
    except ImportError as problem:
        raise RunError("optuna is not installed", remedy="pip install 'lucida[search]'") from (
            problem
        )
    folder = StudyFolder(path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with sole_writer(path):
        _declare(search, path)
        ledger = _open_ledger(search, path, jobs)
        # `run` is set when a trial ends: those without it were under way when a search was killed.
        begun = sum("run" in trial.user_attrs for trial in ledger.trials)  # else lost
        trials: list[Trial] = []
        with ended_together() as (running, stopped):
            while begun < search.trials or trials:
                if stopped:
                    raise KeyboardInterrupt
                while begun < search.trials and len(trials) < jobs:
                    trials.append(_begin(search, base, folder, ledger.ask(), trials))
                    begun += 1
                    running[:] = _list_workers(trials)
                time.sleep(0.2)
                for trial in list(trials):
                    if trial.worker is None or trial.worker.has_ended:
                        _tell(search, ledger, trial)
                    elif trial.falls_behind(search.outcome):
                        _prune(ledger, trial)
                    else:
                        continue
                    trials.remove(trial)
                    running[:] = _list_workers(trials)
        return _write_results(search, base, ledger, path)


def _declare(search: Search, path: Path) -> None:
    """Write the search down; RunError when it differs in more than the number of trials from what
    was begun here: told scores would be compared with others."""
    file = make_folder(path) / "search.json"
    given = search.model_dump(mode="json", exclude={"trials", "margin"})
    if file.is_file() and (before := read_json(file)) != given:
        keys = [key for key in given if before.get(key) != given[key]]
        raise RunError(
            f"another search was begun in this folder; {', '.join(keys)} differs",
            expected=before.get(keys[0]),
            given=given[keys[0]],
            origin=path,
            remedy="name another folder with --out DIR",
        )
    atomic_write(file, json.dumps(given, indent=2) + "\n")


def _open_ledger(search: Search, path: Path, jobs: int) -> optuna.Study:
    """Optuna's study in the folder's journal; trials that a killed search left open are proposed
    again."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    early = search.evaluation.curve is not None
    pruner = optuna.pruners.MedianPruner(WARM, search.evaluation.curve or 0)
    ledger = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path / JOURNAL))),
        pruner=pruner if early else optuna.pruners.NopPruner(),
        study_name=search.name,
        direction="maximize",
        load_if_exists=True,
    )
    # Counted on, for a later call must not draw the same random trials again.
    ledger.sampler = optuna.samplers.TPESampler(
        n_startup_trials=WARM, seed=search.seed + len(ledger.trials), constant_liar=jobs > 1
    )
    lost = [each for each in ledger.trials if each.state == optuna.trial.TrialState.RUNNING]
    for trial in lost:
        ledger.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        ledger.enqueue_trial(trial.params)
    return ledger


def _list_workers(trials: Sequence[Trial]) -> list[Worker]:
    """Each once: to be told twice to end is to end without a checkpoint."""
    return list(dict.fromkeys(each.worker for each in trials if each.worker is not None))


def _begin(
    search: Search,
    base: str,
    folder: StudyFolder,
    asked: optuna.Trial,
    others: Sequence[Trial],
) -> Trial:
    """The next trial; equal values of `others`, which are under way, are trained by one worker."""
    values = {key: draw_value(asked, key, axis) for key, axis in search.axes.items()}
    design = make_trial(search, base, values)
    trial = Trial(asked, design, folder)
    arm, seed = trial.run
    if twins := [each for each in others if each.run == trial.run]:
        trial.worker = twins[0].worker
    elif folder.outcome(arm, seed)["state"] in ("waiting", "begun"):
        make_folder(folder.path / "recipes")
        atomic_write(folder.recipe(arm, seed), dump_recipe(design.recipe(arm, seed)))
        trial.worker = Worker.start(folder, arm, seed)
    return trial


def _tell(search: Search, ledger: optuna.Study, trial: Trial) -> None:
    """The end of a trial, to Optuna and to people. RunError for a process that died."""
    import optuna

    if trial.worker is not None:
        trial.worker.log.close()
    run = trial.folder.run(*trial.run).path
    outcome = trial.folder.outcome(*trial.run)
    if outcome["state"] in ("waiting", "begun"):
        code = trial.worker.process.returncode if trial.worker is not None else None
        raise RunError(
            f"a trial ended without an outcome (exit code {code})",
            origin=run,
            remedy="its worker.log says why; the same command goes on where it stopped",
        )
    trial.asked.set_user_attr("run", run.name)
    if outcome["state"] == "done":
        score = measure(run, search.evaluation.tasks).outcome(
            search.outcome, search.evaluation.tasks
        )
        ledger.tell(trial.asked, score)
        told = f"{search.outcome} {score:.1f}"
    elif outcome["state"] == "pruned":
        ledger.tell(trial.asked, state=optuna.trial.TrialState.PRUNED)
        told = "ended early before"
    else:
        ledger.tell(trial.asked, state=optuna.trial.TrialState.FAIL)
        told = f"{outcome['state']}: {outcome.get('why', '')}"
    say(f"trial {trial.asked.number}: {_show(trial.design.arms[trial.run[0]])}: {told}")


def _prune(ledger: optuna.Study, trial: Trial) -> None:
    import optuna

    assert trial.worker is not None
    trial.worker.end()
    run = trial.folder.run(*trial.run).path
    if not (run / OUTCOME).is_file():
        atomic_write(run / OUTCOME, json.dumps({"state": "pruned"}) + "\n")
    trial.asked.set_user_attr("run", run.name)
    ledger.tell(trial.asked, state=optuna.trial.TrialState.PRUNED)
    values = _show(trial.design.arms[trial.run[0]])
    say(f"trial {trial.asked.number}: {values}: ended early, below the median of the others")


def _show(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _write_results(search: Search, base: str, ledger: optuna.Study, path: Path) -> list[dict]:
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "score": trial.value if trial.state.name == "COMPLETE" else None,
            "values": read_values(search, trial.params),
            "run": trial.user_attrs.get("run"),
        }
        for trial in ledger.trials
        if "run" in trial.user_attrs
    ]
    rows.sort(key=lambda row: (row["score"] is None, -(row["score"] or 0), row["trial"]))
    atomic_write(path / RESULTS, json.dumps({"name": search.name, "trials": rows}, indent=2) + "\n")
    if not rows or rows[0]["score"] is None:
        raise RunError(
            f"none of {len(rows)} trials came to its end",
            origin=path / RESULTS,
            remedy="their outcome.json says why",
        )
    _write_confirmation(search, base, path, rows)
    return rows


def _write_confirmation(search: Search, base: str, path: Path, rows: list[dict]) -> None:
    """The study of the best trial; none when that is the baseline itself."""
    baseline = search.baseline
    if Path(base.partition("#")[0]).is_file():  # the folder can be read without it
        baseline = "baseline.yaml"
        atomic_write(path / baseline, dump_recipe(load_recipe(base)))
    study = Study(
        name=f"{search.name}-confirm",
        question=f"Is the best of {len(rows)} trials better than the baseline on other seeds?",
        baseline=baseline,
        common=search.common,
        changes={"found": rows[0]["values"]},
        seeds=[search.seed + 1 + place for place in range(3)],
        evaluation=search.evaluation,
        primary={"outcome": search.outcome, "margin": search.margin},
    )
    (path / CONFIRM).unlink(missing_ok=True)
    # Not `make_design`, which refuses a study whose arm is the baseline.
    design = Design(study, {BASELINE: {}} | study.changes, base)
    if design.differences("found"):
        atomic_write(path / CONFIRM, study_text(study))


def weigh_axes(search: Search, path: Path) -> dict[str, float]:
    """Axis → share of what it explains of the scores (PED-ANOVA), for ten finished trials or more;
    else empty."""
    import optuna

    ledger = _open_ledger(search, path, 1)
    done = [each for each in ledger.trials if each.state == optuna.trial.TrialState.COMPLETE]
    if len(done) < 10 or len(search.axes) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(ledger, evaluator=evaluator)
