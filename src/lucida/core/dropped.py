"""dropped.jsonl: what the data side left out of a run, and why.

    {"stage", "source", "record", "reason"}            a record that could not be used
    {"stage", "source", "when", "reason", "count"}     how many of something, all ranks together

`record` is its number in the source, as `lucida data check` counts; a stage names it once.
`when` is `opening` for rows that a source's own filters keep out, `noted` for what a source has and
does not read (members, files, columns), and `training` for what was cut away from records that were
used or not read of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from lucida.core.files import atomic_write, disk_errors

UNUSABLE = "records that cannot be used"

Moment = Literal["opening", "noted", "training"]
Counts = Mapping[str, Mapping[str, int]]
"""Source → reason → how many."""


class Dropped:
    """The file of one run. It need not exist to be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0

    def read(self) -> list[dict]:
        """All lines that say something; what a crash tore is left out, and counted in `torn`."""
        self.torn = 0
        if not self.path.exists():
            return []
        found = []
        with disk_errors(self.path):
            text = self.path.read_text(encoding="utf-8", errors="replace")
        for line in filter(None, text.split("\n")):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict) and _plain(value):
                found.append(value)
            else:
                self.torn += 1
        return found

    def add(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Append lines; several processes may do so."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with disk_errors(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                # What a crash tore stays a line of its own.
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode("utf-8", errors="backslashreplace"))

    def count(self, stage: str, when: Moment, counts: Counts) -> None:
        """Put these counts in the place of those that stand there for this stage and moment."""
        before = self.read()
        kept = [line for line in before if (line.get("stage"), line.get("when")) != (stage, when)]
        place = {"stage": stage, "when": when}
        now = [
            place | {"source": source, "reason": reason, "count": count}
            for source, reasons in counts.items()
            for reason, count in reasons.items()
            if count
        ]
        if kept + now != before:
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in kept + now)
            atomic_write(self.path, "".join(lines).encode("utf-8", errors="backslashreplace"))

    def totals(self) -> dict[str, dict[str, int]]:
        """Source → reason → how many over all stages; records that could not be used are one
        reason. A record or a filter that several stages meet counts once."""
        found: dict[str, dict[str, int]] = {}
        lines = self.read()
        for source, _, _ in _unusable(lines):
            reasons = found.setdefault(source, {UNUSABLE: 0})
            reasons[UNUSABLE] += 1
        for line in lines:
            reasons = found.setdefault(line["source"], {})
            if isinstance(count := line.get("count"), int):
                reason = str(line.get("reason"))
                before = reasons.get(reason, 0)
                # What a source keeps out when it is opened, every stage that opens it meets again;
                # what was cut away in training, each stage cut from records of its own.
                opening = line.get("when") in ("opening", "noted")
                reasons[reason] = max(before, count) if opening else before + count
        return found

    def records(self) -> int:
        """Records and rows that no step has seen, by their own fault or a filter's."""
        lines, rows = self.read(), Counter[tuple[str, str]]()
        for line in lines:
            if line.get("when") == "opening" and isinstance(count := line.get("count"), int):
                filtered = line["source"], str(line.get("reason"))
                rows[filtered] = max(rows[filtered], count)
        return rows.total() + len(_unusable(lines))


def _plain(line: dict) -> bool:
    """Whether a line names a source, and holds words and numbers alone."""
    return isinstance(line.get("source"), str) and not any(
        isinstance(value, (dict, list)) for value in line.values()
    )


def _unusable(lines: list[dict]) -> dict[tuple, None]:
    """Records that could not be used, each once; the reason names file and place, so other data of
    the same name are other records."""
    found = [line for line in lines if "record" in line]
    return {(line["source"], str(line["record"]), str(line.get("reason"))): None for line in found}
