"""The runs of a study: one process each, a few at a time, taken up again where they stopped.

STUDIES/NAME/
  study.yaml, declared.json   what was declared, and its hash, written before the first run
  recipes/ARM-seedK.yaml      resolved
  runs/ARM-seedK/             run folders as `lucida train` and `lucida eval` make them
  runs/ARM-seedK/outcome.json done, failed or diverged, with the reason; without it: to do
  stages/                     first stages that several runs have in common, until all are done
  noise.json                  in STUDIES: what finished studies measured, for planning

A run that another study in STUDIES has finished (one recipe but for its name, one seed, the same
versions and CPU) is copied from there, scores and answers without the weights.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from lucida.core.environment import describe
from lucida.core.errors import RecipeError, RunError, suggestion
from lucida.core.files import atomic_folder, atomic_write, make_folder
from lucida.core.locking import sole_writer
from lucida.core.progress import say
from lucida.core.recipe import diff_recipes, dump_recipe, load_recipe
from lucida.core.runs import RunFolder, read_json
from lucida.study.design import BASELINE, Design, load_design, study_text
from lucida.study.keys import STAGES, key_of, key_of_training, keys_of_stages
from lucida.study.worker import OUTCOME, find_place, find_trained, work

LOG = "worker.log"
KEPT = ("recipe.yaml", "environment.json", "inputs.json", "metrics.jsonl", "results.json")
"""Files of a run that a study reads, beside `predictions`."""


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lives on disk."""

    path: Path

    def run(self, arm: str, seed: int) -> RunFolder:
        """The run folder of an arm and a seed."""
        return RunFolder(self.path / "runs" / f"{arm}-seed{seed}")

    def recipe(self, arm: str, seed: int) -> Path:
        """The resolved recipe of that run."""
        return self.path / "recipes" / f"{arm}-seed{seed}.yaml"

    def outcome(self, arm: str, seed: int) -> dict:
        """`{"state": done | failed | diverged | begun | waiting, "why", "seconds", "memory"}`."""
        run = self.run(arm, seed)
        file = run.path / OUTCOME
        if file.is_file():
            return read_json(file)
        return {"state": "begun" if run.exists else "waiting"}

    def declare(self, design: Design) -> dict:
        """Write the study down before its first run; RunError when another was declared here."""
        make_folder(self.path / "recipes")
        file = self.path / "declared.json"
        if file.is_file():
            before = read_json(file)
            if before.get("hash") != design.hash and not self._holds(design):
                raise RunError(
                    "another study was declared in this folder",
                    expected=before.get("hash"),
                    given=design.hash,
                    origin=self.path,
                    remedy="name another folder with --out DIR: what was declared before the first "
                    "run cannot change afterwards",
                )
            # A published study comes without them.
            missing = [each for each in design.runs if not self.recipe(*each).is_file()]
            self._write_recipes(design, missing)
            return before
        self._write_recipes(design, design.runs)
        study = design.study
        if Path(design.base.partition("#")[0]).is_file():  # the folder can be read without it
            atomic_write(self.path / "baseline.yaml", dump_recipe(load_recipe(design.base)))
            study = study.model_copy(update={"baseline": "baseline.yaml"})
        atomic_write(self.path / "study.yaml", study_text(study))
        entry = {"hash": design.hash, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        entry |= {"environment": describe(" ".join(["lucida", *sys.argv[1:]]))}
        atomic_write(file, json.dumps(entry, indent=2) + "\n")
        return entry

    def _write_recipes(self, design: Design, runs: Iterable[tuple[str, int]]) -> None:
        for arm, seed in runs:
            atomic_write(self.recipe(arm, seed), dump_recipe(design.recipe(arm, seed)))

    def _holds(self, design: Design) -> bool:
        """Whether what was declared says the same in today's words: a later Lucida may give recipes
        more fields, and so other hashes."""
        if not (self.path / "study.yaml").is_file():
            return False
        try:
            before = load_design(self.path)
        except RecipeError:
            return False
        if before.hash != design.hash:
            return False
        return all(
            self.recipe(arm, seed).is_file()
            and not diff_recipes(load_recipe(self.recipe(arm, seed)), design.recipe(arm, seed))
            for arm, seed in design.runs
        )

    def check(self, design: Design) -> None:
        """RunError unless this study was declared here."""
        if not (self.path / "declared.json").is_file():
            raise RunError(
                "this study has not begun", origin=self.path, remedy="`lucida study run` begins it"
            )
        self.declare(design)

    def to_do(self, design: Design, again: bool = False) -> list[tuple[str, int]]:
        """Runs without an outcome; with `again` failed ones as well."""
        open_states = ("waiting", "begun", "failed") if again else ("waiting", "begun")
        return [each for each in design.runs if self.outcome(*each)["state"] in open_states]


Launch = Callable[[StudyFolder, list[tuple[str, int]], int], None]


def run_study(
    design: Design,
    folder: StudyFolder,
    jobs: int = 1,
    again: bool = False,
    executor: str = "local",
    arms: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> None:
    """Every run that has no outcome yet, `jobs` at a time, of the baseline and `arms` (none: all)
    and of `seeds` (None: all);
    RunError when another process runs this study, or when workers died (what they trained is kept,
    another call goes on)."""
    if unknown := [arm for arm in arms if arm not in design.arms]:
        raise RunError(
            f"the study has no arm `{unknown[0]}`", remedy=suggestion(unknown[0], design.arms)
        )
    chosen = {BASELINE, *arms} if arms else set(design.arms)
    seeds = design.study.seeds if seeds is None else seeds
    wanted = set(itertools.product(chosen, seeds))
    with sole_writer(folder.path):
        folder.declare(design)
        todo = [each for each in folder.to_do(design, again) if each in wanted]
        for arm, seed in todo:
            (folder.run(arm, seed).path / OUTCOME).unlink(missing_ok=True)
        todo = [each for each in todo if not take_over(design, folder, *each)]
        total = len(wanted)
        say(f"{design.study.name}: {total} runs, {total - len(todo)} have an outcome already")
        for part in split_by_training(design, folder, todo):
            if part:
                EXECUTORS[executor](folder, part, jobs)
        if not folder.to_do(design):
            shutil.rmtree(folder.path / STAGES, ignore_errors=True)
        if left := [each for each in folder.to_do(design) if each in wanted]:
            names = ", ".join(f"{arm}-seed{seed}" for arm, seed in left)
            raise RunError(
                f"{len(left)} of {total} runs ended without an outcome: {names}",
                origin=folder.path / "runs",
                remedy=f"their {LOG} says why; `lucida study run` goes on where they stopped",
            )


def split_by_training(
    design: Design, folder: StudyFolder, todo: list[tuple[str, int]]
) -> tuple[list[tuple[str, int]], ...]:
    """Runs that train all of their stages; those to do after them, whose first stages have been
    trained by then (`take_stages` in the worker); and those that ask a model which another has
    trained (`find_trained`)."""
    first, behind, after = [], [], []
    trained, stages = set(), set()
    for arm, seed in todo:
        recipe = design.recipe(arm, seed)
        key, begun = key_of_training(recipe), set(keys_of_stages(recipe))
        if key in trained or find_trained(recipe, folder.run(arm, seed).path) is not None:
            after.append((arm, seed))
            continue
        (behind if begun & stages else first).append((arm, seed))
        trained.add(key)
        stages |= begun
    return first, behind, after


def take_over(design: Design, folder: StudyFolder, arm: str, seed: int) -> bool:
    """Copies the run from another study beside this one that has finished it; whether one had."""
    run = folder.run(arm, seed).path
    if run.exists():
        return False
    wanted, place = key_of(design.recipe(arm, seed)), find_place()
    for file in sorted(folder.path.parent.glob(f"*/runs/*/{OUTCOME}")):
        found, recipe = read_json(file), file.parents[2] / "recipes" / f"{file.parent.name}.yaml"
        if found["state"] != "done" or found.get("place") != place or not recipe.is_file():
            continue
        if _read_key(recipe) != wanted:
            continue
        # Of a run that was itself copied the first place is named, however often it travels.
        origin = found.get("from") or f"{file.parts[-4]}/runs/{file.parts[-2]}"
        with atomic_folder(run) as aside:
            for name in KEPT:
                if (file.parent / name).is_file():
                    shutil.copyfile(file.parent / name, aside / name)
            shutil.copytree(file.parent / "predictions", aside / "predictions")
            (aside / OUTCOME).write_text(json.dumps(found | {"from": origin}, indent=2) + "\n")
        say(f"{arm} seed {seed}: taken from {origin}")
        return True
    return False


@cache  # every run that is to do is compared with every run that is done
def _read_key(recipe: Path) -> str:
    return key_of(load_recipe(recipe))


def run_here(folder: StudyFolder, todo: list[tuple[str, int]], jobs: int) -> None:
    """On this machine, a process of one thread for each run. Ending this process ends them:
    KeyboardInterrupt for Ctrl-C and SIGTERM, when all have written their checkpoints."""
    waiting, done = list(reversed(todo)), 0
    with ended_together() as (running, stopped):
        while waiting or running:
            if stopped:
                raise KeyboardInterrupt
            while waiting and len(running) < jobs:
                running.append(Worker.start(folder, *waiting.pop()))
            time.sleep(0.2)
            for worker in [each for each in running if each.has_ended]:
                running.remove(worker)
                worker.log.close()
                done += 1
                log = folder.run(worker.arm, worker.seed).path / LOG
                said = log.read_text("utf-8", "replace").strip() if log.is_file() else ""
                said += f" (exit code {worker.process.returncode})"
                _tell(folder, (worker.arm, worker.seed), said, f"{done}/{len(todo)} ")


@dataclass(frozen=True)
class Worker:
    """A run in a process of its own."""

    arm: str
    seed: int
    process: subprocess.Popen
    log: IO[bytes]

    @classmethod
    def start(cls, folder: StudyFolder, arm: str, seed: int) -> Worker:
        """Its recipe is written; what the process says goes to the run's log."""
        log = (make_folder(folder.run(arm, seed).path) / LOG).open("ab")
        # One thread each: what two threads add up depends on how they share the work, and runs side
        # by side would wait for each other's cores.
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        words = [sys.executable, "-m", "lucida.study.worker", *map(str, _paths(folder, arm, seed))]
        # A group of its own: Ctrl-C in a terminal would reach it beside the signal that we send,
        # and training takes a second signal for "at once", without a checkpoint.
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
        )
        return cls(arm, seed, process, log)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def end(self) -> None:
        """Ask it to stop, which training does after a checkpoint, and wait until it has."""
        self.process.terminate()
        self.process.wait()
        self.log.close()


@contextmanager
def ended_together() -> Iterator[tuple[list[Worker], list[int]]]:
    """A list for workers, which end with the block, and one that gets a number when SIGTERM or a
    closed terminal asks to stop: by default these skip `finally`, and the workers would go on
    alone."""
    running: list[Worker] = []
    stopped: list[int] = []
    asks = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    asks = [each for each in asks if signal.getsignal(each) is not signal.SIG_IGN]  # as by nohup
    before = [signal.signal(each, lambda number, _: stopped.append(number)) for each in asks]
    try:
        yield running, stopped
    finally:
        for worker in running:
            worker.process.terminate()  # all at once, each a single time; then each is waited for
        for worker in running:
            worker.process.wait()
            worker.log.close()
        for number, handler in zip(asks, before, strict=True):
            signal.signal(number, handler)


def run_by_submitit(folder: StudyFolder, todo: list[tuple[str, int]], jobs: int) -> None:
    """Through submitit: SLURM where there is one, else its local executor."""
    try:
        import submitit
    except ImportError as problem:
        raise RunError(
            "submitit is not installed", remedy="pip install submitit, or leave --executor out"
        ) from problem
    executor = submitit.AutoExecutor(folder=folder.path / "submitit")
    executor.update_parameters(cpus_per_task=1, timeout_min=24 * 60, slurm_array_parallelism=jobs)
    # SLURM holds back an array by itself (`slurm_array_parallelism`).
    step = len(todo) if executor.cluster == "slurm" else jobs  # a local one starts all at once
    for start in range(0, len(todo), step):
        part = todo[start : start + step]
        with executor.batch():
            handles = [executor.submit(work, *_paths(folder, *each)) for each in part]
        for each, handle in zip(part, handles, strict=True):
            _tell(folder, each, _keep(folder, each, handle.exception()))


def run_by_ray(folder: StudyFolder, todo: list[tuple[str, int]], jobs: int) -> None:
    """As tasks of Ray, each of one core in a process of its own: on the cluster that RAY_ADDRESS
    names, whose nodes see the study's folder under one path, else on this machine. A run whose node
    is lost ends without an outcome and goes on from its checkpoint in another call."""
    try:
        import ray
    except ImportError as problem:
        raise RunError(
            "ray is not installed", remedy="pip install ray, or leave --executor out"
        ) from problem
    begun = not ray.is_initialized()
    if begun:
        # Without an address Ray joins any cluster that happens to run here.
        where = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(where, log_to_driver=False, include_dashboard=False)
    # A fresh process for each run (`max_calls`), as memory is measured by its peak; a lost one is
    # not begun again behind our back.
    task = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(work)
    waiting, running = list(reversed(todo)), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                each = waiting.pop()
                running[task.remote(*_paths(folder, *each))] = each
            ended, _ = ray.wait(list(running), num_returns=1)
            each, problem = running.pop(ended[0]), None
            try:
                ray.get(ended[0])
            except ray.exceptions.RayError as found:
                problem = found
            _tell(folder, each, _keep(folder, each, problem))
    finally:
        for handle in running:
            ray.cancel(handle)
        if begun:
            ray.shutdown()


def _keep(folder: StudyFolder, run: tuple[str, int], problem: BaseException | None) -> str:
    """What an executor says about a run, which goes to the run's log."""
    if problem is not None:
        with (make_folder(folder.run(*run).path) / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{problem}\n")
    return "" if problem is None else str(problem).strip()


def _tell(folder: StudyFolder, run: tuple[str, int], said: str, count: str = "") -> None:
    """How a run ended, on the terminal, with the last line that it `said` if without outcome."""
    if (state := folder.outcome(*run)["state"]) in ("begun", "waiting"):
        state = f"ended without an outcome: {(said or 'without a word').splitlines()[-1][-300:]}"
    say(f"{count}{run[0]} seed {run[1]}: {state}")


EXECUTORS: dict[str, Launch] = {
    "local": run_here,
    "submitit": run_by_submitit,
    "ray": run_by_ray,
}


def _paths(folder: StudyFolder, arm: str, seed: int) -> tuple[Path, Path]:
    return folder.recipe(arm, seed).resolve(), folder.run(arm, seed).path.resolve()


def states(design: Design, folder: StudyFolder) -> Iterator[list[object]]:
    """A row for every run: arm, seed, state, steps, seconds, why."""
    for arm, seed in design.runs:
        outcome = folder.outcome(arm, seed)
        rows = folder.run(arm, seed).metrics.read()
        step = max((row["total_step"] for row in rows if row.get("total_step")), default=None)
        seconds = outcome.get("seconds")
        yield [arm, seed, outcome["state"], step, seconds, outcome.get("why", "")]
