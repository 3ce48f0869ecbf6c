"""Samples and figures of sources, on the terminal and as a page that needs nothing else."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucida.apps.data.guess import Opened
from lucida.apps.data.survey import Findings
from lucida.apps.demo import half_blocks
from lucida.apps.inspect.page import drawing
from lucida.core.errors import DataError
from lucida.core.files import atomic_write
from lucida.data.sample import ImagePart, Sample, Turn

BINS = 8
BAR = 32


def show_samples(each: Opened, numbers: list[int], console: Console) -> None:
    """Records of a source, with pictures where there is a terminal."""
    console.print(f"\n{each.name}: {len(each.source):,} records, {each.found}", style="bold")
    for number in numbers:
        try:
            sample = each.source[number]
            pictures = [image.load() for image in sample.images]
        except DataError as error:
            console.print(Text(f"record {number} cannot be used: {error}", "red"))
            continue
        console.print(Text(f"\n{sample.origin}", "dim"))
        for place, picture in enumerate(pictures):
            width, height = picture.size
            console.print(
                Text(f"<{place}> {width} x {height}  {sample.images[place].origin}", "dim")
            )
        if console.is_terminal and pictures:
            row = Table.grid(padding=(0, 2))
            row.add_row(*(half_blocks(picture, 28) for picture in pictures[:4]))
            console.print(row)
        for turn in turns(sample):
            console.print(Text(f"{turn.role:9} ", "cyan") + Text(words(turn)))


def turns(sample: Sample) -> list[Turn]:
    """The stem, then the branches."""
    return [turn for branch in (sample.stem, *sample.branches) for turn in branch]


def words(turn: Turn) -> str:
    """A turn as people read it; `<0>` is the sample's first picture."""
    return "".join(
        part if isinstance(part, str) else f"<{part.index}>" if isinstance(part, ImagePart) else
        f"[box {part.x0:g} {part.y0:g} {part.x1:g} {part.y1:g}]"
        for part in turn.parts
    )  # fmt: skip


def write_page(sources: list[Opened], numbers: list[list[int]], path: Path) -> None:
    """Records of each source as one HTML file with the pictures inside."""
    body = []
    for each, chosen in zip(sources, numbers, strict=True):
        title = html.escape(f"{each.name}: {len(each.source):,} records, {each.found}")
        body.append(f"<h2>{title}</h2>")
        body += [_record(each, number) for number in chosen]
    style = (
        "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "section{border-top:1px solid #8886;padding:1rem 0}img{margin:0 .5rem .5rem 0}"
        "p{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0}b{color:#27c}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>Lucida data</title><style>{style}</style>"
    atomic_write(path, page + "\n".join(body))


def _record(each: Opened, number: int) -> str:
    try:
        sample = each.source[number]
        pictures = [drawing(image.load(), "") for image in sample.images]
    except DataError as error:
        return f"<section><p>record {number}: {html.escape(str(error))}</p></section>"
    shown = "".join(f'<img src="{p.data}" width="{p.width}" alt="">' for p in pictures)
    said = "".join(f"<p><b>{t.role}</b> {html.escape(words(t))}</p>" for t in turns(sample))
    return f"<section><small>{html.escape(sample.origin)}</small><div>{shown}</div>{said}</section>"


def show_findings(each: Opened, found: Findings, console: Console) -> None:
    """Figures of a source with histograms, and its errors by reason."""
    console.print(f"\n{each.name}: {len(each.source):,} records, {each.found}", style="bold")
    for name, many in facts(each, found).items():
        console.print(f"  {name:28} {many:,}" if isinstance(many, int) else f"  {name:28} {many}")
    for title, counts in (
        ("tokens of text in a sample", found.tokens),
        ("words in a sample", found.words),
        ("pictures in a sample", found.images),
        ("longest side of a picture", found.sides),
    ):
        if counts and not (title.startswith("words") and found.tokens):
            console.print(histogram(title, counts))
    for number, message in found.errors[:10]:
        console.print(Text(f"  record {number}: {message}", "red"))
    if len(found.errors) > 10:
        console.print(f"  … and {len(found.errors) - 10:,} more (--report writes all)")


def facts(each: Opened, found: Findings) -> dict[str, int | str]:
    """Counts of a source: read, unusable, duplicates, and what filters and transforms leave out."""
    bad = len(found.errors)
    facts: dict[str, int | str] = {
        "records read": found.read,
        "that cannot be used": f"{bad:,} ({bad / max(1, found.read):.2%})",
        "duplicates (picture, text)": found.duplicates,
        "pictures": sum(many * n for many, n in found.images.items()),
        "without pictures": found.images[0],
    }
    for why, many in getattr(each.source, "dropped", {}).items():
        facts[f"filtered: {why}"] = many
    for why, many in found.lost.items():
        facts[f"left out: {why}"] = many
    return facts


def histogram(title: str, counts: Counter[int]) -> str:
    """Bars of a count of values, with mean and quantiles.

    Worked example: values 1, 1, 2, 9 have the mean 3.2 and the median 1.
    """
    total = sum(counts.values())
    values = sorted(counts)
    low, high = values[0], values[-1]
    width = max(1, -(-(high - low + 1) // BINS))
    bins: Counter[int] = Counter()
    for value, many in counts.items():
        bins[(value - low) // width] += many
    mean = sum(value * many for value, many in counts.items()) / total
    lines = [
        f"\n  {title}: mean {mean:,.1f}, median {quantile(counts, 0.5):,}, "
        f"99% {quantile(counts, 0.99):,}, longest {high:,}"
    ]
    most = max(bins.values())
    for number in range(max(bins) + 1):
        begin = low + number * width
        name = f"{begin:,}" if width == 1 else f"{begin:,}–{min(high, begin + width - 1):,}"
        bar = "█" * round(BAR * bins[number] / most)
        lines.append(f"  {name:>15} {bar} {bins[number]:,}")
    return "\n".join(lines)


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that this share of all values does not exceed."""
    rest = share * sum(counts.values())
    for value in sorted(counts):
        rest -= counts[value]
        if rest <= 0:
            return value
    return max(counts)


def write_report(sources: list[Opened], findings: list[Findings], path: Path) -> None:
    """All figures, and one line for each record that cannot be used, as JSON."""
    report = [
        {
            "source": each.name,
            "spec": each.spec.model_dump(),
            "records": len(each.source),
            **facts(each, found),
            "errors": [{"record": number, "reason": why} for number, why in sorted(found.errors)],
        }
        for each, found in zip(sources, findings, strict=True)
    ]
    atomic_write(path, json.dumps(report, indent=1, ensure_ascii=False))
