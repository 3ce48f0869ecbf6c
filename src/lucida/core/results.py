"""What results.json and metrics.jsonl hold, and the check that a file really holds it.

results.json:

    tasks      task → its score: of the most questions that were asked, of equally many the latest
    others     task → the other measurements of it: of fewer questions, or in other words
    seconds    phase → seconds
    retention  what training cost in text
    answers    task → file for its outside judge; judged: of how many questions it is; failed: how
               many of them were never answered

Files come from older versions, other hands and torn disks: what is there must be of its kind, what
is missing may be missing (`check_whole` says what pages need). `Results` is what an evaluation
writes; `lucida.eval.evaluation` reads it and goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lucida.core.errors import RunError

_MOST = 1e15  # beyond it no figure can be drawn; no score, loss, step or number of seconds is
Number = Annotated[float, Field(allow_inf_nan=False, ge=-_MOST, le=_MOST)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=0, le=int(_MOST))]

NEEDED = ("interval", "n", "metric", "chance")
"""What a task must say beside its score to be shown."""


class _Shape(BaseModel):
    """Fields by their names in the file, which keep those of the first versions (`way`, `ways`).
    Other keys stay as they are, unread."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)


class Gain(_Shape):
    """A paired difference with its 95% interval."""

    mean: Number
    interval: Interval


class KindScores(_Shape):
    """The score of one kind of question."""

    score: Number
    n: Count = 0
    interval: Interval | None = None
    blind: Number | None = None


class BaselineScores(_Shape):
    """The same questions with the pictures removed, or with those of another question. `gain` is
    what the pictures are worth, `solved` the share that is answered all the same."""

    score: Number
    n: Count
    gain: Gain
    interval: Interval | None = None
    solved: Number | None = None


class ProtocolScores(_Shape):
    """The score by one protocol; `by`: where likelihoods are compared in other ways."""

    score: Number
    interval: Interval | None = None
    n: Count | None = None
    by: dict[str, Number] = {}


class ShotScores(_Shape):
    """Mean and spread over seeds with so many demonstrations."""

    mean: Number
    sd: Number | None
    scores: list[Number]


class JudgeScores(_Shape):
    """The score with what a judge read of outputs that the task's rule could not (`eval.judge`).

    asked: how many those are; of them `read` gave an answer; `unreadable` give none, says the
    judge, or are empty; of `nonsense` the verdict itself could not be read; `failed` were never
    judged. prompt: its words.
    """

    score: Number
    interval: Interval
    endpoint: str
    model: str
    prompt: str
    asked: Count
    read: Count
    unreadable: Count
    nonsense: Count
    failed: Count


class AttackScores(_Shape):
    """What share of the answers to bad requests a judge calls unsafe (`eval.attacks`).

    rate: of all; rates: by kind and part ("06-Fraud SD"). None where one of the answers has no
    verdict: `nonsense` are neither safe nor unsafe, `failed` were never answered or judged.
    prompts: what identifies the judge's words.
    """

    rate: Number | None
    interval: Interval | None
    rates: dict[str, Number | None]
    endpoint: str
    model: str
    prompts: str
    asked: Count
    safe: Count
    unsafe: Count
    nonsense: Count
    failed: Count


class LeftOut(_Shape):
    """Records that were left out, as they cannot be asked: how many, and why the first cannot."""

    records: Count
    first: str


class TaskScores(_Shape):
    """One measurement of a task; `eval.summary.summarise` says what each number is."""

    score: Number
    interval: Interval | None = None
    n: Count | None = None
    of: Count | None = None
    clusters: Count | None = None
    metric: str | None = None
    higher_is_better: bool = True
    prompts: str | None = None
    chance: Number | None = None
    majority: Number | None = None
    floor: bool | None = None
    blind: Number | None = None
    blind_interval: Interval | None = None
    gain: Gain | None = None
    blind_solved: Number | None = None
    resolves: Number | None = None
    kinds: dict[str, KindScores] = {}
    malformed: Count | None = None
    failed: Count | None = None
    left_out: LeftOut | None = None
    totals: dict[str, float | None] = {}
    headline: str | None = None
    protocol: str | None = Field(default=None, alias="way")
    think: bool | None = None
    predictions: str | None = None
    data: str | None = None
    boxes: str | None = None
    own: dict[str, Any] | None = None
    fingerprint: str | None = None
    protocols: dict[str, ProtocolScores] = Field(default={}, alias="ways")
    baselines: dict[str, BaselineScores] = {}
    shots: dict[str, ShotScores] = {}
    judge: JudgeScores | None = None
    attacks: AttackScores | None = None

    @property
    def words(self) -> tuple[str | None, bool]:
        """In what words the task was asked: prompts, and whether reasoning comes first."""
        return self.prompts, bool(self.think)

    @property
    def count(self) -> int:
        """Of how many questions it is; an old file may not say."""
        return self.n or 0


class StageText(_Shape):
    """Text after one stage."""

    stage: str | None
    after: float


class RetentionScores(_Shape):
    """What training cost in text (`eval.retention`)."""

    of: str
    measure: str
    before: float
    after: float
    lost: float | None
    stages: list[StageText] = []


class Results(_Shape):
    """results.json. Of several measurements of a task the one of most questions is its score, of
    equally many the latest; none is replaced by a smaller or other one."""

    tasks: dict[str, TaskScores] = {}
    others: dict[str, list[TaskScores]] = {}
    seconds: dict[str, Number] = {}
    retention: RetentionScores | None = None
    answers: dict[str, str] = {}
    judged: dict[str, Count] = {}
    failed: dict[str, Count] = {}
    parameters: Number | None = None
    trained_parameters: Number | None = None

    def add(self, name: str, scores: TaskScores) -> None:
        """Put a new measurement of a task in.

        Two are the same measurement, of which the later one stays, when they are of equally many
        questions in the same words. What was measured beside a score (other protocols,
        demonstrations) is taken over by a later measurement in the same words of at least as many
        questions.

        Worked example: 1,000 questions, then 60: `tasks` keeps the 1,000, `others` has the 60. Then
        1,000 again: `tasks` has the new ones, `others` still the 60.
        """
        known = [self.tasks[name]] if name in self.tasks else []
        known += self.others.pop(name, [])
        for before in known:  # the largest of them has what the smaller ones had
            if before.words == scores.words and before.count <= scores.count:
                if before.protocols:
                    scores.protocols = before.protocols | scores.protocols
                if before.shots:
                    scores.shots = before.shots | scores.shots
                told = ("n", "score", "malformed", "failed")
                unchanged = all(getattr(before, name) == getattr(scores, name) for name in told)
                for part in ("judge", "attacks") if unchanged else ():
                    if getattr(scores, part) is None and getattr(before, part) is not None:
                        setattr(scores, part, getattr(before, part))
                break
        same = (scores.n, *scores.words)
        rest = [each for each in known if (each.n, *each.words) != same]
        largest, *rest = sorted([scores, *rest], key=lambda each: -each.count)
        self.tasks[name] = largest
        for each in rest:  # answers in other words in the same file are replaced
            if each.predictions == largest.predictions and each.words != largest.words:
                each.predictions = None
        if rest:
            self.others[name] = rest

    def is_largest(self, name: str, count: int) -> bool:
        """Whether a measurement of so many questions would be the score of the task."""
        return name not in self.tasks or count >= self.tasks[name].count

    def forget(self, name: str | None = None) -> None:
        """Take out the scores of a task, or of all with their exported answers."""
        for part in (self.tasks, self.others):
            part.clear() if name is None else part.pop(name, None)
        for part in (self.answers, self.judged, self.failed) if name is None else ():
            part.clear()

    @model_validator(mode="before")
    @classmethod
    def _with_every_part(cls, content: Any) -> Any:
        """What is filled in place later counts as said, so that `to_json` has it."""
        parts = ("tasks", "others", "seconds", "answers", "judged", "failed")
        return {name: {} for name in parts} | content if isinstance(content, dict) else content

    def to_json(self) -> dict[str, Any]:
        """What stands in the file: everything that was said, by the file's names."""
        found = self.model_dump(by_alias=True, exclude_unset=True)
        kept = ("tasks", "seconds")
        return {name: value for name, value in found.items() if name in kept or value != {}}


class _Asked(_Shape):
    score: Number | None
    interval: Annotated[list[Number | None], Field(min_length=2, max_length=2)]


class _Evaluation(_Shape):
    tasks: dict[str, _Asked]


class _Text(_Shape):
    after: float


class _Logged(_Shape):
    step: Count | None = None
    total_step: Count | None = None
    stage: str | None = None
    loss: Number | None = None
    seconds: Number | None = None
    validation_loss: Number | None = None
    source_loss: dict[str, Number | None] | None = None
    source_supervised: dict[str, Count] | None = None
    evaluation: _Evaluation | None = None
    retention: _Text | None = None


def read_results(content: Mapping[str, Any], origin: Path) -> Results:
    """What results.json holds; RunError, with the field and both values, where it is of another
    shape."""
    return _check(
        Results, content, origin, "move the file away; `lucida eval` writes its scores again from "
        "the stored answers",
    )  # fmt: skip


def check_whole(results: Results, origin: Path) -> None:
    """RunError where a task lacks what pages need, as when somebody shortened the file."""
    for name, task in results.tasks.items():
        for each in (task, *results.others.get(name, ())):
            if missing := [field for field in NEEDED if getattr(each, field) is None]:
                raise RunError(
                    f"the scores of {name} are not whole",
                    expected=", ".join(NEEDED),
                    given=f"no {', no '.join(missing)}",
                    origin=origin,
                    remedy="remove the task from the file and `lucida eval` it again; stored "
                    "answers are used",
                )


def check_logged(rows: Sequence[Mapping[str, Any]], origin: Path) -> None:
    """RunError, with row and field, where a log of training is of another shape."""
    for number, row in enumerate(rows, start=1):
        _check(
            _Logged, row, f"{origin}: row {number}", "delete that line; nothing else depends on it"
        )
        known = row.get("source_supervised") or {}
        if unknown := set(row.get("source_loss") or {}).difference(known):
            raise RunError(
                "a source has a loss and no number of supervised tokens",
                given=min(unknown),
                origin=f"{origin}: row {number}",
            )


S = TypeVar("S", bound=_Shape)


def _check(shape: type[S], content: object, origin: object, remedy: str) -> S:
    try:
        return shape.model_validate(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(
            f"`{field}` is of the wrong kind: {first['msg'].lower()}",
            given=repr(first["input"])[:60],
            origin=origin,
            remedy=remedy,
        ) from None
