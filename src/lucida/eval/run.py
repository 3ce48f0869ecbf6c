"""Ask a model every held-out question, score the answers, and write down how sure the scores are.

    examples ──Answerer──▶ outputs, FOLDER/predictions/TASK.jsonl
                             │ parse, score, bootstrap
               blind model ──┤ the same examples
     pictures removed, shuffled ──┤
          chance, majority ──▼
                         FOLDER/results.json ──▶ FOLDER/report.html

Outputs are appended as they come, so an evaluation that was stopped goes on where it was: nothing
is asked twice of the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.results import check_whole
from lucida.core.runs import RunFolder, atomic_write
from lucida.eval.answerers.lucida_model import LucidaAnswerer, load_answerer
from lucida.eval.asking import Answerer, Job, answers
from lucida.eval.benchmark import Benchmark
from lucida.eval.benchmarks import load_task
from lucida.eval.few_shot import spread
from lucida.eval.gallery import TARGET
from lucida.eval.measurements import add, is_largest
from lucida.eval.ranks import rank, wait_for_all
from lucida.eval.report import write_report
from lucida.eval.retention import measure_run, require
from lucida.eval.store import Answered, Store, weights_hash
from lucida.eval.summary import beside, by_likelihood, judge, mean, short, summarise
from lucida.eval.variant import Variant
from lucida.eval.wanted import Options, Wanted

if TYPE_CHECKING:
    from lucida.core.spec import EvaluationSpec, OwnTaskSpec
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


@dataclass(slots=True)
class Asked:
    """What one model said to everything that was wanted, and how it is read."""

    found: dict[tuple[str, Variant], tuple[Job, Answered]]
    answerer: Answerer
    same: bool
    """Whether the stored answers were already this model's."""

    def of(self, task: Benchmark) -> dict[Variant, tuple[Job, Answered]]:
        """The variants of one task, the one that gives its score first."""
        return {variant: pair for (name, variant), pair in self.found.items() if name == task.name}


def evaluate(
    model: LucidaModel,
    processor: LucidaProcessor,
    tasks: Iterable[str | OwnTaskSpec],
    limit: int | None = None,
    max_new_tokens: int = 32,
    seed: int = 0,
    samples: int = 2000,
    prompts: str | None = None,
    data: str | None = None,
) -> dict:
    """Scores of a model in memory: `{"tasks": {name: summary}, "seconds": {"evaluate": s}}`.

    A summary is what `summarise` gives, without a blind model. Nothing is written. `limit` is the
    largest number of examples per task, `samples` the bootstrap resamples behind an interval;
    `prompts` and `data` as in EvaluationSpec.
    """
    started = time.monotonic()
    answerer = LucidaAnswerer(model, processor)
    jobs = []
    for name in tasks:
        task = load_task(name, prompts, data)
        variant = Variant(task.ways[0])
        jobs.append(Job(variant.key(task), task, variant.way, task.examples(limit)))
    said = {job.key: {} for job in jobs}
    for job, example, one in answers(jobs, answerer, max_new_tokens, "evaluate"):
        said[job.key][example.id, example.question] = one
    summaries = {}
    for job in jobs:
        answered = judge(job.task, job.examples, said[job.key], answerer.read_box)
        summaries[job.task.name] = summarise(job.task, job.examples, answered, None, samples, seed)
    return {"tasks": summaries, "seconds": {"evaluate": time.monotonic() - started}}


def evaluate_run(
    folder: Path | str,
    tasks: Iterable[str | OwnTaskSpec] | None = None,
    limit: int | None = None,
    options: Options | None = None,
) -> dict:
    """Evaluate a trained run folder; writes predictions/, results.json and report.html there.

    `tasks` and `limit` default to the recipe's. Where RUN/blind is a trained run it is asked the
    same questions and stands beside every score. Gives what results.json holds. RunError, after
    everything is written, when the recipe's `evaluation.retention` is not met.
    """
    run = RunFolder(folder)
    recipe = run.recipe
    spec = recipe.evaluation
    wanted = Wanted.of(spec, tasks, limit, options or Options(), run.recipe_file)
    if recipe.model.vision is None:
        wanted = replace(wanted, baselines=())
    results = earlier_results(run)
    check_own_tasks(wanted, results, run.results_file)
    identity, blind_identity = run_identity(run), None
    blind_run, blind = RunFolder(run.path / "blind"), None
    if is_trained(blind_run.path):
        blind_identity = run_identity(blind_run)
        Store(blind_run.path).check(wanted.score_keys(), blind_identity)
    if spec.retention is not None and rank() == 0:  # it needs files of its own: before the asking
        results["retention"] = measure_run(run, wanted.spec.data, evaluate)
    sighted = ask(run.path, wanted, load_answerer, identity, results)
    if blind_identity is not None:
        blind = ask(
            blind_run.path, wanted, load_answerer, blind_identity, results, "evaluate_blind"
        )
    if rank() == 0:
        collect(results, run.path, wanted, sighted, blind, recipe.seed)
        _training_seconds(run, "train", results["seconds"])
        _training_seconds(blind_run, "train_blind", results["seconds"])
        run.write_results(results)
        write_report(run.path)
    wait_for_all()
    results = run.results
    if spec.retention is not None:
        require(results["retention"], run.path)
    return results


def evaluate_target(
    target: str,
    load: Callable[[Path], Answerer],
    folder: Path,
    spec: EvaluationSpec,
    tasks: Iterable[str | OwnTaskSpec],
    limit: int | None = None,
    options: Options | None = None,
) -> dict:
    """The same for a model that is no run: `load` makes its answerer, all is written to `folder`.

    `folder`/target.json says what was asked and how. Gives what results.json holds.
    """
    wanted = Wanted.of(spec, tasks, limit, options or Options(), target)
    run = RunFolder(folder)
    if run.exists:
        raise RunError(
            "this folder holds a run; answers of another model would mix with its own",
            origin=folder,
            remedy="name another folder with --out DIR",
        )
    results = earlier_results(run)
    check_own_tasks(wanted, results, run.results_file)
    said = ask(folder, wanted, load, None, results)
    if rank() == 0:
        told = {"target": target, "evaluation": wanted.spec.model_dump(mode="json")}
        atomic_write(folder / TARGET, json.dumps(told, indent=2) + "\n")
        collect(results, folder, wanted, said, None, 0)
        run.write_results(results)
        write_report(folder)
    wait_for_all()
    return run.results


def earlier_results(run: RunFolder) -> dict:
    """What results.json holds before anything is asked; RunError when no page could show it."""
    results = run.results
    check_whole(results, run.results_file)
    return results


def check_own_tasks(wanted: Wanted, results: dict, origin: Path) -> None:
    """Compare tasks over own records with what `results` has under their names: scores of records
    that have changed since are taken out. RunError: they are of another source or metric."""
    for task in wanted.tasks:
        own, kept = task.description, results.get("tasks", {}).get(task.name)
        if not own or kept is None:
            continue
        earlier = kept.get("own")
        differs = [
            n for n in ("source", "metric", "answers") if (earlier or {}).get(n) != own["own"][n]
        ]
        if differs:
            raise RunError(
                f"two tasks of one name: `{task.name}` stands in the results already and has "
                f"another {' and '.join(differs)}",
                expected=str((earlier or {}).get(differs[0])),
                given=str(own["own"][differs[0]]),
                origin=origin,
                remedy="give one of them another `name` (--name)",
            )
        if kept.get("fingerprint") != own["fingerprint"]:
            say(f"{task.name}: its records have changed, so all of them are asked again")
            for part in ("tasks", "others"):
                results.get(part, {}).pop(task.name, None)


def run_identity(run: RunFolder) -> dict[str, object]:
    """What the stored answers of a run belong to."""
    tokens = run.recipe.evaluation.max_new_tokens
    return {"weights": weights_hash(run.path), "max_new_tokens": tokens}


def ask(
    folder: Path,
    wanted: Wanted,
    load: Callable[[Path], Answerer],
    identity: Mapping[str, object] | None,
    results: dict,
    phase: str = "evaluate",
) -> Asked:
    """Everything one model says, asked now or read back. `identity` None is the answerer's own. A
    blind model (phase evaluate_blind) is asked only what gives the scores. `results` is what stands
    in results.json: answers behind larger scores stay; it gets the seconds."""
    started, seconds = time.monotonic(), results.setdefault("seconds", {})
    jobs = wanted.jobs(results, scores_only=phase == "evaluate_blind")
    counts = {job.task.name: len(job.examples) for _, job in reversed(jobs)}  # of the first job
    store = Store(folder)
    with store.writing():
        answerer = load(folder)
        for _, job in jobs:
            if job.way not in answerer.ways:
                raise RunError(
                    f"this model cannot be asked {job.task.name} that way",
                    expected=" or ".join(answerer.ways),
                    given=job.way,
                    remedy="choose another --protocol, or leave the task out",
                )
        tokens = wanted.spec.max_new_tokens
        same = store.settle(identity or {**answerer.identity, "max_new_tokens": tokens})
        for task in dict.fromkeys(job.task for _, job in jobs):
            store.settle_records(task)
        label = phase.replace("_", " ")
        said, count = store.ask([job for _, job in jobs], answerer, tokens, label)
        found = {}
        for variant, job in jobs:
            answered = judge(
                job.task, job.examples, said[job.key], answerer.read_box, variant.think
            )
            found[job.task.name, variant] = job, answered
            if rank() == 0:
                largest = is_largest(results, job.task.name, counts[job.task.name])
                store.write_scores(job, answered, replace=largest or not same)
    if count or phase not in seconds:  # a rerun that only reads back does not hide the true cost
        seconds[phase] = time.monotonic() - started
    return Asked(found, answerer, same)


def collect(
    results: dict, folder: Path, wanted: Wanted, sighted: Asked, blind: Asked | None, seed: int
) -> None:
    """Put the numbers of everything that was asked into `results`; what stands there already stays
    when it is of the same weights (`eval.measurements`)."""
    if not sighted.same:
        for part in ("tasks", "others", "answers", "judged", "failed"):
            results.pop(part, None)
    results.setdefault("tasks", {})
    for task in wanted.tasks:
        variants = sighted.of(task)
        (main, (job, answered)), *_ = variants.items()
        if task.judged:
            export(results, folder, job, answered)
            continue
        other = blind.found[task.name, main][1].scores if blind else None
        summary = summarise(task, job.examples, answered, other, wanted.spec.samples, seed) | {
            "way": main.way,
            "think": main.think,
            "predictions": job.key,
            "data": wanted.spec.data,
            **task.description,
        }
        unit = getattr(sighted.answerer, "boxes", None)
        if unit is not None and any(example.box is not None for example in job.examples):
            summary["boxes"] = unit
        summary |= extras(task, variants, sighted, wanted.spec.samples, seed)
        add(results, task.name, summary)


def export(results: dict, folder: Path, job: Job, answered: Answered) -> None:
    """Write the file that an outside judge reads; one of fewer answers than before goes beside."""
    task, count = job.task, len(job.examples)
    name, text = task.answers_file(job.examples, answered.outputs, folder.name)
    judged = results.setdefault("judged", {})
    if count < judged.get(task.name, 0):
        name = f"first-{count}/{name}"
        say(f"{task.name}: {count} answers in answers/{name}; those to {judged[task.name]} stay")
    else:
        judged[task.name] = count
        results.setdefault("answers", {})[task.name] = f"answers/{name}"
        results.setdefault("failed", {})[task.name] = answered.failed
    atomic_write(folder / "answers" / name, text)


def extras(
    task: Benchmark,
    variants: Mapping[Variant, tuple[Job, Answered]],
    asked: Asked,
    samples: int,
    seed: int,
) -> dict[str, dict]:
    """What stands beside a task's score: other ways to ask, baselines, demonstrations."""
    (_, answered), *_ = variants.values()
    ways, baselines, shots = {}, {}, {}
    for variant, (job, said) in variants.items():
        if variant.pictures != "shown":
            own = answered.scores[: len(job.examples)]
            if task.together:
                own = task.scores(job.examples, answered.parsed[: len(job.examples)])
            row = beside(own, said, job.examples, samples, seed)
            baselines[variant.pictures] = row
        elif variant.shots:
            row = shots.setdefault(str(variant.shots), {"n": len(said.scores), "by_seed": []})
            row["by_seed"].append(mean(said.scores))
        else:
            ways[variant.way] = short(said, job.examples, samples, seed)
            if variant.way == "likelihood":
                read_box = asked.answerer.read_box
                ways[variant.way]["by"] = by_likelihood(task, job.examples, said, read_box)
    for row in shots.values():
        row |= spread(row.pop("by_seed"))
    return {"ways": ways, "baselines": baselines, "shots": shots}


def _training_seconds(run: RunFolder, phase: str, seconds: dict) -> None:
    """The time of all training steps, unless somebody has timed the whole phase already; a damaged
    log has none, and the report says so."""
    try:
        known = [each["seconds"] for each in run.logged if each.get("seconds") is not None]
    except RunError as problem:
        say(f"no time of training: {problem}")
        return
    if known:
        seconds.setdefault(phase, known[-1])


def is_trained(folder: Path) -> bool:
    """Whether the folder holds a run whose training ended."""
    return (folder / "recipe.yaml").is_file() and (folder / "config.json").is_file()
