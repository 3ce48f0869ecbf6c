"""All studies of a folder on one page: what was claimed, what was found, and whether they agree.

STUDIES/*/results.json + claims.yaml ──▶ STUDIES/RESULTS.md, STUDIES/summary.svg
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lucida.core.document import read_document
from lucida.core.errors import RunError
from lucida.core.files import atomic_write
from lucida.core.runs import read_json
from lucida.study.charts import draw_summary
from lucida.study.design import STUDIES

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "cannot tell"
PARTLY = "agrees in part"
RESULTS, FIGURE = "RESULTS.md", "summary.svg"
INTRODUCTION = """\
Written by `lucida study report --all` from {count}. Differences are points against the baseline
with intervals over seeds and pictures; verdicts are on what was declared before the first run.
"On the way" is how much higher the learning curve lies on average, over all tasks that were asked:
it tells designs apart that end alike, and is exploratory. All of it is about the miniature world:
a language model of two million parameters, pictures of 64 pixels. That it agrees with a paper, or
does not, says nothing sure about models of 7B."""


def load_claims() -> list[dict]:
    """The published findings, as `claims.yaml` has them."""
    return read_document(STUDIES / "claims.yaml").data["claims"]


def judge(claim: Mapping, findings: Sequence[Mapping]) -> str:
    """Whether findings agree with a claim: all that it names have to; it agrees in part when some
    do and some are surely otherwise."""
    said = [OPEN] * len(claim["expects"])
    for place, (arm, wanted) in enumerate(claim["expects"].items()):
        for found in findings:
            if found["arm"] == arm and found["primary"]:
                verdict = found["verdict"]
                said[place] = (
                    AGREES if verdict in wanted else OPEN if verdict == OPEN else DISAGREES
                )
    # `cannot tell` beside `disagrees` is a disagreement, beside `agrees` alone still open.
    if DISAGREES in said:
        return PARTLY if AGREES in said else DISAGREES
    return AGREES if all(each == AGREES for each in said) else OPEN


def write_summary(folder: Path) -> Path:
    """The page and the figure of all studies that have a report; gives the page's path. RunError
    where there is none."""
    results = {}
    for file in sorted(folder.glob("*/results.json")):
        found = read_json(file)
        results[found["name"]] = found
    if not results:
        raise RunError(
            "no study here has a report yet", origin=folder, remedy="`lucida study run` writes one"
        )
    claims = load_claims()
    tested = [(claim, results[claim["study"]]) for claim in claims if claim["study"] in results]
    count = f"{len(results)} {'study' if len(results) == 1 else 'studies'}"
    lines = ["# What the studies found", "", INTRODUCTION.format(count=count), ""]
    if tested:
        lines += [f"![differences with intervals]({FIGURE})", ""]
        lines += ["| claim | as published | here | agrees? | on the way |", "|---|---|---|---|---|"]
        lines += [_row(claim, found) for claim, found in tested]
        lines.append("")
    others = [found for name, found in results.items() if name not in {c["study"] for c in claims}]
    lines += [f"* {found['name']}: {'; '.join(found['sentences'])}" for found in others]
    waiting = [c for c in claims if c["study"] and c["study"] not in results]
    if waiting:
        lines += ["## Not run yet", ""]
        lines += [
            f"* {c['source']}: {c['paper']}. `lucida study run {c['study']}`" for c in waiting
        ]
        lines.append("")
    if beyond := [c for c in claims if not c["study"]]:
        lines += ["## What the miniature world cannot represent", ""]
        lines += [f"* {c['source']}: {c['paper']}. Not here: {c['why']}." for c in beyond]
        lines.append("")
    lines += ["## Commands and machine", ""]
    for found in results.values():
        machine = found.get("machine") or {}
        facts = [machine.get("cpu"), machine.get("python") and f"Python {machine['python']}"]
        packages = machine.get("packages") or {}
        facts += [
            f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages
        ]
        git = (machine.get("git") or {}).get("commit")
        facts += [f"commit {git[:12]}"] if git else []
        told = ", ".join(each for each in facts if each)
        lines.append(f"* `lucida study run {found['name']}`, declared {found['hash']}: {told}")
    page = folder / RESULTS
    atomic_write(page, "\n".join(lines) + "\n")
    rows = [
        (f"{each['arm']} ({found['name']})", each["mean"], each["low"], each["high"],
         _one(claim, each))
        for claim, found in tested
        for each in found["findings"]
        if each["primary"] and each["arm"] in claim["expects"]
    ]  # fmt: skip
    if rows:
        atomic_write(folder / FIGURE, draw_summary(rows))
    return page


def _one(claim: Mapping, found: Mapping) -> str:
    return judge(claim | {"expects": {found["arm"]: claim["expects"][found["arm"]]}}, [found])


def _row(claim: Mapping, found: Mapping) -> str:
    here = []
    for each in found["findings"]:
        if each["primary"]:
            low, high = each["low"], each["high"]
            ends = f"{low:+z.1f} to {high:+z.1f}" if _is_known(low, high) else "one seed"
            here.append(f"{each['arm']} {each['mean']:+z.1f} ({ends}), {each['verdict']}")
    done = len(found["ends"]) - found.get("waiting", 0)
    if found.get("waiting"):
        here.append(f"{done} of {len(found['ends'])} runs so far")
    paper = f"{claim['paper']} ({claim['source']}; {claim['scale']}; {_read(claim)})"
    if claim.get("against"):
        paper += f". Against it: {claim['against']}"
    title = f"[{claim['id']}]({claim['study']}/report.md)"
    cells = [title, _cell(paper), _cell("; ".join(here)), judge(claim, found["findings"])]
    cells.append(_tell_way(found))
    return f"| {' | '.join(cells)} |"


def _tell_way(found: Mapping) -> str:
    """How much higher the learning curve of each declared arm lies, its end apart."""
    declared = {each["arm"] for each in found["findings"] if each["primary"]}
    return "; ".join(
        f"{each['name']} {each['mean']:+z.1f} ({each['low']:+z.1f} to {each['high']:+z.1f})"
        for each in found.get("sooner", [])
        if each["outcome"] == "area" and each["name"] in declared
        and _is_known(each["low"], each["high"])
    ) or "–"  # fmt: skip


def _is_known(*ends: float | None) -> bool:
    return all(end is not None and math.isfinite(end) for end in ends)


def _read(claim: Mapping) -> str:
    places = {"paper": "the paper", "abstract": "its abstract", "summary": "a summary"}
    return f"read in {places[claim['read']]}" if claim["read"] in places else "from memory"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
