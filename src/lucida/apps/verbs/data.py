"""The verbs about data: show, stats, check, split and leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import app, guarded
from lucida.core.progress import output

data = typer.Typer(no_args_is_help=True, help="Look at data: show, stats, check, split, leaks.")
app.add_typer(data, name="data")

What = Annotated[
    str, typer.Argument(metavar="SOURCE|RECIPE", help="A file, folder or pattern; or a recipe.")
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value]…",
        help="Fields of the source, such as kind=pairs; or changes to the recipe.",
    ),
]


@data.command()
@guarded
def show(
    what: What,
    fields: Fields = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each source.")] = 3,
    begin: Annotated[int, typer.Option("--from", min=0, help="First record.")] = 0,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page instead, with pictures.")
    ] = None,
) -> None:
    """Show samples with their pictures."""
    from lucida.apps.data.guess import open_sources
    from lucida.apps.data.show import beyond, show_samples, write_page

    sources = open_sources(what, fields or [])
    numbers = [list(range(len(each.source))[begin : begin + samples]) for each in sources]
    if not any(numbers):
        raise beyond(begin, sources)
    if html is not None:
        write_page(sources, numbers, html)
        typer.echo(f"wrote {html}", err=True)
        return
    console = output()
    for each, chosen in zip(sources, numbers, strict=True):
        show_samples(each, chosen, console)


@data.command()
@guarded
def stats(
    what: What,
    fields: Fields = None,
    samples: Annotated[int, typer.Option(min=1, help="Records drawn of each source.")] = 10_000,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Count tokens of the text with it; a recipe has its own."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page as well, with charts.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Count text, tokens and pictures, what is cut, duplicates and unusable records."""
    from lucida.apps.data.figures import show, write_figures
    from lucida.apps.data.guess import open_sources
    from lucida.apps.data.survey import survey_sources

    found = survey_sources(
        open_sources(what, fields or [], every=True), samples, tokenizer, workers
    )
    show(found, output())
    if html is not None:
        write_figures(what, found, html)
        typer.echo(f"wrote {html}", err=True)


@data.command()
@guarded
def check(
    what: What,
    fields: Fields = None,
    report: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the report is written.")
    ] = Path("data-report.json"),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Read every record and picture once, in parallel; exit code 1 when one cannot be used.

    Records of a recipe are also encoded as each of its stages does: template, pictures, lengths.
    """
    from lucida.apps.data.figures import show_findings, write_report
    from lucida.apps.data.guess import open_sources
    from lucida.apps.data.survey import consequence, survey_sources

    console = output()
    sources = open_sources(what, fields or [], every=True)
    found = survey_sources(sources, None, None, workers, every=True)
    for each in found:
        show_findings(each, console)
        if told := consequence(each):
            console.print(f"  {told}", style="red", soft_wrap=True)
    write_report(found, report)
    typer.echo(f"wrote {report}", err=True)
    if any(each.found.errors for each in found):
        raise typer.Exit(1)


Workers = Annotated[int, typer.Option(min=1, help="Processes.")]


@data.command()
@guarded
def split(
    what: Annotated[str, typer.Argument(metavar="FILE", help="A file or pattern.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the parts.")],
    fields: Fields = None,
    shares: Annotated[str, typer.Option(help="Of train, validation and test.")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="Which groups go where.")] = 0,
    widest: Annotated[
        float, typer.Option(min=0.1, max=100, help="Widest 95% interval to accept, ± points.")
    ] = 10.0,
    skip: Annotated[bool, typer.Option(help="Leave records out that cannot be used.")] = False,
    workers: Workers = 2,
) -> None:
    """Split into train, validation and test that share no picture and no near-duplicate.

    Records stay as they are written; split.json says what belongs together and why.
    """
    from lucida.apps.data.split import describe, read_shares, split_file

    done = split_file(
        what, fields or [], out, read_shares(shares), seed, widest / 100, skip, workers
    )
    for line in describe(done):
        typer.echo(line)


@data.command()
@guarded
def leaks(
    what: Annotated[str, typer.Argument(metavar="RECIPE|FILE", help="What is trained on.")],
    against: Annotated[str, typer.Option(metavar="BENCHMARK|FILE", help="What is measured on.")],
    fields: Fields = None,
    published: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Published benchmarks; else LUCIDA_DATA."),
    ] = None,
    report: Annotated[
        Path, typer.Option(metavar="FILE", help="Where all of them are written.")
    ] = Path("leaks.json"),
    workers: Workers = 2,
) -> None:
    """Find pictures and questions that training and evaluation share; exit code 1 if there are any.

    Pictures are found again when they were resized, encoded again, made brighter or darker, or cut
    a little.
    """
    from lucida.apps.data.leaks import describe, find_leaks, write_leaks

    found = find_leaks(what, against, fields or [], published, workers)
    for line in describe(found):
        typer.echo(line)
    write_leaks(found, what, against, report)
    typer.echo(f"wrote {report}", err=True)
    if found.found:
        raise typer.Exit(1)
