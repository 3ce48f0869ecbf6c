"""What a model said, on disk: one row for each question, appended as it comes.

    FOLDER/predictions/settings.json   whose answers these are
                       TASK.jsonl      asked the usual way; TASK.VARIANT.jsonl otherwise
                       rank1/…         of another process, until the first one gathers them

A killed evaluation goes on where it was: a row is on its way to the disk before the next answer is
awaited, and what has a row is not asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lucida.core.errors import RunError
from lucida.core.files import take_pairs
from lucida.core.locking import sole_writer
from lucida.core.progress import say
from lucida.core.runs import JsonLines, atomic_write, disk_errors, plain
from lucida.eval.asking import LIKELIHOODS, Answerer, Job, Response, answers
from lucida.eval.benchmark import Benchmark, Example, Parsed
from lucida.eval.ranks import rank, wait_for_all, world

ROW = ("id", "prompt", "output")
"""What a row must have."""


@dataclass(frozen=True, slots=True)
class ScoredResponses:
    """What one model said to the examples of one benchmark, and what that is worth. `reasons` say
    why an example was never answered, where it was not."""

    outputs: list[str]
    parsed: list[Parsed]
    scores: list[float]
    details: list[Mapping[str, object]]
    reasons: list[str | None]

    @property
    def failed(self) -> int:
        """How many examples were never answered."""
        return sum(reason is not None for reason in self.reasons)


class Store:
    """The predictions of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "predictions"

    def file(self, key: str) -> JsonLines:
        """The rows of one task and variant."""
        return JsonLines(self.folder / f"{key}.jsonl")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """No other process writes this one's files meanwhile."""
        with sole_writer(self._own):
            yield

    @property
    def _own(self) -> Path:
        return self.folder / f"rank{rank()}" if rank() else self.folder

    def settle(self, identity: Mapping[str, object]) -> bool:
        """Whether stored answers come from this model; those that do not are removed."""
        same = self._is_of(identity)
        if rank() == 0 and not same:
            stored = [*self.folder.glob("*.jsonl"), *self.folder.glob("rank*/*.jsonl")]
            if stored:
                say(f"{self.folder}: the stored answers are another model's or of other "
                    "settings; all questions are asked again")  # fmt: skip
            for old in stored:
                old.unlink()
            settings = json.dumps(plain(dict(identity)), indent=2) + "\n"
            atomic_write(self.folder / "settings.json", settings)
        wait_for_all()
        return same

    def settle_records(self, task: Benchmark) -> None:
        """Remove stored answers of a task over own records that hold something else by now."""
        now = task.description.get("fingerprint")
        if now is None:
            return
        file = self.folder / f"{task.name}.records"
        before = file.read_text(encoding="utf-8").strip() if file.exists() else now
        if rank() == 0:
            if before != now:
                for pattern in (f"{task.name}.jsonl", f"{task.name}.*.jsonl"):
                    for old in [*self.folder.glob(pattern), *self.folder.glob(f"rank*/{pattern}")]:
                        old.unlink()
            atomic_write(file, f"{now}\n")
        wait_for_all()

    def _is_of(self, identity: Mapping[str, object]) -> bool:
        """Whether stored answers come from this model."""
        file = self.folder / "settings.json"
        return file.exists() and _read(file) == plain(dict(identity))

    def known(
        self, key: str, task: Benchmark, examples: Sequence[Example]
    ) -> dict[tuple[str, str], Response]:
        """What is stored already, by example and prompt: answers, and why there is none.

        RunError: a row that lacks something, likelihoods that are not those of the example's
        candidates, a question answered twice, an example that the benchmark does not have.
        """
        said: dict[tuple[str, str], Response] = {}
        candidates = {_name(example): len(example.candidates) for example in examples}
        for file, number, row in self._rows(key):
            name = row["id"], row["prompt"]
            if (reason := row.get("failed")) is not None:
                # A failure never hides an answer, whichever came first in the file.
                said.setdefault(name, Response("", failed=str(reason)))
                continue
            if name in said and said[name].failed is None:
                raise _wrong(file, f"row {number} answers a question again", "once", row["id"])
            details = {"likelihoods": row["likelihoods"]} if "likelihoods" in row else {}
            if details and name in candidates:
                _check(file, number, row["likelihoods"], candidates[name])
            said[name] = Response(row["output"], details)
        ids = {example.id for example in examples}
        # All examples of a benchmark may take minutes to make, so they are only asked for where
        # some id is not among today's.
        unknown = {name for name, _ in said} - ids
        if unknown:
            unknown -= {example.id for example in task.examples()}
        if unknown:
            raise _wrong(
                self.file(key), f"{task.name} has no such example", "its ids", sorted(unknown)[:3]
            )
        return said

    def check(self, keys: Iterable[str], identity: Mapping[str, object]) -> None:
        """RunError where stored answers of this model cannot be read: to know before any asking."""
        if self._is_of(identity):
            for key in keys:
                for _ in self._rows(key):
                    pass

    def _rows(self, key: str) -> Iterator[tuple[JsonLines, int, dict]]:
        """Every stored row with its file and number; RunError for one that lacks something."""
        for file in [self.file(key), *self._of_ranks(key)]:
            for number, row in enumerate(file.read(), start=1):
                whole = isinstance(row, dict) and all(isinstance(row.get(n), str) for n in ROW)
                if not whole:
                    raise _wrong(file, f"row {number} is no prediction", ", ".join(ROW), row)
                yield file, number, row

    def ask(
        self, jobs: Sequence[Job], answerer: Answerer, max_new_tokens: int, label: str
    ) -> tuple[dict[str, dict[tuple[str, str], Response]], int]:
        """Everything that is said to these jobs, read back or asked now, by key; and how many were
        asked now, by this process."""
        known = {job.key: self.known(job.key, job.task, job.examples) for job in jobs}
        wait_for_all()  # everybody has read before anybody writes
        missing = [
            replace(j, examples=[e for e in j.examples if not _is_answered(e, known[j.key])])
            for j in jobs
        ]
        own = {job.key: JsonLines(self._own / f"{job.key}.jsonl") for job in jobs}
        asked = 0
        for job, example, said in answers(missing, answerer, max_new_tokens, label):
            asked += 1
            own[job.key].append(_row(example, said.output, said.failed) | dict(said.details))
            known[job.key][_name(example)] = said
        wait_for_all()
        if world() > 1:
            known = {job.key: self.known(job.key, job.task, job.examples) for job in jobs}
            wait_for_all()  # everybody has read before the first one gathers the files
        return known, asked

    def _of_ranks(self, key: str) -> list[JsonLines]:
        return [JsonLines(path) for path in sorted(self.folder.glob(f"rank*/{key}.jsonl"))]

    def write_scores(self, job: Job, answered: ScoredResponses, replace: bool = True) -> None:
        """Replace the file by full rows; rows of examples beyond today's limit stay. Without
        `replace` so do all that have a score: what is scored among few has other weights."""
        file = self.file(job.key)
        # By id alone: an example asked again in other words replaces its row.
        rows = {row["id"]: row for each in [file, *self._of_ranks(job.key)] for row in each.read()}
        for place, example in enumerate(job.examples):
            if not replace and rows.get(example.id, {}).get("score") is not None:
                continue
            if (reason := answered.reasons[place]) is not None:
                rows[example.id] = _row(example, "", reason)  # without a score; asked again
                continue
            rows[example.id] = {
                "id": example.id,
                "kind": example.kind,
                "cluster": example.cluster,
                "prompt": example.question,
                "output": answered.outputs[place],
                "parsed": answered.parsed[place],
                "truth": list(example.answers) if example.box is None else list(example.box),
                "score": None if job.task.judged else answered.scores[place],
                **answered.details[place],
            }
        text = "".join(json.dumps(plain(row)) + "\n" for row in rows.values())
        atomic_write(file.path, text)
        for each in self._of_ranks(job.key):
            each.path.unlink()


def _read(file: Path) -> object:
    """What a file of JSON says; RunError when it is damaged, as then nobody knows whose answers
    these are."""
    try:
        with disk_errors(file):
            return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=take_pairs)
    except (ValueError, RecursionError) as problem:
        raise RunError(
            f"this file is damaged: {problem}",
            origin=file,
            remedy="delete it; every question is then asked again",
        ) from problem


def _row(example: Example, output: str, failed: str | None) -> dict[str, object]:
    """What is written at once, before there is a score."""
    row = {"id": example.id, "prompt": example.question, "output": output}
    return row if failed is None else row | {"failed": failed}


def _is_answered(example: Example, known: Mapping[tuple[str, str], Response]) -> bool:
    said = known.get(_name(example))
    return said is not None and said.failed is None


def _check(file: JsonLines, number: int, found: object, count: int) -> None:
    """Refuse likelihoods that are not a number for each of `count` candidates, by all that these
    are compared by."""
    lists = [found.get(name) for name in LIKELIHOODS] if isinstance(found, dict) else [None]
    for each in lists:
        numbers = isinstance(each, list) and all(type(value) in (int, float) for value in each)
        if not numbers or len(each) != count:
            expected = f"{count} numbers for each of {', '.join(LIKELIHOODS)}"
            raise _wrong(file, f"row {number} has other likelihoods", expected, found)


def _name(example: Example) -> tuple[str, str]:
    return example.id, example.question


def _wrong(file: JsonLines, what: str, expected: object, given: object) -> RunError:
    return RunError(
        f"this file of predictions cannot be used: {what}",
        expected=expected,
        given=given,
        origin=file.path,
        remedy="delete the file; its questions are then asked again",
    )


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
