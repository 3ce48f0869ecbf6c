"""Samples of sources, on the terminal and as a page that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lucida.apps.data.guess import Opened
from lucida.apps.drawn import drawing, half_blocks
from lucida.core.errors import DataError
from lucida.core.files import atomic_write
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


def write_page(sources: list[Opened], numbers: list[list[int]], path: Path) -> None:
    """Records of each source as one HTML file with the pictures inside."""
    body = []
    for each, chosen in zip(sources, numbers, strict=True):
        title = html.escape(f"{each.name}: {len(each.source):,} records, {each.found}")
        body.append(f"<h2>{title}</h2>")
        body += [f"<p>{html.escape(line)}</p>" for line in left_out(each)]
        body += [record_section(each, number) for number in chosen]
    write_html(body, path)


def write_html(body: list[str], path: Path) -> None:
    """Pieces of HTML as one page that needs nothing else."""
    style = (
        "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "section{border-top:1px solid #8886;padding:1rem 0}img{margin:0 .5rem .5rem 0}"
        "p{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0}b{color:#27c}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>Lucida data</title><style>{style}</style>"
    atomic_write(path, page + "\n".join(body))


def record_section(each: Opened, number: int, note: str = "") -> str:
    """A record with its pictures and what it says, as HTML; `note` stands above it."""
    record = OPENED.read("", each.source, number)
    if isinstance(record, Unusable):
        return f"<section><p>record {number}: {html.escape(str(record.reason))}</p></section>"
    sample, pictures = record.seen
    drawn = [drawing(picture, "") for picture in pictures]
    shown = "".join(f'<img src="{p.data}" width="{p.width}" alt="">' for p in drawn)
    said = "".join(
        f"<p>left out: {n:,} × {html.escape(why)}</p>" for why, n in record.left_out.items()
    )
    said += "".join(f"<p><b>{t.role}</b> {html.escape(words(t))}</p>" for t in turns(sample))
    head = f"<p><strong>{html.escape(note)}</strong></p>" if note else ""
    head += f"<small>{html.escape(sample.origin)}</small>"
    return f"<section>{head}<div>{shown}</div>{said}</section>"
