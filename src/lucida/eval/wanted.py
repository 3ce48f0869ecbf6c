"""Everything that one evaluation asks: tasks, ways, baselines, demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval.asking import Job
from lucida.eval.benchmark import Benchmark, Way
from lucida.eval.benchmarks import find_task
from lucida.eval.benchmarks.annotations import MissingFile
from lucida.eval.benchmarks.published import PublishedBenchmark
from lucida.eval.prompts import prompt_set
from lucida.eval.variant import THINK_TOKENS, Variant


@dataclass(frozen=True, slots=True)
class Options:
    """How tasks are asked beyond the recipe's evaluation.

    protocols   ways to ask (generate, likelihood, loss); empty takes each task's usual one. The
                first that a task has gives its score, others stand beside it.
    shots       numbers of demonstrations, each over `seeds` seeds
    think       ask for reasoning before the answer (up to `THINK_TOKENS`); what it ends with is
                scored
    prompts     the set of prompts, and
    data        the folder of published files; None takes the recipe's
    """

    protocols: tuple[Way, ...] = ()
    shots: tuple[int, ...] = ()
    seeds: int = 3
    think: bool = False
    prompts: str | None = None
    data: str | None = None

    def over(self, spec: EvaluationSpec) -> EvaluationSpec:
        """The recipe's evaluation with these prompts and this folder in place of its own.

        RecipeError for an unknown set, RunError where there is no such folder.
        """
        changes = {}
        if self.prompts is not None:
            changes["prompts"] = prompt_set(self.prompts).name
        if self.data is not None:
            if not Path(self.data).expanduser().is_dir():
                raise RunError(
                    "there is no such folder of published files",
                    origin=self.data,
                    remedy="give --data a folder that is there; `lucida benchmarks NAME` says what "
                    "lies in it",
                )
            changes["data"] = self.data
        return spec.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that one evaluation asks."""

    tasks: tuple[Benchmark, ...]
    limit: int | None
    options: Options
    baselines: tuple[str, ...]
    spec: EvaluationSpec

    @classmethod
    def of(
        cls,
        spec: EvaluationSpec,
        tasks: Iterable[str | OwnTaskSpec] | None,
        limit: int | None,
        options: Options,
        origin: object,
    ) -> Wanted:
        """The recipe's evaluation with what was asked for; mistakes stop before any asking."""
        spec = options.over(spec)
        asked = [find_task(spec, each) for each in (spec.tasks if tasks is None else tasks)]
        loaded = tuple(dict.fromkeys(asked))
        if not loaded:
            raise RunError(
                "there is no task to evaluate", origin=origin, remedy="name tasks to evaluate"
            )
        for task in loaded:
            if options.protocols and not set(options.protocols) & set(task.ways):
                raise RunError(
                    f"the task {task.name} cannot be asked that way",
                    expected=" or ".join(task.ways),
                    given=" and ".join(options.protocols),
                    remedy="choose another --protocol, or leave the task out",
                )
        chosen = spec.limit if limit is None else limit
        return cls(loaded, chosen, options, tuple(spec.baselines), spec)

    def ways(self, task: Benchmark) -> list[Way]:
        """How a task is asked, the way that gives its score first."""
        if not self.options.protocols:
            return [task.ways[0]]
        return [way for way in dict.fromkeys(self.options.protocols) if way in task.ways]

    def variants(self, task: Benchmark) -> list[Variant]:
        """Every way in which a task is asked; the first gives its score."""
        ways, think = self.ways(task), self.options.think
        found = [Variant(way, think=think) for way in ways]
        if ways[0] != "loss":
            found += [Variant(ways[0], pictures=each, think=think) for each in self.baselines]
            for count in self.options.shots:
                seeds = range(self.options.seeds) if count else ()
                found += [Variant(ways[0], shots=count, seed=seed, think=think) for seed in seeds]
        return found

    def score_keys(self) -> list[str]:
        """The names of all files that answers which give the scores may stand in."""
        keys = [(self.variants(task)[0].key(task), task.prompts) for task in self.tasks]
        return [each for key, prompts in keys for each in (key, f"{key}.{prompts}")]

    def jobs(
        self, results: Mapping[str, object], scores_only: bool = False
    ) -> list[tuple[Variant, Job]]:
        """All of it, or what gives the scores only; baselines only where there are pictures.

        Where `results` has the score of more questions in other words, the answers go into a file
        of their own. MissingFile names every published file that is not there, of all tasks;
        RunError a task without examples.
        """
        found, lacking = [], {}
        for task in self.tasks:
            try:
                found += self._jobs(task, results.get("tasks", {}).get(task.name), scores_only)
            except MissingFile as problem:
                lacking[task] = problem
        if lacking:
            raise missing(lacking, any(self.options.shots))
        return found

    def _jobs(
        self, task: Benchmark, kept: Mapping[str, object] | None, scores_only: bool
    ) -> list[tuple[Variant, Job]]:
        found = []
        examples = task.examples(self.limit)
        if not examples:
            raise RunError(f"{task.name} has no examples, so there is no score")
        larger = kept is not None and kept.get("n", 0) > len(examples)
        suffix = f".{task.prompts}" if larger and kept.get("prompts") != task.prompts else ""
        seen = any(example.sample.images for example in examples)
        for variant in self.variants(task)[: 1 if scores_only else None]:
            asked = examples
            if variant.pictures != "shown":
                if not seen:
                    continue
                asked = examples[: self.spec.baseline_limit]
            changed = variant.examples(task, asked)
            new = THINK_TOKENS if variant.think else None
            key = variant.key(task) + suffix
            found.append((variant, Job(key, task, variant.way, changed, new)))
        return found


def missing(lacking: Mapping[Benchmark, MissingFile], train: bool) -> MissingFile:
    """One error about all that these tasks lack, from what each of them stopped at: a file that is
    not there, or a picture within a folder that is."""
    lines: dict[str, list[str]] = {}
    for task, problem in lacking.items():
        files = task.missing(train) if isinstance(task, PublishedBenchmark) else []
        told = [f"{task.root}/{file.path} ({file.size}) at {file.source}" for file in files]
        for line in told or [str(problem)]:
            lines.setdefault(line, []).append(task.name)
    if len(lines) == 1:
        return next(iter(lacking.values()))
    listed = "".join(f"\n  {', '.join(names)}: {line}" for line, names in lines.items())
    return MissingFile(f"published files are not there; their publishers offer them:{listed}")
