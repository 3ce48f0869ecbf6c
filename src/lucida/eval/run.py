"""Ask a model every held-out question, score the answers, and write down how sure the scores are.

    examples ──greedy──▶ outputs, RUN/predictions/TASK.jsonl
                             │ parse, score, bootstrap
               blind model ──┤ the same examples
          chance, majority ──▼
                         RUN/results.json ──▶ RUN/report.html

Outputs are appended as they come, so an evaluation that was stopped goes on where it was: nothing
is asked twice of the same weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.core.errors import RunError
from lucida.core.runs import JsonLines, RunFolder, atomic_write
from lucida.eval.asking import answers, asker, box_reader, load_asker
from lucida.eval.benchmark import Benchmark, Example, Parsed, ReadBox
from lucida.eval.benchmarks import benchmark
from lucida.eval.gallery import predictions
from lucida.eval.report import write_report
from lucida.eval.statistics import Interval, bootstrap, paired

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel


@dataclass(frozen=True, slots=True)
class Answered:
    """What one model said to the examples of one benchmark, and what that is worth."""

    outputs: list[str]
    parsed: list[Parsed]
    scores: list[float]


def evaluate(
    model: LucidaModel,
    processor: LucidaProcessor,
    tasks: Iterable[str],
    limit: int | None = None,
    max_new_tokens: int = 32,
    seed: int = 0,
    samples: int = 2000,
) -> dict:
    """Scores of a model in memory: `{"tasks": {name: summary}, "seconds": {"evaluate": s}}`.

    A summary is what `summarise` gives, without a blind model. Nothing is written. `limit` is the
    largest number of examples per task, `samples` the bootstrap resamples behind an interval.
    """
    started = time.monotonic()
    ask, read_box = asker(model, processor, max_new_tokens), box_reader(processor)
    loaded = [benchmark(name) for name in tasks]
    wanted = {task.name: task.examples(limit) for task in loaded}
    outputs = {(n, e.id): output for n, e, output in answers(wanted, ask, "evaluate")}
    summaries = {}
    for task in loaded:
        examples = wanted[task.name]
        said = [outputs[task.name, example.id] for example in examples]
        answered = judge(task, examples, said, read_box)
        summaries[task.name] = summarise(task, examples, answered, None, samples, seed)
    return {"tasks": summaries, "seconds": {"evaluate": time.monotonic() - started}}


def evaluate_run(
    folder: Path | str, tasks: Iterable[str] | None = None, limit: int | None = None
) -> dict:
    """Evaluate a trained run folder; writes predictions/, results.json and report.html there.

    `tasks` and `limit` default to the recipe's. Where RUN/blind is a trained run it is asked the
    same questions and stands beside every score. Gives what results.json holds.
    """
    run = RunFolder(folder)
    spec = run.recipe.evaluation
    names = list(tasks) if tasks is not None else list(spec.tasks)
    if not names:
        raise RunError(
            "there is no task to evaluate", origin=run.recipe_file, remedy="name tasks to evaluate"
        )
    loaded = [benchmark(name) for name in names]  # an unknown name stops here, before any asking
    limit = spec.limit if limit is None else limit
    results = run.results
    seconds = results.setdefault("seconds", {})
    sighted, same = _ask_run(run, loaded, limit, seconds, "evaluate")
    blind_run = RunFolder(run.path / "blind")
    blind = None
    if is_trained(blind_run.path):
        blind, _ = _ask_run(blind_run, loaded, limit, seconds, "evaluate_blind")
    summaries = results.get("tasks", {}) if same else {}
    for task in loaded:
        other = blind[task.name].scores if blind else None
        examples = task.examples(limit)
        summaries[task.name] = summarise(
            task, examples, sighted[task.name], other, spec.samples, run.recipe.seed
        )
    results["tasks"] = summaries
    _training_seconds(run, "train", seconds)
    _training_seconds(blind_run, "train_blind", seconds)
    run.write_results(results)
    write_report(run.path)
    return results


def _training_seconds(run: RunFolder, phase: str, seconds: dict) -> None:
    """The time of all training steps, unless somebody has timed the whole phase already."""
    records = [record for record in run.metrics.read() if "seconds" in record]
    if records:
        seconds.setdefault(phase, records[-1]["seconds"])


def is_trained(folder: Path) -> bool:
    """Whether the folder holds a run whose training ended."""
    return (folder / "recipe.yaml").is_file() and (folder / "config.json").is_file()


def summarise(
    task: Benchmark,
    examples: Sequence[Example],
    answered: Answered,
    blind: Sequence[float] | None,
    samples: int,
    seed: int,
) -> dict:
    """The numbers of one task, as results.json holds them; scores are shares (1 is everything
    right).

    score, interval, n, clusters, metric; chance and majority (guessing); blind, blind_interval
    and gain (score minus blind, paired) when there is a blind model, else null; kinds (the same
    score per kind of question); malformed (outputs that could not be read, scored 0).
    """
    clusters = [example.cluster for example in examples]
    total = bootstrap(answered.scores, clusters, samples, seed)
    guesses = task.guesses(examples)
    other = bootstrap(blind, clusters, samples, seed) if blind is not None else None
    gain = paired(answered.scores, blind, clusters, samples, seed) if blind is not None else None
    return {
        "score": total.mean,
        "interval": [total.low, total.high],
        "n": total.n,
        "clusters": total.clusters,
        "metric": task.metric,
        "chance": _mean(guesses.chance),
        "majority": _mean(guesses.majority),
        "blind": other.mean if other else None,
        "blind_interval": [other.low, other.high] if other else None,
        "gain": _difference(gain),
        "kinds": _kinds(examples, answered.scores, blind, samples, seed),
        "malformed": sum(value is None for value in answered.parsed),
    }


def judge(
    task: Benchmark, examples: Sequence[Example], outputs: Sequence[str], read_box: ReadBox
) -> Answered:
    """Outputs with what they say and their scores."""
    parsed = [task.parse(e, o, read_box) for e, o in zip(examples, outputs, strict=True)]
    return Answered(list(outputs), parsed, task.scores(examples, parsed))


def _ask_run(
    run: RunFolder, tasks: Sequence[Benchmark], limit: int | None, seconds: dict, phase: str
) -> tuple[dict[str, Answered], bool]:
    """Everything one run folder's model says, asked now or read back; True when its weights are
    those of an earlier evaluation."""
    started = time.monotonic()
    tokens = run.recipe.evaluation.max_new_tokens
    same = _settle(run, tokens)
    files = {task.name: predictions(run.path, task.name) for task in tasks}
    examples = {task.name: task.examples(limit) for task in tasks}
    known = {name: _known(file) for name, file in files.items()}
    missing = {
        name: [e for e in examples[name] if (e.id, e.question) not in known[name]] for name in files
    }
    ask, read_box = load_asker(run.path, tokens)
    if asked := sum(map(len, missing.values())):
        for name, example, output in answers(missing, ask, phase.replace("_", " ")):
            known[name][example.id, example.question] = output
            row = {"id": example.id, "prompt": example.question, "output": output}
            files[name].append(row)
    answered = {}
    for task in tasks:
        outputs = [known[task.name][e.id, e.question] for e in examples[task.name]]
        answered[task.name] = judge(task, examples[task.name], outputs, read_box)
        _write_scores(files[task.name], examples[task.name], answered[task.name])
    if asked or phase not in seconds:  # a rerun that only reads back does not hide the true cost
        seconds[phase] = time.monotonic() - started
    return answered, same


def _known(file: JsonLines) -> dict[tuple[str, str], str]:
    """The outputs that were written already, by example and question."""
    return {(row["id"], row["prompt"]): row["output"] for row in file.read()}


def _write_scores(file: JsonLines, examples: Sequence[Example], answered: Answered) -> None:
    """Replace the file by full rows; rows of examples beyond today's limit stay."""
    rows = {row["id"]: row for row in file.read()}
    judged = zip(examples, answered.outputs, answered.parsed, answered.scores, strict=True)
    for example, output, parsed, score in judged:
        rows[example.id] = {
            "id": example.id,
            "kind": example.kind,
            "prompt": example.question,
            "output": output,
            "parsed": parsed,
            "truth": list(example.box) if example.box is not None else list(example.answers),
            "score": score,
        }
    atomic_write(file.path, "".join(json.dumps(row) + "\n" for row in rows.values()))


def _settle(run: RunFolder, max_new_tokens: int) -> bool:
    """Whether stored predictions come from these weights; those that do not are removed."""
    folder = run.path / "predictions"
    file = folder / "settings.json"
    settings = {"weights": weights_hash(run.path), "max_new_tokens": max_new_tokens}
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) == settings:
        return True
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    atomic_write(file, json.dumps(settings, indent=2) + "\n")
    return False


def weights_hash(folder: Path) -> str:
    """The content of all weight files of a model folder, as 16 hex digits."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RunError(
            "there is no trained model in this run folder",
            expected="*.safetensors",
            origin=folder,
            remedy="`lucida train` on the same folder finishes the run",
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _kinds(
    examples: Sequence[Example],
    scores: Sequence[float],
    blind: Sequence[float] | None,
    samples: int,
    seed: int,
) -> dict[str, dict]:
    """Score, interval, number and blind score for each kind of question, in order of the name."""
    rows = {}
    for kind in sorted({example.kind for example in examples}):
        places = [i for i, example in enumerate(examples) if example.kind == kind]
        clusters = [examples[i].cluster for i in places]
        part = bootstrap([scores[i] for i in places], clusters, samples, seed)
        rows[kind] = {
            "score": part.mean,
            "interval": [part.low, part.high],
            "n": part.n,
            "blind": None if blind is None else _mean([blind[i] for i in places]),
        }
    return rows


def _difference(gain: Interval | None) -> dict | None:
    return gain and {"mean": gain.mean, "interval": [gain.low, gain.high]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
