"""A run folder and what explains it.

runs/mini/
  recipe.yaml        the resolved recipe: every value, defaults included
  inputs.json        what its data and parts were when it began (lucida.training.inputs)
  environment.json   versions, CPU, git commit, command; one entry more per resumption
  metrics.jsonl      one JSON object per line, appended as training goes
  dropped.jsonl      records that the data side left out, and why
  checkpoints/       written aside and renamed (lucida.training.state)
  config.json, model.safetensors, …   the trained model as transformers reads it
  results.json       scores, intervals, seconds per phase
  report.html        the same with pictures
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lucida.core.dropped import Dropped
from lucida.core.environment import describe
from lucida.core.errors import LucidaError, RunError
from lucida.core.files import atomic_folder as atomic_folder
from lucida.core.files import atomic_write as atomic_write
from lucida.core.files import disk_errors as disk_errors
from lucida.core.files import make_folder, remove_unfinished, take_pairs
from lucida.core.locking import sole_writer
from lucida.core.recipe import dump_recipe, load_recipe, recipe_hash
from lucida.core.results import Results, check_logged, read_results
from lucida.core.spec import Recipe


class JsonLines:
    """A file of one JSON object per line that only grows.

    A line is on its way to the disk when `append` returns, so a killed process loses none. Should
    the last line be torn all the same (power cut, disk full), readers leave it out and the next
    `append` removes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._checked = False

    def append(self, record: Mapping[str, object]) -> None:
        """Adds one record. Numbers that are not finite become null: JSON has no word for them."""
        line = json.dumps(plain(record), allow_nan=False) + "\n"
        with disk_errors(self.path):
            if not self._checked:
                self._drop_torn_line()
                self._checked = True
            # Unbuffered: a buffer that could not be flushed is written once more when it is closed.
            with self.path.open("ab", buffering=0) as file:
                start, left = file.tell(), memoryview(line.encode("utf-8"))
                try:
                    while left:  # a disk that is nearly full takes a part, and refuses the rest
                        left = left[file.write(left) :]
                except OSError:
                    with contextlib.suppress(OSError):
                        os.truncate(self.path, start)
                    raise

    def read(self) -> list[dict]:
        """All whole records; RunError names a line in the middle that is no JSON object."""
        if not self.path.exists():
            return []
        with disk_errors(self.path):
            lines = self.path.read_bytes().split(b"\n")
        records = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise RunError(
                    f"line {number} is not a JSON object: {line[:60]!r}",
                    origin=self.path,
                    remedy="restore the file or delete that line",
                )
            records.append(record)
        return records

    def keep(self, wanted: Callable[[dict], bool]) -> None:
        """Rewrites the file with the wanted records only: a resumed run forgets what it recorded
        after its last checkpoint."""
        if self.path.exists():
            kept = [record for record in self.read() if wanted(record)]
            atomic_write(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.endswith(b"\n"):
                atomic_write(self.path, content[: content.rfind(b"\n") + 1])


class RunFolder:
    """One run on disk. Nothing is created before `prepare`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.environment_file = self.path / "environment.json"
        self.results_file = self.path / "results.json"
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.dropped = Dropped(self.path / "dropped.jsonl")

    def prepare(self) -> RunFolder:
        """Creates the folder, proves it writable and clears what crashed writers left."""
        make_folder(self.path)
        remove_unfinished(self.path)
        if self.checkpoints.is_dir():
            remove_unfinished(self.checkpoints)
        return self

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keeps a second process from training in the same folder; creates the folder."""
        return sole_writer(self.path)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.recipe_file.is_file()

    @property
    def begun(self) -> bool:
        """Whether training began in this very folder, or its model was written here: a recipe alone
        may be anybody's."""
        made = (
            self.environment_file,
            self.metrics.path,
            self.checkpoints,
            self.path / "config.json",
        )
        return self.exists and any(path.exists() for path in made)

    def check(self) -> None:
        """RunError where no run has begun."""
        if not self.exists:
            raise RunError(
                "this is not a run folder (it has no recipe.yaml)",
                origin=self.path,
                remedy="`lucida runs` lists the runs, `lucida train NAME` makes one",
            )

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        self.check()
        return load_recipe(self.recipe_file)

    def write_recipe(self, recipe: Recipe) -> None:
        """Saves the resolved recipe with its hash in the first line."""
        note = f"# resolved by Lucida; hash {recipe_hash(recipe)}\n"
        atomic_write(self.recipe_file, note + dump_recipe(recipe))

    def environment(self, command: str, **facts: object) -> dict:
        """Writes environment.json and returns it. `facts` are what only the caller knows, such as
        device and precision. When the run is resumed, the first entry stays and the new one is
        added under `resumed`."""
        entry = plain(describe(command) | facts)
        whole = self.environment_entry
        if not whole:
            whole = entry | {"resumed": []}
        else:
            earlier = whole.setdefault("resumed", [])
            if not isinstance(earlier, list):
                raise RunError(
                    "`resumed` is of the wrong kind",
                    expected="a list",
                    given=repr(earlier)[:60],
                    origin=self.environment_file,
                    remedy="delete the file",
                )
            earlier.append(entry)
        atomic_write(self.environment_file, json.dumps(whole, indent=2) + "\n")
        return whole

    @property
    def diverged(self) -> str | None:
        """Why the training of the last stage that was trained here diverged; None when it did not
        (`lucida.training.divergence`)."""
        return _find_divergence(self.metrics.read(), self.recipe)

    @property
    def environment_entry(self) -> dict:
        """environment.json, or an empty dict where there is none; RunError when it is damaged."""
        return read_json(self.environment_file) if self.environment_file.exists() else {}

    @property
    def results(self) -> Results:
        """What results.json holds, nothing before evaluation. RunError when it is damaged or holds
        something else."""
        content = read_json(self.results_file) if self.results_file.exists() else {}
        return read_results(content, self.results_file)

    @property
    def logged(self) -> list[dict]:
        """The rows of metrics.jsonl; RunError when it is damaged or holds something else."""
        rows = self.metrics.read()
        check_logged(rows, self.metrics.path)
        return rows

    def write_results(self, results: Results | Mapping[str, object]) -> None:
        """Saves results.json; RunError where a mapping is not what it may hold."""
        content = plain(results.to_json() if isinstance(results, Results) else results)
        read_results(content, self.results_file)
        atomic_write(self.results_file, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `lucida runs`. `state`: unfinished, trained, evaluated, diverged (`problem` says
    why; its scores stand beside) or unreadable; `stage` and `step`: where training is, the steps of
    all stages counted; `left_out`: records and rows that training could not or should not use."""

    path: Path
    recipe: str
    state: str
    stage: str | None
    step: int | None
    scores: dict[str, float]
    problem: str | None = None
    left_out: int = 0


def list_runs(root: str | os.PathLike[str] = "runs") -> list[RunSummary]:
    """Every run at most two folders below `root`, by name; broken ones are listed as such."""
    root = Path(root)
    files = [*root.glob("recipe.yaml"), *root.glob("*/recipe.yaml"), *root.glob("*/*/recipe.yaml")]
    return [_summary(RunFolder(file.parent)) for file in sorted(files)]


def plain(value: object) -> object:
    """The value as JSON can hold it: numpy numbers as Python's, paths as text, nan as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, (str, int, float, bool, type(None))) and hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _summary(run: RunFolder) -> RunSummary:
    try:
        recipe, rows = run.recipe, run.logged
        name, diverged = recipe.name, _find_divergence(rows, recipe)
        reached = [row for row in rows if row.get("total_step", row.get("step")) is not None]
        scores = {name: task.score for name, task in run.results.tasks.items()}
        left_out = run.dropped.records()
    except LucidaError as problem:
        return RunSummary(run.path, "?", "unreadable", None, None, {}, str(problem))
    trained = (run.path / "config.json").exists()
    state = "evaluated" if scores else "trained" if trained else "unfinished"
    problem = None
    if diverged is not None:
        state, problem = "diverged", f"training diverged: {diverged}"
    last = reached[-1] if reached else {}
    stage, step = last.get("stage"), last.get("total_step", last.get("step"))
    return RunSummary(run.path, name, state, stage, step, scores, problem, left_out)


def _find_divergence(rows: list[dict], recipe: Recipe) -> str | None:
    """Why the last stage diverged, or one that the run did not come past."""
    told = [row for row in rows if isinstance(row.get("diverged"), str)]
    if not told:
        return None
    last, reached = told[-1].get("stage"), rows[-1].get("stage")
    return told[-1]["diverged"] if last in (recipe.stages[-1].name, reached) else None


def read_json(path: Path) -> dict:
    """The object in a JSON file of a run; RunError when it cannot be read or is something else."""
    try:
        with disk_errors(path):
            text = path.read_text(encoding="utf-8")
            content = json.loads(text, object_pairs_hook=take_pairs)
    except (ValueError, RecursionError) as problem:
        raise RunError(f"not JSON: {problem}", origin=path, remedy="delete the file") from problem
    if not isinstance(content, dict):
        raise RunError("not a JSON object", origin=path, remedy="delete the file")
    return content
