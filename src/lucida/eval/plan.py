"""How an evaluation asks: tasks, protocols, baselines, demonstrations, and variants of a task.

A variant (pictures removed or shuffled, demonstrations, reasoning first) changes the prompt of
every example and nothing else; ids, truths and scores stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lucida.core.errors import RunError
from lucida.core.results import Results, TaskScores
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.eval.asking import Job
from lucida.eval.benchmark import Benchmark, Example, Protocol
from lucida.eval.benchmarks import find_task
from lucida.eval.benchmarks.annotations import MissingFile
from lucida.eval.benchmarks.published import PublishedBenchmark
from lucida.eval.prompts import prompt_set

if TYPE_CHECKING:
    from lucida.eval.answerers.endpoint import EndpointAnswerer

Pictures = Literal["shown", "removed", "shuffled"]

THINK = "\nLet's think step by step."
"""What asks for reasoning before the answer.

Reference: Kojima et al., Large Language Models are Zero-Shot Reasoners, 2022, arXiv 2205.11916; Lin
et al., VILA, 2023, arXiv 2312.07533, section 4.3 (visual chain of thought)."""


THINK_TOKENS = 512
"""How long an answer with its reasoning can be: a task's own limit is that of a bare answer."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How a task is asked. `seed` chooses demonstrations and wrong pictures."""

    protocol: Protocol
    pictures: Pictures = "shown"
    shots: int = 0
    seed: int = 0
    think: bool = False

    def key(self, task: Benchmark) -> str:
        """Name of the file of its predictions; asked the usual way it has the task's own name."""
        words = [task.name]
        if self.protocol != "generate":
            words.append(self.protocol)
        if self.pictures != "shown":
            words.append(self.pictures)
        if self.shots:
            words.append(f"{self.shots}-shot-{self.seed}")
        if self.think:
            words.append("think")
        return ".".join(words)

    def examples(self, task: Benchmark, examples: Sequence[Example]) -> list[Example]:
        """The examples as they are asked."""
        changed = list(examples)
        if self.think:
            changed = [with_reasoning(example, task.reasoning) for example in changed]
        if self.pictures == "removed":
            changed = [remove_pictures(example) for example in changed]
        if self.pictures == "shuffled":
            changed = shuffle_pictures(changed, self.seed)
        if self.shots:
            from lucida.eval.few_shot import add_demonstrations

            changed = add_demonstrations(task, changed, self.shots, self.seed)
        return changed


def with_reasoning(example: Example, own: str = "") -> Example:
    """The question with `THINK` behind it, or with a task's own words for it before it."""
    *before, last = example.sample.branches[0]
    *shown, question = last.parts
    parts = (*shown, f"{own} {question}") if own else (*last.parts, THINK)
    return replace(
        example,
        sample=replace(example.sample, branches=((*before, Turn(last.role, parts)),)),
        question=f"{own} {example.question}" if own else example.question + THINK,
    )


# Group 1 is what stands in a box; of "the answer is" the end of the match counts.
_CONCLUSION = re.compile(
    r"\\boxed\{([^{}]*)\}|(?<![a-z])answer[\s*_]*(?:is(?![a-z])|[:=])[\s*_:=]*", re.IGNORECASE
)


def drop_thoughts(output: str) -> str:
    """The output behind its thoughts, where the model marks them (`<think> … </think>`).

    Worked example: "<think>Two reds.</think> three" gives " three"; of thoughts without an end
    nothing is left, as the answer never came.
    """
    _, mark, after = output.rpartition("</think>")
    if mark:
        return after
    return output.partition("<think>")[0]


def read_conclusion(output: str) -> str:
    """What a reasoning output ends with: what stands in its last box or behind its last "answer is"
    or "answer:", or its last line; without bold marks around it.

    Worked example: "Two reds and a blue. The answer is three." gives "three."; "**Final answer:**
    three" gives "three"; "It is round.\\nred" gives "red".
    """
    output = drop_thoughts(output)
    *_, last = [None, *_CONCLUSION.finditer(output)]
    if last is not None:
        return (output[last.end() :] if last[1] is None else last[1]).strip(" *")
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def remove_pictures(example: Example) -> Example:
    """The words alone."""
    sample = example.sample
    strip = lambda turns: tuple(  # noqa: E731
        Turn(turn.role, tuple(part for part in turn.parts if not isinstance(part, ImagePart)))
        for turn in turns
    )
    stem = tuple(turn for turn in strip(sample.stem) if turn.parts)
    return replace(
        example, sample=Sample(sample.origin, (), stem, tuple(map(strip, sample.branches)))
    )


def shuffle_pictures(examples: Sequence[Example], seed: int) -> list[Example]:
    """Every question behind the pictures of another: no group of pictures stays where it was.

    Groups of equally many pictures are exchanged, in a cycle of random order; a group that is alone
    with its number of pictures stays, as there is nothing to exchange it with.
    """
    groups: dict[tuple[str, ...], tuple[ImageSource, ...]] = {}
    for example in examples:
        sources = example.sample.images
        groups.setdefault(tuple(source.key for source in sources), sources)
    generator = np.random.default_rng(seed)
    other: dict[tuple[str, ...], tuple[ImageSource, ...]] = {}
    for count in sorted({len(names) for names in groups}):
        names = [each for each in groups if len(each) == count]
        order = [names[place] for place in generator.permutation(len(names))]
        # A cycle through all groups: every one gets the next one's pictures, none its own.
        for own, following in zip(order, [*order[1:], *order[:1]], strict=True):
            other[own] = groups[following]
    return [
        replace(example, sample=replace(example.sample, images=other[_names(example)]))
        for example in examples
    ]


def _names(example: Example) -> tuple[str, ...]:
    return tuple(source.key for source in example.sample.images)


@dataclass(frozen=True, slots=True)
class Options:
    """How tasks are asked beyond the recipe's evaluation.

    protocols   generate, likelihood, loss; empty takes each task's usual one. The
                first that a task has gives its score, others stand beside it.
    shots       numbers of demonstrations, each over `seeds` seeds
    think       ask for reasoning before the answer (up to `THINK_TOKENS`); what it ends with is
                scored
    prompts     the set of prompts, and
    data        the folder of published files; None takes the recipe's
    judge       who reads outputs that a task's rule cannot (`eval.judge`) and says which answers
                are unsafe (`eval.attacks`); None asks nobody
    """

    protocols: tuple[Protocol, ...] = ()
    shots: tuple[int, ...] = ()
    seeds: int = 3
    think: bool = False
    prompts: str | None = None
    data: str | None = None
    judge: EndpointAnswerer | None = None

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
class EvaluationPlan:
    """Everything that one evaluation asks, and how."""

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
    ) -> EvaluationPlan:
        """The recipe's evaluation with what was asked for; mistakes stop before any asking."""
        spec = options.over(spec)
        asked = [find_task(spec, each) for each in (spec.tasks if tasks is None else tasks)]
        loaded = tuple(dict.fromkeys(asked))
        if not loaded:
            raise RunError(
                "there is no task to evaluate", origin=origin, remedy="name tasks to evaluate"
            )
        for task in loaded:
            if options.protocols and not set(options.protocols) & set(task.protocols):
                raise RunError(
                    f"the task {task.name} cannot be asked by that protocol",
                    expected=" or ".join(task.protocols),
                    given=" and ".join(options.protocols),
                    remedy="choose another --protocol, or leave the task out",
                )
            if options.judge is not None:
                task.attack_judge()  # what it lacks is told before anything is asked
        chosen = spec.limit if limit is None else limit
        return cls(loaded, chosen, options, tuple(spec.baselines), spec)

    def protocols(self, task: Benchmark) -> list[Protocol]:
        """How a task is asked, the protocol that gives its score first."""
        if not self.options.protocols:
            return [task.protocols[0]]
        return [
            protocol
            for protocol in dict.fromkeys(self.options.protocols)
            if protocol in task.protocols
        ]

    def variants(self, task: Benchmark) -> list[Variant]:
        """Every variant in which a task is asked; the first gives its score."""
        protocols, think = self.protocols(task), self.options.think
        found = [Variant(protocol, think=think) for protocol in protocols]
        if protocols[0] != "loss":
            found += [Variant(protocols[0], pictures=each, think=think) for each in self.baselines]
            for count in self.options.shots:
                # Without demonstrations there is nothing for a seed to choose: 0 shots are the
                # task's score.
                seeds = range(self.options.seeds) if count else ()
                found += [
                    Variant(protocols[0], shots=count, seed=seed, think=think) for seed in seeds
                ]
        return found

    def score_keys(self) -> list[str]:
        """The names of all files that answers which give the scores may stand in."""
        keys = [(self.variants(task)[0].key(task), task.prompts) for task in self.tasks]
        return [each for key, prompts in keys for each in (key, f"{key}.{prompts}")]

    def jobs(self, results: Results, scores_only: bool = False) -> list[tuple[Variant, Job]]:
        """All of it, or what gives the scores only; baselines only where there are pictures.

        Where `results` has the score of more questions in other words, the answers go into a file
        of their own. MissingFile names every published file that is not there, of all tasks;
        RunError a task without examples.
        """
        found, lacking = [], {}
        for task in self.tasks:
            try:
                found += self._jobs(task, results.tasks.get(task.name), scores_only)
            except MissingFile as problem:
                lacking[task] = problem
        if lacking:
            raise name_missing(lacking, any(self.options.shots))
        return found

    def _jobs(
        self, task: Benchmark, kept: TaskScores | None, scores_only: bool
    ) -> list[tuple[Variant, Job]]:
        found = []
        examples = task.examples(self.limit)
        if not examples:
            raise RunError(f"{task.name} has no examples, so there is no score")
        # The score of more questions in other words stays the task's, and so do its answers.
        larger = kept is not None and kept.count > len(examples)
        suffix = f".{task.prompts}" if larger and kept.prompts != task.prompts else ""
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
            found.append((variant, Job(key, task, variant.protocol, changed, new)))
        return found


def name_missing(lacking: Mapping[Benchmark, MissingFile], train: bool) -> MissingFile:
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
