"""What was found in sources: as facts, histograms and shares, on the terminal, as JSON or a page.

Surveyed (source, Findings) ─▶ facts, histograms, shares ─▶ show | write_report | write_figures
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucida.apps.data.histogram import Histogram, histogram
from lucida.apps.data.survey import Findings, Surveyed, count_repeated
from lucida.core.files import atomic_write
from lucida.core.pages import render_page
from lucida.core.spec import StageSpec

BAR = 32
ERRORS, USUAL = 10, 6
"""Errors that are shown, and answers; the report has all errors."""
CUT_AWAY = {
    "tokens_cut": "tokens cut away",
    "branches_dropped": "questions dropped for lack of room",
    "images_dropped": "pictures dropped for lack of room",
}


@dataclass(frozen=True, slots=True)
class Share:
    """What a source is of a mixture, in shares of its samples, images and tokens (None: unknown).
    epochs: how often it is passed when as many samples are drawn as there are records in all."""

    name: str
    records: int
    weight: float
    samples: float
    images: float | None
    tokens: float | None
    epochs: float


def facts(surveyed: Surveyed) -> dict[str, int | str]:
    """Counts of a source: read, unusable, duplicates, and what filters and transforms leave out."""
    found, bad = surveyed.found, len(surveyed.found.errors)
    usable = found.read - bad
    told: dict[str, int | str] = {
        "records": len(surveyed.each.source),
        "records read": found.read,
        "cannot be used": write_share(bad, found.read),
        "duplicates (picture, text)": found.duplicates,
    }
    if found.pictures:
        told["pictures met again"] = count_repeated(found.pictures)
        told["answers met again"] = count_repeated(found.said)
    if usual := found.answers.most_common(USUAL):
        every = sum(found.lengths.values())
        listed = [f"{name} {write_share(many, every)}" for name, many in usual if many > 1]
        told["different short answers"] = len(found.answers)
        if listed:
            told["the most usual"] = ", ".join(listed)
    told["pictures"] = sum(many * n for many, n in found.images.items())
    told["without pictures"] = write_share(found.images[0], usable)
    if found.tokens:
        told["tokens"] = sum(many * n for many, n in found.tokens.items())
    if found.supervised:
        told["of them supervised"] = write_share(_sum(found.supervised), _sum(found.tokens))
        told["of them visual"] = write_share(_sum(found.visual), _sum(found.tokens))
        told["samples that are cut"] = write_share(found.cut["samples"], usable)
    for name, words in CUT_AWAY.items():
        if found.cut[name]:
            told[words] = found.cut[name]
    for why, many in getattr(surveyed.each.source, "dropped", {}).items():
        told[f"filtered: {why}"] = many
    for why, many in getattr(surveyed.each.source, "noted", {}).items():
        told[f"noted: {why}"] = many
    for why, many in found.lost.items():
        told[f"left out: {why}"] = many
    return told


def write_share(many: int, whole: int) -> str:
    """A count with its share of the whole."""
    return f"{many:,} ({many / max(1, whole):.2%})"


def _sum(counts) -> int:
    return sum(value * many for value, many in counts.items())


def histograms(found: Findings) -> list[Histogram]:
    """Of everything that was counted and is not the same everywhere."""
    titled = {
        "tokens of a sample": found.tokens,
        "supervised tokens of a sample": found.supervised,
        "visual tokens of a sample": found.visual if any(found.visual) else None,
        "words of a sample": None if found.tokens else found.words,
        "pictures of a sample": found.images,
        "turns of a sample": found.turns,
        "words of an answer": found.lengths,
        "longest side of a picture": found.sides,
    }
    return [histogram(title, counts) for title, counts in titled.items() if counts]


def shares(stage: StageSpec, surveyed: Sequence[Surveyed]) -> list[Share]:
    """What each source is of a stage's mixture, by the means of what was read.

    Worked example: by token, weights 1 and 1, records of 100 and 400 tokens: samples 4 to 1.
    """
    by = stage.mixture.by
    images = [_mean(each.found.images) for each in surveyed]
    tokens = [_mean(each.found.tokens) for each in surveyed]
    sizes = {"sample": [1.0] * len(surveyed), "image": images, "token": tokens}[by]
    weights = [each.each.spec.weight for each in surveyed]
    # A weight by token is a share of tokens, and who has four times as many in a record is drawn a
    # quarter as often for it.
    drawn = [weight / size if size else 0.0 for weight, size in zip(weights, sizes, strict=True)]
    if not any(drawn):
        return []
    records = [len(each.each.source) for each in surveyed]
    samples = _parts(drawn)
    return [
        Share(each.each.name.partition("/")[2] or each.each.name, many, weight, part, seen, said,
              part * sum(records) / many)
        for each, many, weight, part, seen, said in zip(
            surveyed, records, weights, samples,
            _parts([a * (b or 0) for a, b in zip(samples, images, strict=True)]),
            _parts([a * (b or 0) for a, b in zip(samples, tokens, strict=True)]),
            strict=True,
        )
    ]  # fmt: skip


def _mean(counts) -> float | None:
    return _sum(counts) / sum(counts.values()) if counts else None


def _parts(values: list[float]) -> list[float] | list[None]:
    whole = sum(values)
    return [value / whole for value in values] if whole else [None] * len(values)


def group_by_stage(surveyed: Sequence[Surveyed]) -> list[tuple[StageSpec | None, list[Surveyed]]]:
    """The sources by stage, in the order of the recipe; one group without a recipe."""
    groups: list[tuple[StageSpec | None, list[Surveyed]]] = []
    for each in surveyed:
        if not groups or groups[-1][0] is not each.each.stage:
            groups.append((each.each.stage, []))
        groups[-1][1].append(each)
    return groups


def show(surveyed: Sequence[Surveyed], console: Console) -> None:
    """All figures on the terminal, stage by stage."""
    for stage, group in group_by_stage(surveyed):
        for each in group:
            show_findings(each, console)
        if stage is not None and len(group) > 1 and (parts := shares(stage, group)):
            console.print(f"\nmixture of {stage.name}, by {stage.mixture.by}", style="bold")
            console.print(_table(parts))


def _table(parts: list[Share]) -> Table:
    table = Table("source", box=None, padding=(0, 2))
    for name in ("records", "weight", "samples", "images", "tokens", "epochs"):
        table.add_column(name, justify="right")
    for part in parts:
        told = [percent(value) for value in (part.samples, part.images, part.tokens)]
        table.add_row(
            part.name, f"{part.records:,}", f"{part.weight:g}", *told, f"{part.epochs:.2f}"
        )
    return table


def percent(share: float | None) -> str:
    """A share for people, – where it is unknown."""
    return "–" if share is None else f"{share:.1%}"


def show_findings(surveyed: Surveyed, console: Console) -> None:
    """Figures of a source with histograms, and its errors by reason."""
    each, found = surveyed.each, surveyed.found
    console.print(f"\n{each.name}: {len(each.source):,} records, {each.found}", style="bold")
    if surveyed.counted:
        console.print(Text(f"  {surveyed.counted}", "dim"))
    for name, many in facts(surveyed).items():
        console.print(f"  {name:28} {many:,}" if isinstance(many, int) else f"  {name:28} {many}")
    for shown in histograms(found):
        console.print(f"\n  {shown.title}: {shown.summary}")
        for bar in shown.bars:
            console.print(f"  {bar.name:>17} {'█' * round(BAR * shown.share(bar))} {bar.many:,}")
    for group in found.groups(3):
        console.print(Text(f"  equal records: {', '.join(map(str, group[:8]))}", "yellow"))
    for _, message in found.errors[:ERRORS]:
        console.print(Text(f"  {message}", "red"))
    if len(found.errors) > ERRORS:
        console.print(f"  … and {len(found.errors) - ERRORS:,} more (`check` writes all)")


def write_report(surveyed: Sequence[Surveyed], path: Path) -> None:
    """All figures, and one line for each record that cannot be used, as JSON."""
    report = [
        {
            "source": each.each.name,
            "spec": each.each.spec.model_dump(),
            "records": len(each.each.source),
            **facts(each),
            "equal records": each.found.groups(),
            "errors": [
                {"record": number, "reason": why} for number, why in sorted(each.found.errors)
            ],
        }
        for each in surveyed
    ]
    atomic_write(path, json.dumps(report, indent=1, ensure_ascii=False))


def write_figures(title: str, surveyed: Sequence[Surveyed], path: Path) -> None:
    """All figures as one HTML file that needs nothing else."""
    groups = [
        (
            stage,
            [] if stage is None or len(group) < 2 else shares(stage, group),
            [
                (each, facts(each), histograms(each.found), each.found.groups(), _errors(each))
                for each in group
            ],
        )
        for stage, group in group_by_stage(surveyed)
    ]
    page = render_page(
        "apps/data/figures.html", title=title, groups=groups, percent=percent, shown=ERRORS
    )
    atomic_write(path, page)


def _errors(surveyed: Surveyed) -> list[tuple[int, str]]:
    return sorted(surveyed.found.errors)
