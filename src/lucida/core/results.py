"""What results.json and metrics.jsonl hold, and the check that a file really holds it.

results.json:

    tasks      task → its score: of the most questions that were asked, of equally many the latest
    others     task → the other measurements of it: of fewer questions, or in other words
    seconds    phase → seconds
    retention  what training cost in text
    answers    task → file for its outside judge; judged: of how many questions it is; failed: how
               many of them were never answered

Files come from older versions, other hands and torn disks: what is there must be of its kind, what
is missing may be missing (`whole` says what pages need). Other keys stay as they are, unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lucida.core.errors import RunError

_MOST = 1e15  # beyond it no figure can be drawn; no score, loss, step or number of seconds is
Number = Annotated[float, Field(allow_inf_nan=False, ge=-_MOST, le=_MOST)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Count = Annotated[int, Field(ge=0, le=int(_MOST))]

NEEDED = ("interval", "n", "metric", "chance")
"""What a task must say beside its score to be shown."""


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Gain(_Shape):
    mean: Number
    interval: Interval


class _Kind(_Shape):
    score: Number
    n: Count = 0


class _Baseline(_Shape):
    score: Number
    n: Count
    gain: _Gain
    solved: Number | None = None


class _Way(_Shape):
    score: Number
    by: dict[str, Number] = {}


class _Shots(_Shape):
    mean: Number
    sd: Number | None
    scores: list[Number]


class _Task(_Shape):
    score: Number
    interval: Interval | None = None
    n: Count | None = None
    metric: str | None = None
    chance: Number | None = None
    of: Count | None = None
    clusters: Count | None = None
    higher_is_better: bool = True
    prompts: str | None = None
    predictions: str | None = None
    data: str | None = None
    way: str | None = None
    think: bool | None = None
    floor: bool | None = None
    failed: Count | None = None
    blind: Number | None = None
    blind_interval: Interval | None = None
    gain: _Gain | None = None
    blind_solved: Number | None = None
    resolves: Number | None = None
    own: dict[str, Any] | None = None
    fingerprint: str | None = None
    kinds: dict[str, _Kind] = {}
    baselines: dict[str, _Baseline] = {}
    ways: dict[str, _Way] = {}
    shots: dict[str, _Shots] = {}
    totals: dict[str, float | None] = {}


class _Stage(_Shape):
    stage: str | None
    after: float


class _Retention(_Shape):
    of: str
    measure: str
    before: float
    after: float
    lost: float | None
    stages: list[_Stage] = []


class _Results(_Shape):
    tasks: dict[str, _Task] = {}
    others: dict[str, list[_Task]] = {}
    seconds: dict[str, Number] = {}
    retention: _Retention | None = None
    answers: dict[str, str] = {}
    judged: dict[str, Count] = {}
    failed: dict[str, Count] = {}
    parameters: Number | None = None
    trained_parameters: Number | None = None


class _Asked(_Shape):
    score: Number | None
    interval: Annotated[list[Number | None], Field(min_length=2, max_length=2)]


class _Evaluation(_Shape):
    tasks: dict[str, _Asked]


class _Text(_Shape):
    after: float


class _Logged(_Shape):
    step: Count | None = None
    stage: str | None = None
    loss: Number | None = None
    seconds: Number | None = None
    validation_loss: Number | None = None
    source_loss: dict[str, Number | None] | None = None
    source_supervised: dict[str, Count] | None = None
    evaluation: _Evaluation | None = None
    retention: _Text | None = None


def check_results(content: Mapping[str, Any], origin: Path) -> None:
    """RunError, with the field and both values, where results are of another shape."""
    _check(
        _Results, content, origin, "move the file away; `lucida eval` writes its scores again from "
        "the stored answers",
    )  # fmt: skip


def check_whole(content: Mapping[str, Any], origin: Path) -> None:
    """RunError where a task lacks what pages need, as when somebody shortened the file."""
    others = content.get("others", {})
    for name, task in content.get("tasks", {}).items():
        for each in (task, *others.get(name, ())):
            if missing := [field for field in NEEDED if each.get(field) is None]:
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


def _check(shape: type[_Shape], content: object, origin: object, remedy: str) -> None:
    try:
        shape.model_validate(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(
            f"`{field}` is of the wrong kind: {first['msg'].lower()}",
            given=repr(first["input"])[:60],
            origin=origin,
            remedy=remedy,
        ) from None
