"""Samples of sources, on the terminal and as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucida.apps.data.guess import Opened
from lucida.apps.drawn import Drawing, drawing, half_blocks
from lucida.core.errors import DataError
from lucida.core.files import atomic_write
from lucida.core.pages import render_page
from lucida.data.reader import Reader, Unusable
from lucida.data.sample import ImagePart, Sample, Turn

OPENED = Reader(None, look=lambda sample, _: (sample, [image.load() for image in sample.images]))
"""Reads records as they are, with their pictures."""


def beyond(begin: int, sources: list[Opened]) -> DataError:
    """No source has a record number `begin`."""
    many = max(len(each.source) for each in sources)
    whose = sources[0].name if len(sources) == 1 else f"the largest of {len(sources)} sources"
    return DataError(
        f"there is no record {begin}",
        expected=f"--from 0 to {many - 1}" if many else "a source with records",
        given=f"--from {begin}",
        origin=f"{whose}: {many:,} records",
    )


def show_samples(each: Opened, numbers: list[int], console: Console) -> None:
    """Records of a source, with pictures where there is a terminal."""
    console.print(f"\n{each.name}: {len(each.source):,} records, {each.found}", style="bold")
    for line in left_out(each):
        console.print(Text(line, "yellow"))
    for number in numbers:
        record = OPENED.read("", each.source, number)
        if isinstance(record, Unusable):
            console.print(Text(f"record {number} cannot be used: {record.reason}", "red"))
            continue
        sample, pictures = record.seen
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
        for why, many in record.left_out.items():
            console.print(Text(f"left out: {many:,} × {why}", "yellow"))
        for turn in turns(sample):
            console.print(Text(f"{turn.role:9} ", "cyan") + Text(words(turn)))


def left_out(each: Opened) -> list[str]:
    """What a source leaves out of its files or does not read in them, a line for each reason."""
    told = {"filtered": "dropped", "noted": "noted"}
    return [
        f"{word}: {many:,} × {why}"
        for word, name in told.items()
        for why, many in getattr(each.source, name, {}).items()
    ]


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


class Laid(NamedTuple):
    """A record on a page: what is said about it, where it stands, its pictures, who says what."""

    note: str
    origin: str = ""
    pictures: Sequence[Drawing] = ()
    said: Sequence[tuple[str, str]] = ()


def lay_out(each: Opened, number: int, note: str = "") -> Laid:
    """A record for a page; of one that cannot be used, why."""
    record = OPENED.read("", each.source, number)
    if isinstance(record, Unusable):
        return Laid(f"record {number}: {record.reason}")
    sample, pictures = record.seen
    lost = [("left out:", f"{many:,} × {why}") for why, many in record.left_out.items()]
    return lay_sample(sample, pictures, note, lost)


def lay_sample(
    sample: Sample, pictures: Sequence[Image.Image], note: str = "", lost: Sequence = ()
) -> Laid:
    """A sample with its pictures for a page. lost: what was left out of it, and why."""
    said = [*lost, *((turn.role, words(turn)) for turn in turns(sample))]
    return Laid(note, sample.origin, [drawing(picture, "") for picture in pictures], said)


def write_page(sources: list[Opened], numbers: list[list[int]], path: Path) -> None:
    """Records of each source as one HTML file with the pictures inside."""
    groups = [
        (
            f"{each.name}: {len(each.source):,} records, {each.found}",
            left_out(each),
            [lay_out(each, number) for number in chosen],
        )
        for each, chosen in zip(sources, numbers, strict=True)
    ]
    write_groups(groups, path)


def write_groups(groups: list[tuple[str, list[str], list[Laid]]], path: Path) -> None:
    """Records below titles and lines of words, as one HTML file that needs nothing else."""
    atomic_write(path, render_page("apps/data/records.html", groups=groups))
