"""One evaluation: what is asked and how, who answers, what came of it, and where it is kept.

EvaluationPlan ──jobs──▶ Answerer ──▶ predictions/TASK.jsonl
                            │ parsed, scored
    blind model, pictures removed, shuffled, chance ──▶ TaskScores ──▶ Results ──▶ results.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.progress import say
from lucida.core.results import Results, TaskScores, check_whole
from lucida.core.runs import RunFolder, atomic_write
from lucida.eval.asking import Answerer, Job
from lucida.eval.attacks import count_attacks
from lucida.eval.benchmark import Benchmark
from lucida.eval.few_shot import spread
from lucida.eval.judge import read_by_judge
from lucida.eval.plan import EvaluationPlan, Variant
from lucida.eval.ranks import rank
from lucida.eval.store import ScoredResponses, Store
from lucida.eval.summary import (
    compare_baseline,
    mean,
    score_by_likelihood,
    score_responses,
    summarise,
    summarise_shortly,
)

Scored = dict[tuple[str, Variant], tuple[Job, ScoredResponses]]
"""Task and variant → what was asked, and what the answers are worth."""


@dataclass(slots=True)
class Evaluation:
    """What one model is asked (`plan`), in whose folder all of it is kept (`run`), and what is
    known of it by now (`results`: what stood in the file, then what is added).

    `ask` gets the answers of the model, `ask_blind` those of the one without pictures, `collect`
    puts the numbers of both into `results`, `write` saves them; then `ask_judge` may add its own.
    """

    run: RunFolder
    plan: EvaluationPlan
    seed: int
    results: Results
    scored: Scored = field(default_factory=dict)
    blind: Scored | None = None
    answerer: Answerer | None = None
    same: bool = False
    """Whether the stored answers were already this model's."""
    measured: dict[str, TaskScores] = field(default_factory=dict)
    """Task → what `collect` put into `results` of it."""

    @classmethod
    def begin(cls, run: RunFolder, plan: EvaluationPlan, seed: int = 0) -> Evaluation:
        """Goes on from what stands in the folder; RunError when no page could show it, or when a
        task over own records was another one before. Nothing is asked yet."""
        results = run.results
        check_whole(results, run.results_file)
        evaluation = cls(run, plan, seed, results)
        evaluation._check_own_tasks()
        return evaluation

    def _check_own_tasks(self) -> None:
        """Compare tasks over own records with what `results` has under their names: scores of
        records that have changed since are taken out. RunError: another source or metric."""
        for task in self.plan.tasks:
            told, kept = task.description, self.results.tasks.get(task.name)
            if not told or kept is None:
                continue
            own, earlier = told["own"], kept.own or {}
            same_records = kept.fingerprint == told["fingerprint"]  # whatever they are called
            parts = ("metric", "answers") if same_records else ("source", "metric", "answers")
            differs = [name for name in parts if earlier.get(name) != own[name]]
            if differs:
                raise RunError(
                    f"two tasks of one name: `{task.name}` stands in the results already and has "
                    f"another {' and '.join(differs)}",
                    expected=_write_part(earlier.get(differs[0])),
                    given=_write_part(own[differs[0]]),
                    origin=self.run.results_file,
                    remedy="give one of them another `name` (--name)",
                )
            if not same_records:
                say(f"{task.name}: its records have changed, so all of them are asked again")
                self.results.forget(task.name)

    def ask(
        self,
        load: Callable[[Path], Answerer],
        identity: Mapping[str, object] | None = None,
    ) -> None:
        """Everything that the model of the folder says, asked now or read back. `identity` is what
        stored answers belong to; None is the answerer's own."""
        self.scored = self._ask(self.run.path, load, identity, "evaluate")

    def ask_blind(
        self, folder: Path, load: Callable[[Path], Answerer], identity: Mapping[str, object]
    ) -> None:
        """The same questions for the blind model, only what gives the scores."""
        # `collect` reads boxes and judges identity by the model of the folder.
        answerer, same = self.answerer, self.same
        self.blind = self._ask(folder, load, identity, "evaluate_blind")
        self.answerer, self.same = answerer, same

    def _ask(
        self,
        folder: Path,
        load: Callable[[Path], Answerer],
        identity: Mapping[str, object] | None,
        phase: str,
    ) -> Scored:
        """Answers behind larger scores stay; `results` gets the seconds."""
        started, seconds = time.monotonic(), self.results.seconds
        # Published files that are missing stop everything here, before a model is loaded.
        jobs = self.plan.jobs(self.results, scores_only=phase == "evaluate_blind")
        counts = {job.task.name: len(job.examples) for _, job in reversed(jobs)}  # of the first job
        store = Store(folder)
        with store.writing():
            self.answerer = load(folder)
            self._check_protocols([job for _, job in jobs])
            tokens = self.plan.spec.max_new_tokens
            whose = identity or {**self.answerer.identity, "max_new_tokens": tokens}
            self.same = store.settle(whose)
            # After `settle`, which says whether any of the answers are this model's.
            for task in dict.fromkeys(job.task for _, job in jobs):
                store.settle_records(task)
            label = phase.replace("_", " ")
            said, count = store.ask([job for _, job in jobs], self.answerer, tokens, label)
            found: Scored = {}
            for variant, job in jobs:
                scored = score_responses(
                    job.task, job.examples, said[job.key], self.answerer.read_box, variant.think
                )
                found[job.task.name, variant] = job, scored
                if rank() == 0:
                    # Answers behind a larger score keep their rows: CIDEr-D of few would replace
                    # that of many.
                    largest = self.results.is_largest(job.task.name, counts[job.task.name])
                    store.write_scores(job, scored, replace=largest or not self.same)
        if count or phase not in seconds:  # a rerun that only reads back hides no true cost
            seconds[phase] = time.monotonic() - started
        return found

    def _check_protocols(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.protocol not in self.answerer.protocols:
                raise RunError(
                    f"this model cannot be asked {job.task.name} by that protocol",
                    expected=" or ".join(self.answerer.protocols),
                    given=job.protocol,
                    remedy="choose another --protocol, or leave the task out",
                )

    def collect(self) -> None:
        """Put the numbers of everything that was asked into `results`; what stands there already
        stays when it is of the same weights."""
        # The weights have changed: the scores of the old ones would stand as this model's.
        if not self.same:
            self.results.forget()
        for task in self.plan.tasks:
            variants = self._variants(task)
            (main, (job, scored)), *_ = variants.items()
            if task.judged or task.exports:
                self._export(job, scored)
            if task.judged:
                continue
            blind = self.blind[task.name, main][1].scores if self.blind else None
            samples = self.plan.spec.samples
            told = summarise(task, job.examples, scored, blind, samples, self.seed) | {
                "way": main.protocol,
                "think": main.think,
                "predictions": job.key,
                "data": self.plan.spec.data,
                **task.description,
            }
            unit = getattr(self.answerer, "boxes", None)
            if unit is not None and any(example.box is not None for example in job.examples):
                told["boxes"] = unit
            told |= self._beside(task, variants)
            self.measured[task.name] = TaskScores.model_validate(told)
            self.results.add(task.name, self.measured[task.name])

    def ask_judge(self) -> None:
        """Have the plan's judge, if there is one, read what rules could not, of tasks that have an
        official score; `results` gets what came of it. RunError, ModelError: it does not answer."""
        judge = self.plan.options.judge
        for task in self.plan.tasks if judge is not None else ():
            (main, (job, scored)), *_ = self._variants(task).items()
            if task.judged or main.protocol != "generate":
                continue
            read_box, samples = self.answerer.read_box, self.plan.spec.samples
            folder, seed, rules = self.run.path, self.seed, task.attack_judge()
            if rules is not None:
                found = count_attacks(folder, job, scored, rules, judge, samples, seed)
            else:
                found = read_by_judge(folder, job, scored, judge, read_box, samples, seed)
            if rank() == 0:
                setattr(self.measured[task.name], "judge" if rules is None else "attacks", found)
                self.write()

    def _variants(self, task: Benchmark) -> dict[Variant, tuple[Job, ScoredResponses]]:
        """The variants of one task, the one that gives its score first."""
        found = self.scored.items()
        return {variant: pair for (name, variant), pair in found if name == task.name}

    def _export(self, job: Job, scored: ScoredResponses) -> None:
        """Write the file that an outside judge reads; one of fewer answers than before goes
        beside."""
        task, count, results = job.task, len(job.examples), self.results
        name, text = task.answers_file(job.examples, scored.outputs, self.run.path.name)
        earlier = results.judged.get(task.name, 0)
        if count < earlier:
            name = f"first-{count}/{name}"
            say(f"{task.name}: {count} answers in answers/{name}; those to {earlier} stay")
        else:
            results.judged[task.name] = count
            results.answers[task.name] = f"answers/{name}"
            results.failed[task.name] = scored.failed
        atomic_write(self.run.path / "answers" / name, text)

    def _beside(
        self, task: Benchmark, variants: Mapping[Variant, tuple[Job, ScoredResponses]]
    ) -> dict[str, dict]:
        """What stands beside a task's score: other protocols, baselines, demonstrations."""
        (_, scored), *_ = variants.values()
        samples, seed = self.plan.spec.samples, self.seed
        protocols, baselines, shots = {}, {}, {}
        for variant, (job, other) in variants.items():
            if variant.pictures != "shown":
                # A baseline is asked the first of the task's examples only.
                own = scored.scores[: len(job.examples)]
                if task.together:
                    own = task.scores(job.examples, scored.parsed[: len(job.examples)])
                row = compare_baseline(own, other, job.examples, samples, seed)
                baselines[variant.pictures] = row
            elif variant.shots:
                row = shots.setdefault(str(variant.shots), {"n": len(other.scores), "by_seed": []})
                row["by_seed"].append(mean(other.scores))
            else:
                row = summarise_shortly(other, job.examples, samples, seed)
                protocols[variant.protocol] = row
                if variant.protocol == "likelihood":
                    read_box = self.answerer.read_box
                    row["by"] = score_by_likelihood(task, job.examples, other, read_box)
        for row in shots.values():
            row |= spread(row.pop("by_seed"))
        return {"ways": protocols, "baselines": baselines, "shots": shots}

    def write(self) -> None:
        """Save `results`."""
        self.run.write_results(self.results)


def _write_part(value: object) -> str:
    """A part of an own task's description: of a source its path."""
    return str(value.get("path", value.get("kind"))) if isinstance(value, dict) else str(value)
