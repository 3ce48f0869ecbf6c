"""Ask a model every held-out question, score the answers, and write down how sure the scores are.

    examples ──Answerer──▶ outputs, FOLDER/predictions/TASK.jsonl
                             │ parse, score, bootstrap
               blind model ──┤ the same examples
     pictures removed, shuffled ──┤
          chance, majority ──▼
                         FOLDER/results.json ──▶ FOLDER/report.html

Outputs are appended as they come, so an evaluation that was stopped goes on where it was: nothing
is asked twice of the same weights. `Evaluation` is the whole of it; here are the ways in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.results import RetentionScores
from lucida.core.runs import RunFolder, atomic_write
from lucida.eval.answerers.lucida_model import LucidaAnswerer, load_answerer
from lucida.eval.asking import Answerer, Job, answers
from lucida.eval.benchmarks import load_task
from lucida.eval.evaluation import Evaluation
from lucida.eval.gallery import TARGET
from lucida.eval.plan import EvaluationPlan, Options, Variant
from lucida.eval.ranks import rank, wait_for_all
from lucida.eval.report import write_report
from lucida.eval.retention import measure_run, require
from lucida.eval.store import Store, weights_hash
from lucida.eval.summary import score_responses, summarise

if TYPE_CHECKING:
    from lucida.core.spec import EvaluationSpec, FewerTokensSpec, OwnTaskSpec
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


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
    fewer: FewerTokensSpec | None = None,
) -> dict:
    """Scores of a model in memory: `{"tasks": {name: summary}, "seconds": {"evaluate": s}}`.

    A summary is what `summarise` gives, without a blind model. Nothing is written. `limit` is the
    largest number of examples per task, `samples` the bootstrap resamples behind an interval;
    `prompts` and `data` as in EvaluationSpec, `fewer` as its `visual_tokens`.
    """
    started = time.monotonic()
    answerer = LucidaAnswerer(model, processor, fewer=fewer)
    jobs = []
    for name in tasks:
        task = load_task(name, prompts, data)
        variant = Variant(task.protocols[0])
        jobs.append(Job(variant.key(task), task, variant.protocol, task.examples(limit)))
    said = {job.key: {} for job in jobs}
    for job, example, one in answers(jobs, answerer, max_new_tokens, "evaluate"):
        said[job.key][example.id, example.question] = one
    summaries = {}
    for job in jobs:
        answered = score_responses(job.task, job.examples, said[job.key], answerer.read_box)
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
    plan = EvaluationPlan.of(spec, tasks, limit, options or Options(), run.recipe_file)
    if recipe.model.vision is None:
        # A model without an encoder has no pictures to remove or shuffle.
        plan = replace(plan, baselines=())
    evaluation = Evaluation.begin(run, plan, recipe.seed)
    identity, blind_identity = identify_run(run), None
    blind_run = RunFolder(run.path / "blind")
    if is_trained(blind_run.path):
        blind_identity = identify_run(blind_run)
        Store(blind_run.path).check(plan.score_keys(), blind_identity)
    if spec.retention is not None and rank() == 0:  # it needs files of its own: before the asking
        kept = measure_run(run, plan.spec.data, evaluate)
        evaluation.results.retention = RetentionScores.model_validate(kept)
    fewer = spec.visual_tokens
    load = load_answerer if fewer is None else partial(load_answerer, fewer=fewer)
    evaluation.ask(load, identity)
    if blind_identity is not None:
        evaluation.ask_blind(blind_run.path, load, blind_identity)
    if rank() == 0:
        evaluation.collect()
        _training_seconds(run, "train", evaluation.results.seconds)
        _training_seconds(blind_run, "train_blind", evaluation.results.seconds)
        evaluation.write()
        write_report(run.path)
        say(f"wrote {run.report_file}")
    wait_for_all()
    _ask_judge(evaluation)
    results = run.results.to_json()
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
    plan = EvaluationPlan.of(spec, tasks, limit, options or Options(), target)
    run = RunFolder(folder)
    if run.exists:
        raise RunError(
            "this folder holds a run; answers of another model would mix with its own",
            origin=folder,
            remedy="name another folder with --out DIR",
        )
    evaluation = Evaluation.begin(run, plan)
    evaluation.ask(load)
    if rank() == 0:
        told = {"target": target, "evaluation": plan.spec.model_dump(mode="json")}
        atomic_write(folder / TARGET, json.dumps(told, indent=2) + "\n")
        evaluation.collect()
        evaluation.write()
        write_report(folder)
        say(f"wrote {RunFolder(folder).report_file}")
    wait_for_all()
    _ask_judge(evaluation)
    return run.results.to_json()


def _ask_judge(evaluation: Evaluation) -> None:
    """After everything official is written, so that no judge can keep it from anybody."""
    if evaluation.plan.options.judge is None:
        return
    evaluation.ask_judge()
    if rank() == 0:
        write_report(evaluation.run.path)
    wait_for_all()


def identify_run(run: RunFolder) -> dict[str, object]:
    """What the stored answers of a run belong to."""
    spec = run.recipe.evaluation
    found = {"weights": weights_hash(run.path), "max_new_tokens": spec.max_new_tokens}
    if spec.visual_tokens is not None:  # else as before there was such a thing
        found["visual tokens"] = spec.visual_tokens.model_dump(mode="json")
    return found


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
