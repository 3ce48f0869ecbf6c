"""The verbs about data: show, stats and check; split, near and leaks; hardest and blind; caption,
ask and rate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucida.apps.command import app, guarded
from lucida.core.errors import RunError

data = typer.Typer(no_args_is_help=True, help="Look at data, split it, let a model write some.")
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

Workers = Annotated[int, typer.Option(min=1, help="Processes.")]


def _beside(file: Path, suffix: str) -> Path:
    """The other file that is written with this one; RunError where it would be the same."""
    other = file.with_suffix(suffix)
    if other == file:
        raise RunError(
            f"a file that ends in {suffix} is written beside this one",
            expected="another ending",
            given=file,
        )
    return other


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
    from lucida.core.progress import output

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
    workers: Workers = 1,
) -> None:
    """Count text, tokens and pictures, what is cut, duplicates and unusable records."""
    from lucida.apps.data.figures import show, write_figures
    from lucida.apps.data.guess import open_sources
    from lucida.apps.data.survey import survey_sources
    from lucida.core.progress import output

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
    workers: Workers = 2,
) -> None:
    """Read every record and picture once, in parallel; exit code 1 when one cannot be used.

    Records of a recipe are also encoded as each of its stages does: template, pictures, lengths.
    """
    from lucida.apps.data.figures import show_findings, write_report
    from lucida.apps.data.guess import open_sources
    from lucida.apps.data.survey import consequence, survey_sources
    from lucida.core.progress import output

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
def near(
    what: What,
    fields: Fields = None,
    page: Annotated[
        Path, typer.Option("--html", metavar="FILE", help="The page; all groups in FILE.json.")
    ] = Path("near.html"),
    show: Annotated[int, typer.Option("--show", min=1, help="Groups on the page.")] = 30,
    workers: Workers = 2,
) -> None:
    """Find pictures and texts that are nearly the same, as a page with pictures.

    Inside each source and between those of a recipe.
    """
    from lucida.apps.data.alike import describe, find_alike, write_alike
    from lucida.apps.data.guess import open_sources

    report = _beside(page, ".json")
    sources = open_sources(what, fields or [])
    found = find_alike(sources, workers)
    for line in describe(found):
        typer.echo(line)
    write_alike(found, sources, show, page)
    typer.echo(f"wrote {page}, and all of them to {report}", err=True)


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
        Path, typer.Option(metavar="FILE", help="Where all of them are written; a page beside it.")
    ] = Path("leaks.json"),
    show: Annotated[int, typer.Option("--show", min=1, help="Leaks on the page.")] = 30,
    workers: Workers = 2,
) -> None:
    """Find pictures and questions that training and evaluation share; exit code 1 if there are any.

    Pictures are found again when they were resized, encoded again, made brighter or darker, or cut
    a little.
    """
    from lucida.apps.data.leaks import describe, find_leaks, write_leaks, write_page

    page = _beside(report, ".html")
    found = find_leaks(what, against, fields or [], published, workers)
    for line in describe(found):
        typer.echo(line)
    write_leaks(found, what, against, report)
    write_page(found, show, page)
    typer.echo(f"wrote {report} and {page}", err=True)
    if found.found:
        raise typer.Exit(1)


RunOf = Annotated[Path, typer.Argument(metavar="RUN", help="A trained run.")]
Spread = Annotated[
    int, typer.Option("--limit", min=1, help="Records of each source, spread over all of it.")
]
Shown = Annotated[int, typer.Option("--show", min=1, help="Records on the page.")]
Page = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", show_default="in the run folder")
]


@data.command()
@guarded
def hardest(
    run: RunOf,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="By how much larger the loss is than this run's."),
    ] = None,
    limit: Spread = 1000,
    show: Shown = 30,
    page: Page = None,
) -> None:
    """Find the records of a run's sources that it finds hardest, as a page with pictures."""
    from lucida.apps.data.known import find_hardest, write_hardest

    page = page or run / "hardest.html"
    rows = _beside(page, ".jsonl")
    sources, found = find_hardest(run, against, limit)
    write_hardest(sources, found, show, page)
    for value, one in found.rows[:5]:
        typer.echo(f"{value:8.3f}  {sources[one.source].name}, record {one.number}")
    typer.echo(f"wrote {page}, and all of them to {rows}", err=True)


@data.command()
@guarded
def blind(run: RunOf, limit: Spread = 1000, show: Shown = 30, page: Page = None) -> None:
    """Find how many questions of a run's sources its blind model answers without the picture."""
    from lucida.apps.data.known import describe_blind, find_blind, write_blind

    sources, shares, solved = find_blind(run, limit)
    page = page or run / "blind-solved.html"
    write_blind(sources, shares, solved, show, page)
    for line in describe_blind(shares):
        typer.echo(line)
    typer.echo(f"wrote {page}", err=True)


By = Annotated[
    str,
    typer.Option(
        metavar="RUN|hf:MODEL|URL",
        help="Who answers: a run, a model of transformers, or an OpenAI-compatible endpoint.",
    ),
]
Written = Annotated[
    Path, typer.Option(metavar="FILE.jsonl", help="Where the new records are written.")
]
About = Annotated[str, typer.Argument(metavar="FILE|DIR", help="Records, or a folder of pictures.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Model of an endpoint.")]
Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="Other words to ask with.")]
Most = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first records.")]
Tokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]
Price = Annotated[
    str | None,
    typer.Option(metavar="IN,OUT", help="Price of a million tokens read, and written."),
]


@data.command()
@guarded
def caption(
    what: About,
    by: By,
    out: Written,
    fields: Fields = None,
    model: Model = None,
    prompt: Prompt = None,
    limit: Most = None,
    max_new_tokens: Tokens = 96,
    price: Price = None,
) -> None:
    """Let a model describe pictures; a source of kind `pairs`."""
    _make("caption", what, by, out, fields, model, prompt, limit, max_new_tokens, price)


@data.command()
@guarded
def ask(
    what: About,
    by: By,
    out: Written,
    fields: Fields = None,
    many: Annotated[int, typer.Option(min=1, max=20, help="Questions of each picture.")] = 3,
    model: Model = None,
    prompt: Prompt = None,
    limit: Most = None,
    max_new_tokens: Tokens = 256,
    price: Price = None,
) -> None:
    """Let a model write questions about pictures, with answers; a source of kind `questions`."""
    _make("ask", what, by, out, fields, model, prompt, limit, max_new_tokens, price, many)


@data.command()
@guarded
def rate(
    what: About,
    by: By,
    out: Written,
    fields: Fields = None,
    model: Model = None,
    prompt: Prompt = None,
    limit: Most = None,
    max_new_tokens: Tokens = 16,
    price: Price = None,
) -> None:
    """Let a model rate records from 1 to 5; mixtures filter by `at_least: {rating: 4}`."""
    _make("rate", what, by, out, fields, model, prompt, limit, max_new_tokens, price)


def _make(
    name: str,
    what: str,
    by: str,
    out: Path,
    fields: list[str] | None,
    model: str | None,
    prompt: str | None,
    limit: int | None,
    max_new_tokens: int,
    price: str | None,
    many: int = 3,
) -> None:
    """One of the verbs that ask a model."""
    from lucida.apps.answering import open_answerer
    from lucida.apps.data.making import describe, make_data, make_wish, open_records, read_prices

    wish, prices = make_wish(name, prompt, many), read_prices(price)
    open_records(what, fields or []).recipe_fields(wish)  # mistakes, before a model is loaded
    answerer = open_answerer(by, model)
    done = make_data(wish, what, fields or [], answerer, out, limit, max_new_tokens, prices)
    for line in describe(done):
        typer.echo(line)
