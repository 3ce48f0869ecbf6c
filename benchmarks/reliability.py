"""Does a recipe learn surely? Trains it over seeds and machine profiles; each task's spread.

python benchmarks/reliability.py mini [KEY=VALUE ...] [--seeds 0,1,2] [--profiles bf16,fp32]
    [--jobs 2] [--limit 1000] [--looks 20] [--blind FOLDER] [--out FOLDER] [--write]

Every run has one thread; two such runs side by side do more work on two cores than one run on both.
A profile is a precision, with or without a simulated processor: `avx2` and `default` stand for
machines without AVX-512. Runs are kept in the folder: started again, the script goes on where it
was, and reads what is finished.

Per task: lowest, median and highest score, the standard deviation over all runs, and how many
questions a run had seen when it reached half and 90% of its final score (median; of `--looks` looks
at 64 questions each, so both are rough). With `--blind`, the margin of the worst run over the
scores of that blind run. `--write` keeps the spread of a preset beside the recipes, where the demo
and the README find it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lucida.core.environment import cpu_name
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.eval.usual import write_usual_scores

OLD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PROFILES = {
    "bf16": ("bf16", {}),
    "fp32": ("fp32", {}),
    "avx2": ("fp32", OLD),
    "default": ("fp32", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}
"""Name → precision and environment."""


@dataclass(frozen=True)
class Run:
    """One training: its folder, and what it adds to the recipe and the environment."""

    folder: Path
    changes: tuple[str, ...]
    environment: dict[str, str]


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7")
    parser.add_argument("--profiles", default="bf16,fp32")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("--blind", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/reliability"))
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, given.changes)
    runs = list(plan(recipe, given))
    with ThreadPoolExecutor(given.jobs) as pool:
        for line in pool.map(lambda run: perform(given.recipe, run, given.limit), runs):
            print(line, flush=True)
    finished = [run.folder for run in runs if (run.folder / "results.json").exists()]
    report(finished, given.blind)
    if given.write:
        seeds, cpu = len(given.seeds.split(",")), cpu_name()
        how = f"{seeds} seeds in {given.profiles.replace(',', ', ')}, one thread each, on {cpu}"
        write_usual_scores(recipe, list(map(tasks_of, finished)), how)


def plan(recipe: Recipe, given: argparse.Namespace) -> Iterator[Run]:
    """A run for every seed and profile."""
    looks = [
        f"stages.{stage.name}.evaluate_every={max(1, stage.budget.steps // given.looks)}"
        for stage in recipe.stages
        if stage.budget.steps and given.looks
    ]
    for seed, name in itertools.product(given.seeds.split(","), given.profiles.split(",")):
        precision, environment = PROFILES[name]
        fixed = ("threads=1", f"seed={seed}", f"precision={precision}", "blind=null")
        changes = (*given.changes, *looks, "evaluation.baselines=[]", *fixed)
        yield Run(given.out / f"{name}-{seed}", changes, environment)


def perform(recipe: str, run: Run, limit: int) -> str:
    """Train and measure one run, unless both are done; what came of it in a line."""
    begun = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | run.environment
    lucida = [sys.executable, "-m", "lucida"]
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [*lucida, "train", recipe, *run.changes, "--run", str(run.folder)],
        [*lucida, "eval", str(run.folder), "--limit", str(limit)],
    ):
        if command[3] == "eval" and (run.folder / "results.json").exists():
            continue
        with run.folder.with_suffix(".log").open("a") as log:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=log, check=False
            ).returncode
        if code:
            return f"{run.folder.name}: `lucida {command[3]}` ended with {code}, see {log.name}"
    found = json.loads((run.folder / "results.json").read_text())
    scores = "  ".join(f"{name} {100 * task['score']:.1f}" for name, task in found["tasks"].items())
    return f"{run.folder.name} ({time.perf_counter() - begun:.0f} s): {scores}"


def report(folders: list[Path], blind: Path | None) -> None:
    """The table over all finished runs."""
    results = list(map(tasks_of, folders))
    if not results:
        raise SystemExit("no run was finished")
    below = tasks_of(blind) if blind else {}
    seconds = [trained_seconds(folder) for folder in folders]
    print(f"\n{len(results)} runs, {statistics.median(seconds):.0f} s of training each (median)")
    head = f"{'task':22}{'min':>8}{'median':>8}{'max':>8}{'sd':>7}{'half':>9}{'90%':>9}"
    print(head + (f"{'worst - blind':>15}" if below else ""))
    for task in results[0]:
        scores = [100 * each[task]["score"] for each in results]
        numbers = [min(scores), statistics.median(scores), max(scores)]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        line = f"{task:22}" + "".join(f"{number:8.1f}" for number in numbers) + f"{spread:7.2f}"
        for share in (0.5, 0.9):
            reached = [
                reach(curve(folder, task), share * score / 100)
                for folder, score in zip(folders, scores, strict=True)
            ]
            known = [number for number in reached if number is not None]
            line += f"{statistics.median(known):9,.0f}" if known else f"{'':>9}"
        if task in below:
            line += f"{min(scores) - 100 * below[task]['score']:15.1f}"
        print(line)


def tasks_of(folder: Path) -> dict:
    """Task → its scores, of an evaluated run."""
    return json.loads((folder / "results.json").read_text())["tasks"]


def records(folder: Path) -> Iterable[dict]:
    """The lines of a run's metrics.jsonl."""
    return map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())


def trained_seconds(folder: Path) -> float:
    """Seconds of the steps of a run."""
    return max(record.get("seconds", 0.0) for record in records(folder))


def curve(folder: Path, task: str) -> list[tuple[int, float]]:
    """(questions seen, score) at every look, with as many questions a picture as the recipe has."""
    samples, found = 0, []
    recipe = RunFolder(folder).recipe
    sources = [source for stage in recipe.stages for source in stage.mixture.sources.values()]
    each = max(getattr(source, "questions", 1) for source in sources)
    for record in records(folder):
        samples = record.get("samples", samples)
        scored = record.get("evaluation", {}).get("tasks", {})
        if task in scored:
            found.append((each * samples, scored[task]["score"]))
    return found


def reach(points: list[tuple[int, float]], score: float) -> int | None:
    """Questions seen at the first look that was at least so good."""
    return next((seen for seen, value in points if value >= score), None)


if __name__ == "__main__":
    main()
